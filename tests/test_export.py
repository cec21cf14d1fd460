"""export.py: encoders as ONNX, and what predicts with them."""

import contextlib
import errno
import json
import re
import shutil
import signal
import sys

import causal_layouts
import numpy as np
import pytest
import torch
from conftest import EMOTIONS, assert_refused, call, make_row, write_rows
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from small_runs import GPT_NEOX
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import predict
import utils
from emotion import checkpoint, classifier, merge, onnx_model, outputs, rules, scoring
from emotion.prompt_words import make_strings

KINDS = {
    "cls": ("bert_plain.py",),
    "mean": ("bert_plain.py", "--pooling", "mean"),
    "last": ("bert_plain.py", "--pooling", "last"),
    "gru": ("bert_GRU.py",),
}
onnx = pytest.importorskip("onnxruntime", reason="of requirements-extra.txt")


@pytest.mark.parametrize("kind", KINDS)
def test_an_export_scores_as_its_checkpoint_does(kind, small, tmp_path):
    """In float32 to 1e-5, alone and in a batch; in int8 nearly; with the same rule and labels."""
    run = small.undisturbed(*KINDS[kind])
    outcome = call("export.py", run, tmp_path / "out")
    assert outcome.returncode == 0 and outcome.stderr == "", outcome.stderr
    rows = utils.read_corpus(small.corpus()[3])
    assert f"on {len(rows)} lines of 8 labels" in outcome.stdout
    assert outcome.stdout.endswith(f"  lines: {small.corpus()[3]}\n")
    mode = (tmp_path / "out").stat().st_mode & 0o666
    assert {each.stat().st_mode & 0o777 for each in tmp_path.rglob("*.*")} == {mode}
    texts, targets = ([row["input"][key] for row in rows] for key in ("form", "target"))

    def scores(path, **settings):
        results = predict.load(path, precision="fp32", **settings)(texts, targets)
        return np.array([list(each["scores"].values()) for each in results]), results

    expected, decided = scores(run)
    for settings in ({}, {"batch_size": 1}):
        found, results = scores(tmp_path / "out" / "fp32", **settings)
        assert np.abs(found - expected).max() < 1e-5
    assert [each["emotions"] for each in results] == [each["emotions"] for each in decided]
    int8, _ = scores(tmp_path / "out" / "int8")
    assert 0 < np.abs(int8 - expected).max() < 0.1
    sizes = [(tmp_path / "out" / k / "model.onnx").stat().st_size for k in ("fp32", "int8")]
    assert sizes[1] < sizes[0] / 2
    outcome = call("predict.py", tmp_path / "out" / "int8", "급식 최고", "--threshold", 0.3)
    assert list(json.loads(outcome.stdout)["scores"]) == list(EMOTIONS)
    told = f"was made by export.py; give {tmp_path / 'out' / 'fp32'} or "
    assert_refused(call("predict.py", tmp_path / "out", "글"), told)
    again = call("export.py", run, tmp_path / "out")
    assert_refused(again, "is there, and nothing is overwritten")


def test_what_cannot_be_exported_is_refused(small, tmp_path, monkeypatch):
    best = small.undisturbed("bert_plain.py") / "best"
    told = "its directory is not there"
    assert_refused(call("export.py", best, tmp_path / "no" / "out"), told)
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in best.iterdir():
        if file.suffix != ".safetensors":
            (broken / file.name).write_bytes(file.read_bytes())
    (broken / "model.onnx").write_text("nothing")
    assert_refused(call("predict.py", broken, "글"), "model.onnx: cannot be loaded")
    told = f"{broken}: is ONNX already; give the checkpoint that it was made from"
    assert_refused(call("export.py", broken, tmp_path / "out"), told)
    told = f"--model: {best} is no adapter, and has no base; leave it out"
    assert_refused(call("export.py", best, tmp_path / "out", "--model", GPT_NEOX), told)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "onnxruntime.quantization", None)
    assert_refused(call("export.py", best, tmp_path / "out"), "requirements-extra.txt")
    assert_refused(call("predict.py", broken, "글"), "needs onnxruntime")
    assert not (tmp_path / "out").exists()


