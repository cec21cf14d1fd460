"""The model card of a checkpoint: what was trained on what, what it reaches, how to use it."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from emotion import outputs, targets
from emotion.rules import Rule
from emotion.run import Run
from emotion.statistics import RESAMPLES, show_interval

PREDICT = """    python predict.py DIR "a sentence"

with the repository that trained it, or without it:

"""
USE = {  # what opens a checkpoint where this repository is not installed
    "gpt_train.py": """    from peft import AutoPeftModelForCausalLM
    model = AutoPeftModelForCausalLM.from_pretrained("DIR")

`prompt.json` holds the words that it is asked with; `gpt_inference.py` of this repository has how
its answers become scores.""",
    "head": """    from peft import AutoPeftModelForCausalLM
    model = AutoPeftModelForCausalLM.from_pretrained("DIR")

`head.safetensors` is a linear layer on the state of the last token, a sigmoid for each label;
`prompt.json` holds the words around a text.""",
    "other": """    from transformers import pipeline
    classify = pipeline("text-classification", "DIR", top_k=None, truncation=True{trust})
    classify({"text": "a sentence", "text_pair": "its target, or leave this out"})

Each label has a sigmoid of its own; it is present where its score reaches the threshold (or,
where it says so, is the highest).""",
}
MERGED = """# A classifier of sequences

Of a model of type {base} and an adapter of `gpt_train.py`, merged. It is asked with the words that
it was trained with, which stand in its chat template too:

    from transformers import pipeline
    classify = pipeline("text-classification", "DIR", top_k=None, function_to_apply="{function}")
    classify({prefix!r} + text + {target!r} + target + {response!r})
    classify({prefix!r} + text + {response!r})  # without a target

A label is present from the threshold in `config.json` on (of a list, from the one in its place in
`id2label`); where `at_least_one` is true there, so is the most probable one of a text.

{read}{moved}
"""
MOVED = "\nScores lack a constant, and are not those of `gpt_inference.py`; decisions are the same."
NORMALISED = {
    True: """Texts were normalised in training, and are to be in use: characters that are not seen
go, blanks are folded, Unicode is NFC, runs of one mark or Hangul letter become two, names as
&name1& go. `normalise_text` of the repository's `utils.py` does it; so do its scripts.""",
    False: "Texts were read as they are.",
}
MARKED = {
    False: "The target is read beside the text.",
    True: """The target is read beside the text, and stands in it between `<<` and `>>`, where
its place is known: "the <<soup>> was cold", "soup".""",
}
STUDENT = """
Half of what it learnt are the labels, half the scores of an average of models, which had learnt
dev too: its figures of dev are hopeful."""
OF_NO_SCRIPT = "Its class, `{name}`, is in no script of the repository; what trained it opens it."
FOLDS = """
Train and dev together were parted in {folds}: part {fold} is the dev of the scores above, and the
others were learnt."""
CARD = """# {name}

Tells which of these labels a text shows: {labels}.
Trained by `{script}` from {base}.
Licence: to be filled in by its owner, as the data and the base model allow.

## Scores

At {rule}; intervals of 95 %, from {resamples:,} resamples of the sentences.

| | micro-F1 | macro-F1 |
| --- | --- | --- |
{scores}

## Data

| | file | lines | SHA-256 |
| --- | --- | --- | --- |
{files}

{read}

## Use

{use}

To share it: `huggingface_hub.create_repo("USER/NAME")`, then
`huggingface_hub.upload_folder(repo_id="USER/NAME", folder_path="DIR")`.
"""


def write(
    run: Run, labels: Sequence[str], rule: Rule, comparisons: Mapping[str, dict[str, Any]]
) -> None:
    """Write `best/README.md` of a training.

    Args:
        comparisons: of it alone, by labelled split, as of `statistics.compare`.
    """
    import transformers
    from huggingface_hub import ModelCard

    figures = {}
    for split, each in comparisons.items():
        [of_run] = each["systems"].values()
        figures[split] = {"micro-F1": of_run["micro_f1"], "macro-F1": of_run["macro_f1"]}
    files, arguments = run.record["data"], vars(run.args)
    base = None if os.path.exists(str(arguments["model"])) else arguments["model"]
    name = run.directory.resolve().name
    listed = [
        f"| {split} | {os.path.basename(file['file'])} | {file['lines']:,} | {file['sha256']} |"
        for split, file in files.items()
    ]
    scores = [
        f"| {split} | {show_interval(each['micro-F1'])} | {show_interval(each['macro-F1'])} |"
        for split, each in figures.items()
    ]
    asks = "head" if arguments.get("objective") == "head" else run.script
    use = PREDICT + USE.get(asks, USE["other"])
    carries_code = (run.directory / "best" / "modeling.py").exists()
    use = use.replace("{trust}", ", trust_remote_code=True" if carries_code else "")
    config = outputs.read_json(run.directory / "best" / "config.json")
    if config and not carries_code and not hasattr(transformers, config["architectures"][0]):
        use = OF_NO_SCRIPT.format(name=config["architectures"][0])
    read = how_texts_are_read(*targets.reading(run.args))
    read += STUDENT * bool(arguments.get("soft_labels"))
    if arguments.get("folds"):
        read += FOLDS.format_map(arguments)
    text = CARD.format(
        name=name,
        labels=", ".join(labels),
        script=run.script,
        base=base or "a local model; name it here",
        rule=rule,
        resamples=RESAMPLES,
        scores="\n".join(scores),
        files="\n".join(listed),
        read=read,
        use=use,
    )
    card = ModelCard(f"---\n{facts_of(run, name, base, figures).to_yaml()}\n---\n\n{text}")
    card.save(run.directory / "best" / "README.md")


def how_texts_are_read(normalises: bool, marks: Sequence[str] | None) -> str:
    """What a card says of how texts and targets are read; arguments as of `targets.read`."""
    return f"{NORMALISED[normalises]}\n{MARKED[marks is not None]}"


def facts_of(
    run: Run, name: str, base: str | None, figures: Mapping[str, Mapping[str, dict[str, float]]]
) -> Any:
    """The card's head, a `ModelCardData`."""
    from huggingface_hub import EvalResult, ModelCardData

    files, folds = run.record["data"], run.args.folds
    scored = {split: (os.path.basename(files[split]["file"]), split) for split in files}
    if folds:
        pooled = f"{scored['train'][0]} and {scored['dev'][0]}"
        scored["dev"] = pooled, f"part {run.args.fold} of {folds}"
    results = [
        EvalResult(
            task_type="text-classification",
            dataset_type="text",
            dataset_name=scored[split][0],
            dataset_split=scored[split][1],
            metric_type="f1",
            metric_name=f"{kind}, 95 % from {figure['low']:.3f} to {figure['high']:.3f}",
            metric_value=round(figure["value"], 4),
        )
        for split, each in figures.items()
        for kind, figure in each.items()
    ]
    return ModelCardData(
        base_model=base,
        library_name="peft" if run.script == "gpt_train.py" else "transformers",
        pipeline_tag="text-classification",
        tags=["emotion-analysis"],
        model_name=name,
        eval_results=results,
    )