def test_what_ends_an_export_is_told_as_what_it_is(small, tmp_path, monkeypatch):
    """A full disk with code 1, also where safetensors say so in an error of their own."""
    best, adapter = (
        small.undisturbed(*given) / "best"
        for given in (("bert_plain.py",), ("gpt_train.py", "--objective", "head"))
    )

    def ends_with(error, checkpoint, *told):
        def fail(*args, **kwargs):
            raise error

        monkeypatch.setattr(torch.onnx, "export", fail)
        monkeypatch.setattr(merge, "save_file", fail)
        outcome = call("export.py", checkpoint, tmp_path / "out")
        assert outcome.stderr.count("\n") == 1 and list(tmp_path.iterdir()) == [], outcome.stderr
        assert all(each in outcome.stderr for each in told), outcome.stderr
        return outcome.returncode

    assert ends_with(OSError(errno.ENOSPC, "No space left"), best, "No space left; mend") == 1
    assert ends_with(MemoryError(), best, "the memory is full; free some") == 1
    assert ends_with(ValueError("of a kind\n..."), best, "(ValueError: of a kind); take") == 2
    assert ends_with(SafetensorError("I/O error"), adapter, "out: cannot be written (I/O") == 1


def test_a_damaged_base_or_head_is_no_traceback(small, tmp_path):
    run, base = small.undisturbed("gpt_train.py", "--objective", "head"), tmp_path / "base"
    shutil.copytree(GPT_NEOX, base)
    (base / "model.safetensors").write_bytes((base / "model.safetensors").read_bytes()[:1000])
    outcome = call("export.py", run, tmp_path / "out", "--model", base)
    assert outcome.returncode == 2 and f"error: {base}: cannot be loaded: " in outcome.stderr
    shutil.copytree(run / "best", tmp_path / "best")
    (tmp_path / "best" / "head.safetensors").write_bytes(b"nothing")
    assert_refused(call("export.py", tmp_path / "best", tmp_path / "out"), "cannot be loaded: ")


def test_a_checkpoint_without_a_rule_is_exported_with_the_one_that_is_given(small, tmp_path):
    best = tmp_path / "best"
    shutil.copytree(small.undisturbed("bert_plain.py") / "best", best)
    (best / "decision.json").unlink()
    config = json.loads((best / "config.json").read_text(encoding="utf-8"))
    outputs.write_json(best / "config.json", {k: config[k] for k in config if k != "threshold"})
    outcome = call("export.py", ".", tmp_path / "out", cwd=best)
    assert_refused(outcome, "decision.json: is missing or broken; give a decision rule, as --thr")
    outcome = call("export.py", ".", tmp_path / "out", "--threshold", 0.25, cwd=best)
    assert outcome.returncode == 0, outcome.stderr
    for kind in onnx_model.KINDS:
        found = checkpoint.read_decision(tmp_path / "out" / kind, EMOTIONS, "auto")
        assert found == (rules.Rule(0.25, False), [])


def test_the_run_of_a_checkpoint_is_found_from_inside_it(small, tmp_path):
    run = small.undisturbed("bert_plain.py").resolve()
    for name, cwd in ((".", run / "best"), ("..", run / "best"), (".", run)):
        with contextlib.chdir(cwd):
            assert classifier.find(name) == run / "best"


def test_an_export_that_is_stopped_leaves_nothing(small, tmp_path, monkeypatch):
    best = small.undisturbed("bert_plain.py") / "best"
    monkeypatch.setattr(onnx_model, "write", lambda *given: signal.raise_signal(signal.SIGTERM))
    outcome = call("export.py", best, tmp_path / "out")
    assert outcome.returncode == 130, outcome.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_is_merged_in_bf16_and_looked_at_on_the_lines_that_are_given(small, tmp_path):
    run, lines = small.undisturbed("gpt_train.py", "--objective", "head"), small.corpus()[5]
    outcome = call("export.py", run, tmp_path / "out", "--lines", lines)
    assert outcome.returncode == 0 and outcome.stderr == "", outcome.stderr
    assert " in bf16; README.md" in outcome.stdout and outcome.stdout.endswith(f" ({lines})\n")
    moved = shutil.copytree(run, tmp_path / "moved")
    record = json.loads((moved / "run.json").read_text(encoding="utf-8"))
    record["data"]["dev"]["file"] = str(lines)  # another file has its name now
    (moved / "run.json").write_text(json.dumps(record), encoding="utf-8")
    outcome = call("export.py", moved, tmp_path / "again")
    assert outcome.stdout.endswith(f" ({utils.SAMPLE / 'dev.jsonl'})\n"), outcome.stderr
    weights = [load_file(each) for each in (tmp_path / "out").glob("*.safetensors")]
    assert {each.dtype for file in weights for each in file.values()} == {torch.bfloat16}


def test_an_adapter_that_is_no_plain_one_is_not_merged(small, tmp_path):
    shutil.copytree(small.undisturbed("gpt_train.py", "--objective", "head"), tmp_path / "run")
    file = tmp_path / "run" / "best" / "adapter_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    outputs.write_json(file, config | {"use_rslora": True})
    outcome = call("export.py", tmp_path / "run", tmp_path / "out")
    assert_refused(outcome, "has use_rslora, and plain LoRA alone is merged; ask it with")
    outputs.write_json(file, config)
    weights = load_file(file.parent / "adapter_model.safetensors")
    name = next(iter(weights)).partition(".lora_")[0]
    more = {f"{name}.lora_magnitude_vector.weight": torch.ones(4)}
    save_file(weights | more, file.parent / "adapter_model.safetensors")
    assert_refused(call("export.py", tmp_path / "run", tmp_path / "out"), "lora_magnitude_vector,")


@pytest.mark.parametrize(
    ("layout", "told"),
    [
        ("llama-4-bit", "its weights are quantised"),
        ("qwen3.5-composite", "is no part of both its classes, for text and for sequences"),
    ],
)
def test_a_base_that_is_quantised_or_laid_out_otherwise_is_not_merged(
    layout, told, small, tmp_path
):
    causal_layouts.build(layout, tmp_path / "model")
    arguments = small.arguments("gpt_train.py")
    arguments[1] = tmp_path / "model"
    flags = ["--objective", "head", "--epochs", 1, "--output-dir", tmp_path / "run"]
    trained = call("gpt_train.py", *arguments, *flags)
    assert trained.returncode == 0, trained.stderr
    outcome = call("export.py", tmp_path / "run", tmp_path / "out")
    assert_refused(outcome, f"{told}; it cannot be merged")


@pytest.mark.parametrize("objective", ["head", "multilabel"])
def test_an_adapter_on_the_head_is_merged_where_nothing_reads_that(objective, small, tmp_path):
    causal_layouts.build("qwen3", tmp_path / "model")
    arguments = small.arguments("gpt_train.py")
    arguments[1] = tmp_path / "model"
    flags = ["--target-modules", "lm_head", "q_proj", "--objective", objective, "--epochs", 1]
    trained = call("gpt_train.py", *arguments, *flags, "--output-dir", tmp_path / "run")
    assert trained.returncode == 0, trained.stderr
    file = tmp_path / "run" / "best" / "decision.json"
    outputs.write_json(file, json.loads(file.read_text()) | {"at_least_one": False})
    outcome = call("export.py", tmp_path / "run", tmp_path / "out")
    if objective == "head":
        assert outcome.returncode == 0, outcome.stderr
    else:
        assert_refused(outcome, "the adapter is on lm_head.weight too")


def test_a_head_of_another_name_is_found_among_buffers_of_old(small, tmp_path):
    """As the base of the published approach has: its files were written by a former library."""
    run = small.undisturbed("gpt_train.py", "--objective", "multilabel")
    shutil.copytree(GPT_NEOX, tmp_path / "base")
    weights = load_file(tmp_path / "base" / "model.safetensors")
    assert "embed_out.weight" in weights  # the class says lm_head.weight
    more = {"attention.masked_bias": torch.tensor(-1e9), "attention.bias": torch.ones(1, 1, 8, 8)}
    more = {f"gpt_neox.layers.0.{name}": tensor for name, tensor in more.items()}
    file = tmp_path / "base" / "model.safetensors"
    save_file(weights | more, file, {"format": "pt"})
    found, _ = checkpoint.check_adapter(run / "best", "auto")
    found = found._replace(rule=rules.Rule(0.5))
    scores = [
        merge.Merged(run / "best", str(base), found).score() for base in (GPT_NEOX, file.parent)
    ]
    assert torch.equal(scores[0][0], scores[1][0])
    scaled = found._replace(settings=found.settings | {"head_function": [0.5, 0.25, None]})
    rows, _ = merge.Merged(run / "best", str(GPT_NEOX), scaled).score()
    assert torch.equal(rows, scores[0][0] / 8)
    weights["head"] = weights.pop("embed_out.weight")
    save_file(weights | {"other": weights["head"].clone()}, file, {"format": "pt"})
    with pytest.raises(utils.InputError, match=r"its files have no lm_head\.weight; it cannot"):
        merge.Merged(run / "best", str(file.parent), found)


def test_a_merged_classifier_says_how_it_is_asked(small, tmp_path):
    """Its chat template gives training's tokens, BOS and emoji in labels with them."""
    causal_layouts.build("kanana", tmp_path / "model")
    labels = {"joy": "joy 😀", "anger": "anger 😡"}
    files = []
    for split in ("train", "dev"):
        rows = utils.read_corpus(small.corpus()[1 if split == "train" else 3])
        for row in rows:
            row["output"] = {told: row["output"][name] for name, told in labels.items()}
        files += [f"--{split}-file", write_rows(tmp_path / f"{split}.jsonl", rows)]
    flags = ["--objective", "head", "--target", "marked", "--epochs", 1, "--precision", "fp32"]
    given = ["--model", tmp_path / "model", *files, *flags, "--output-dir", tmp_path / "run"]
    assert call("gpt_train.py", *given).returncode == 0
    file = tmp_path / "run" / "best" / "decision.json"
    outputs.write_json(file, json.loads(file.read_text()) | {"at_least_one": False})
    outcome = call("export.py", tmp_path / "run", tmp_path / "out")
    assert outcome.returncode == 0, outcome.stderr
    found, base = checkpoint.check_adapter(file.parent, "auto")
    prompt = merge.Merged(file.parent, base, found).prompt
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    asked = tokenizer.apply_chat_template([{"role": "user", "content": "글"}], return_dict=False)
    assert asked == prompt.prefix_ids + prompt.encode([make_row(form="글", target=None)])[0]
    assert asked[0] == tokenizer.bos_token_id and "😡" in tokenizer.decode(asked)
    told = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "Texts were normalised in training" in told and "stands in it between `<<`" in told
    said = re.search(r"classify\((.+)\)  # without a target", told)[1]
    assert tokenizer(eval(said, {"text": "글"}))["input_ids"] == asked
    config = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert config["normalise_text"] is True and config["target_marks"] == ["<<", ">>"]


def test_a_base_of_other_measures_is_not_merged(small, tmp_path):
    run = small.undisturbed("gpt_train.py", "--objective", "head")
    shutil.copytree(GPT_NEOX, tmp_path / "base")
    file = tmp_path / "base" / "config.json"
    config = json.loads(file.read_text())
    outputs.write_json(file, config | {"num_hidden_layers": 1})
    outcome = call("export.py", run, tmp_path / "out", "--model", tmp_path / "base")
    warned, told = outcome.stderr.splitlines()
    assert outcome.returncode == 2 and "right only if their weights are alike" in warned
    assert "fits a base with num_hidden_layers 4, and" in told and "give another --model" in told


def test_an_answer_of_several_tokens_is_no_row_of_a_head(small, tmp_path):
    shutil.copytree(small.undisturbed("gpt_train.py"), tmp_path / "run")
    file = tmp_path / "run" / "best" / "prompt.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    settings["strings"]["answers"][0] += " 기쁨"
    outputs.write_json(file, settings)
    outcome = call("export.py", tmp_path / "run", tmp_path / "out")
    assert_refused(outcome, "answers of up to 2 tokens are no rows of a head")


@pytest.mark.parametrize(
    ("layout", "objective"),
    [
        *(("sample", objective) for objective in checkpoint.OBJECTIVES),
        *(("kanana", "answer"), ("gpt2", "answer"), ("qwen3", "multilabel"), ("qwen3", "head")),
        *(("gemma", "multilabel"), ("biogpt", "head")),  # which scale their embeddings
    ],
)
def test_an_adapter_becomes_an_ordinary_classifier(layout, objective, small, tmp_path):
    """In float32 its scores are those of gpt_inference.py, on the tokens that it was trained on."""
    arguments = small.arguments("gpt_train.py")
    if layout != "sample":
        causal_layouts.build(layout, tmp_path / "model")
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
        tokenizer.add_tokens(make_strings("ko", EMOTIONS)["answers"])  # each is one then
        tokenizer.save_pretrained(tmp_path / "model")
        arguments[1] = tmp_path / "model"
    flags = ["--objective", objective, "--epochs", 1, "--output-dir", tmp_path / "run"]
    given = [*arguments, *flags]
    trained = call("gpt_train.py", *given)
    assert trained.returncode == 0, trained.stderr
    outcome = call("export.py", tmp_path / "run", tmp_path / "out", "--dtype", "fp32")
    best = tmp_path / "run" / "best"
    if "cannot tell" in outcome.stderr:  # dev preferred at least one label: as it is told to
        assert_refused(outcome, f'write "at_least_one": false into {best / "decision.json"}')
        text = (best / "decision.json").read_text(encoding="utf-8")
        changed = text.replace('"at_least_one": true', '"at_least_one": false')
        (best / "decision.json").write_text(changed, encoding="utf-8")
        outcome = call("export.py", tmp_path / "run", tmp_path / "out", "--dtype", "fp32")
    assert outcome.returncode == 0 and outcome.stderr == "", outcome.stderr
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    assert list(model.config.id2label.values()) == list(EMOTIONS)
    found, base = checkpoint.check_adapter(best, "auto")
    merged = merge.Merged(best, base, found)
    rows = utils.read_corpus(small.corpus()[3])
    constant, logits = torch.tensor(merged.score()[1]), []
    with torch.inference_mode():
        for suffix in merged.prompt.encode(rows):
            input_ids = torch.tensor([merged.prompt.prefix_ids + suffix])
            logits.append(model(input_ids=input_ids).logits[0].double())
    logits = torch.stack(logits)
    scores = logits.softmax(-1) if objective == "answer" else (logits + constant).sigmoid()
    lines = (tmp_path / "run" / "dev.scores.jsonl").read_text().splitlines()
    expected = [list(json.loads(line)["scores"].values()) for line in lines]
    bound = 1e-5 if scoring.device().type == "cpu" else 1e-3  # a GPU rounds a base otherwise
    assert np.abs(scores.numpy() - expected).max() < bound
    decision = json.loads((tmp_path / "out" / "decision.json").read_text())
    given = logits.softmax(-1) if objective == "answer" else logits.sigmoid()
    rule = rules.Rule(decision["threshold"], decision["at_least_one"])
    assert (rule(given.numpy()) == found.rule(np.array(expected))).all()
    assert "pipeline" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    told = "is asked as its README.md says; give the checkpoint that it was made from"
    assert_refused(call("predict.py", tmp_path / "out", "글"), told)
    text = f"{merged.settings['strings']['prefix']}글{merged.settings['strings']['response']}"
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    asked = tokenizer.apply_chat_template([{"role": "user", "content": "글"}], tokenize=False)
    assert asked.removeprefix(tokenizer.bos_token or "") == text
