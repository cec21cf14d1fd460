"""From a trained model to the emotions of any text: predict.py, and checkpoints opened alone."""

import csv
import io
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
import unicodedata

import httpx2
import huggingface_hub
import numpy as np
import pytest
from conftest import EMOTIONS, ROOT, assert_refused, call, make_row, write_rows
from huggingface_hub.errors import LocalEntryNotFoundError
from small_runs import GPT_NEOX, MODELS, ROBERTA
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

import predict
import utils
from emotion import checkpoint, outputs, texts

KINDS = {  # a checkpoint of each kind: script and further arguments
    "cls": ("bert_plain.py",),
    "mean": ("bert_plain.py", "--pooling", "mean"),
    "last": ("bert_plain.py", "--pooling", "last"),
    "gru": ("bert_GRU.py",),
    "gpt": ("gpt_train.py",),
    "as it is": ("bert_plain.py", "--normalise", "off"),
    "gpt as it is": ("gpt_train.py", "--normalise", "off"),
}
TEXTS = ["오늘 급식 최고", "너무 무섭다 ㅋㅋㅋㅋ", "그냥 그렇다"]
ENCODERS = ["cls", "mean", "last", "gru"]


@pytest.fixture(params=KINDS)
def run(request, small):
    """The output directory of a run of each kind."""
    return small.undisturbed(*KINDS[request.param])


def scores_in(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    return [list(json.loads(line)["scores"].values()) for line in lines]


def test_scores_are_those_of_the_scripts(run, small, tmp_path):
    """To the last digit; from the run, from its best/, and from a corpus file."""
    rows = utils.read_corpus(small.corpus()[3])
    texts = [row["input"]["form"] for row in rows]
    targets = [row["input"]["target"] for row in rows]
    expected = scores_in(run / "dev.scores.jsonl")
    for path in (run, run / "best"):
        classify = predict.load(path, precision="fp32")
        results = classify(texts, targets)
        assert [list(each["scores"].values()) for each in results] == expected
        assert [each["text"] for each in results] == texts
    decided = [json.loads(line)["output"] for line in (run / "dev.jsonl").open(encoding="utf-8")]
    present = [[name for name in EMOTIONS if each[name] == "True"] for each in decided]
    assert [each["emotions"] for each in results] == present
    flags = "--input", small.corpus()[3], "--output", tmp_path / "out.jsonl", "--precision", "fp32"
    assert call("predict.py", run, *flags).returncode == 0
    assert scores_in(tmp_path / "out.jsonl") == expected
    written = utils.read_corpus(tmp_path / "out.jsonl", labelled=True)
    assert [row["output"] for row in written] == decided
    assert [row["input"] for row in written] == [row["input"] for row in rows]


def test_how_texts_are_read_is_kept_with_the_checkpoint(small):
    for kind in ("as it is", "gpt as it is"):
        run = small.undisturbed(*KINDS[kind])
        assert "Texts were read as they are." in (run / "best" / "README.md").read_text()
        classify = predict.load(run, precision="fp32")
        one, two = (each["scores"] for each in classify(["급식 최고!!!!!", "급식 최고!!"]))
        assert one != two
    read = predict.load(small.undisturbed(*KINDS["cls"]), precision="fp32")
    one, two = (each["scores"] for each in read(["급식 최고!!!!!", "급식 최고!!"]))
    assert one == two


def test_an_average_predicts_as_it_was_averaged(small, tmp_path):
    runs = [small.undisturbed(*KINDS[kind]) for kind in ("cls", "gru", "gpt")]
    average = tmp_path / "average"
    flags = "--weights", "tuned", "--resamples", 100, "--output-dir", average
    assert call("ensemble.py", *runs, *flags).returncode == 0
    rows = utils.read_corpus(small.corpus()[3])
    flags = "--input", small.corpus()[3], "--output", tmp_path / "out.jsonl", "--precision", "fp32"
    assert call("predict.py", average, *flags).returncode == 0
    found, expected = (
        np.array(scores_in(path)) for path in (tmp_path / "out.jsonl", average / "dev.scores.jsonl")
    )
    assert abs(found - expected).max() < 2e-6 and len(found) == len(rows)
    moved = json.loads((average / "run.json").read_text())
    moved["members"][0]["run"] = "nowhere"
    (average / "run.json").write_text(json.dumps(moved))
    assert_refused(call("predict.py", average, "글"), "nowhere: was averaged, and is not there")


def test_an_average_of_predictions_opens_behind_a_link_and_without_labels(small, tmp_path):
    """Its members are what predicted; its rule is the threshold that was given."""
    unlabelled = [make_row(str(n), labels=None) for n in range(4)]
    file = write_rows(tmp_path / "unlabelled.jsonl", unlabelled)
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "away")
    members = []
    for script in ("bert_plain.py", "bert_GRU.py"):
        run, output = small.undisturbed(script), tmp_path / script
        where = ["--model-ckpt-path", "best", "--test-file", file, "--output-dir", output]
        outcome = call(script, *where, "--precision", "fp32", "--tune", "macro", cwd=run)
        assert outcome.returncode == 0
        assert "warning: --tune is for training; what the checkpoint was" in outcome.stdout
        assert outcome.stdout.count("warning: ") == 1
        members.append(output)
    average = tmp_path / "link" / "average"
    flags = "--threshold", 0.2, "--output-dir", average
    assert call("ensemble.py", *members, *flags).returncode == 0
    expected = scores_in(average / "test.scores.jsonl")
    rows = [row["input"] for row in unlabelled]
    results = predict.load(average, precision="fp32")(
        [each["form"] for each in rows], [each["target"] for each in rows]
    )
    found = [list(each["scores"].values()) for each in results]
    assert np.abs(np.array(found) - expected).max() < 2e-6
    assert results[0]["emotions"] == [n for n, it in results[0]["scores"].items() if it >= 0.2]


def test_sentences_give_json_lines_in_a_pipe_and_a_table_on_a_terminal(small):
    best = small.undisturbed("bert_plain.py") / "best"
    outcome = call("predict.py", best, *TEXTS, "--target", "급식", "--threshold", 0.4)
    assert outcome.returncode == 0 and outcome.stderr == ""
    results = list(map(json.loads, outcome.stdout.splitlines()))
    assert [each["text"] for each in results] == TEXTS
    assert {each["target"] for each in results} == {"급식"}
    for each in results:
        assert list(each["scores"]) == list(EMOTIONS)
        assert each["emotions"] == [name for name, it in each["scores"].items() if it >= 0.4]
    for given in (
        ["--", best, "-급식"],
        [best, "--target", "급식", "--", "-급식"],
        ["--threshold", 1, best, "급식"],
    ):
        assert call("predict.py", *given).returncode == 0, given
    outside, terminal = pty.openpty()
    command = [sys.executable, ROOT / "predict.py", best, TEXTS[0], "--threshold", "0.4"]
    subprocess.run(list(map(str, command)), stdout=terminal, check=True)
    os.close(terminal)
    drawn = os.read(outside, 100_000).decode().splitlines()
    assert drawn[0] == TEXTS[0] and len(drawn) == 9 and "█" in "".join(drawn)
    marked = [line.split()[1] for line in drawn[1:] if line.strip().startswith("*")]
    [again] = predict.load(best, threshold=0.4)([TEXTS[0]])
    assert marked == again["emotions"]


def test_standard_input_is_written_as_it_comes(small):
    """A text a line; a line without a text keeps its place; a closed pipe is no error."""
    best = small.undisturbed("bert_plain.py") / "best"
    command = [sys.executable, str(ROOT / "predict.py"), str(best)]
    given = "\r\n".join([TEXTS[0], "", "\u200b", *TEXTS[1:]])
    process = subprocess.run(command, input=given.encode(), capture_output=True, check=True)
    results = list(map(json.loads, process.stdout.decode().splitlines()))
    assert [each["text"] for each in results] == [TEXTS[0], "", "\u200b", *TEXTS[1:]]
    assert [each["emotions"] for each in results[1:3]] == [[], []]
    assert set(results[1]["scores"].values()) == {None} and process.stderr == b""
    window = ("\n".join(["급식"] * (texts.WINDOW + 1)) + "\n").encode()
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdin.write(window)
        process.stdin.flush()
        assert process.stdout.readline()  # before all has been read
        process.stdout.close()
        try:
            process.stdin.write(window * 3)
            process.stdin.close()
        except BrokenPipeError:
            pass
        assert process.stderr.read() == b"" and process.wait() == 0


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_a_table_comes_back_with_its_own_columns_and_more(small, tmp_path, ending):
    best, mark = small.undisturbed("bert_plain.py") / "best", {"csv": ",", "tsv": "\t"}[ending]
    own = [
        ["번호", "문장", "joy"],
        ["1", '오늘, "급식"\n최고', "x"],
        ["2", "", ""],
        ["3", "무섭다", "y"],
    ]
    with (tmp_path / f"in.{ending}").open("w", encoding="cp949", newline="") as file:
        csv.writer(file, delimiter=mark).writerows(own)
    out = tmp_path / f"out.{ending}"
    outcome = call("predict.py", best, "--input", tmp_path / f"in.{ending}", "--output", out)
    assert outcome.returncode == 0 and "read as cp949" in outcome.stderr
    with out.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter=mark))
    assert [row[:3] for row in rows] == own
    assert rows[0][3:] == ["emotions", "joy (predicted)", *EMOTIONS[1:]]
    assert rows[2][3:] == [""] * 9
    results = predict.load(best)([own[1][1], own[3][1]])
    for row, result in zip((rows[1], rows[3]), results, strict=True):
        assert row[3] == ",".join(result["emotions"])
        assert list(map(float, row[4:])) == list(result["scores"].values())
    again = call("predict.py", best, "--input", tmp_path / f"in.{ending}", "--output", out)
    assert_refused(again, out, "nothing is overwritten")


def test_columns_and_formats_can_be_named(small, tmp_path):
    best = small.undisturbed("bert_plain.py") / "best"
    table, plain = tmp_path / "in.data", tmp_path / "in.txt"
    about = unicodedata.normalize("NFD", "대상")  # as macOS writes it; it comes back so
    table.write_text(f"review,{about},text\n오늘 급식 최고,급식,x\n", encoding="utf-8")
    plain.write_text("\n".join(TEXTS), encoding="utf-8")
    flags = "--format", "csv", "--text-column", "review", "--target-column", "대상"
    outcome = call("predict.py", best, "--input", table, *flags)
    [cells] = csv.DictReader(io.StringIO(outcome.stdout))
    assert list(cells)[:3] == ["review", about, "text"]
    [result] = predict.load(best)(["오늘 급식 최고"], ["급식"])
    assert [float(cells[name]) for name in EMOTIONS] == list(result["scores"].values())
    lines = call("predict.py", best, "--input", plain).stdout.splitlines()
    assert [json.loads(line)["text"] for line in lines] == TEXTS


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["no/such/model", "글"], "error: no/such/model: neither"),
        (["{best}", "글", "--input", "x.csv"], "sentences and --input: give one of them"),
        (["{best}", "--input", "no.csv"], "no.csv: cannot be read"),
        (["{best}", "--input", "{odd}"], "of what form is it? give --format"),
        (["{best}", "--input", "{odd}", "--format", "csv"], "has no column 'text or form"),
        (["{best}", "--input", "{odd}", "--format", "csv"], "names columns, parted by ','"),
        (["{best}", "--target", "표", "글", "--input", "x.csv"], "give one of them"),
        (["{best}", "--input", "{odd}", "--format", "jsonl"], "line 1: is not JSON"),
        (["{tokenizer}", "글"], "is no checkpoint"),
        (["{base}", "글"], "knows no labels, as a base model; give best/ of a run"),
        (["{best}", "--input", "l.txt", "--output", "l.csv"], "those on plain lines as JSON Lines"),
        (["{best}", "글", "--threshold", "2"], "--threshold"),
    ],
)
def test_what_cannot_be_predicted_is_told_in_one_line(small, tmp_path, arguments, told):
    best = small.undisturbed("bert_plain.py") / "best"
    (tmp_path / "odd.file").write_text("a,b\n1,2\n", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    places = {"best": best, "odd": tmp_path / "odd.file", "tokenizer": tmp_path / "empty"}
    places["base"] = ROBERTA
    outcome = call("predict.py", *(each.format(**places) for each in arguments))
    assert outcome.returncode == 2 and told in outcome.stderr, outcome.stderr
    assert outcome.stdout == "" and outcome.stderr.count("\n") == 1


def test_one_sentence_needs_no_library_of_training(small):
    """Trainer, accelerate, peft and scikit-learn take longer to import than a sentence to score."""
    best = small.undisturbed("bert_plain.py") / "best"
    code = "import sys, predict; predict.load(sys.argv[1])(['글']); print(*sys.modules)"
    command = [sys.executable, "-c", code, str(best)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    imported = set(process.stdout.split())
    assert "transformers" in imported
    for name in ("peft", "sklearn", "bitsandbytes", "transformers.trainer"):
        assert name not in imported


# A checkpoint opened where this repository is not installed

ALONE = """
import json, sys
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline
best, texts = sys.argv[1], json.loads(sys.argv[2])
assert not any(path == sys.argv[3] for path in sys.path)
trusted = {"trust_remote_code": sys.argv[4] == "True"}
classify = pipeline("text-classification", best, top_k=None, device="cpu", **trusted)
pairs = [{"text": text, "text_pair": pair} if pair else {"text": text} for text, pair in texts]
found = [classify(pair) for pair in pairs]
found = [each[0] if isinstance(each[0], list) else each for each in found]
model = AutoModelForSequenceClassification.from_pretrained(best, **trusted)
print(json.dumps([{each["label"]: each["score"] for each in line} for line in found]))
print(model.config.threshold, list(model.config.id2label.values()))
"""


@pytest.mark.parametrize("kind", ENCODERS)
def test_best_opens_without_this_repository(kind, small, tmp_path):
    best = small.undisturbed(*KINDS[kind]) / "best"
    pairs = [["오늘 급식 최고", "급식"], ["너무 무섭다", None]]
    trusts = kind != "cls"
    assert (best / "modeling.py").exists() == trusts
    command = [sys.executable, "-I", "-c", ALONE, best, json.dumps(pairs), ROOT, trusts]
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    process = subprocess.run(
        list(map(str, command)), cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    found, (threshold, labels) = (
        json.loads(process.stdout.splitlines()[0]),
        process.stdout.splitlines()[1].split(" ", 1),
    )
    expected = predict.load(best, precision="fp32")(*map(list, zip(*pairs, strict=True)))
    for one, other in zip(found, expected, strict=True):
        for name in EMOTIONS:
            assert abs(one[name] - other["scores"][name]) < 1e-5
    decision = json.loads((best / "decision.json").read_text())
    assert float(threshold) == decision["threshold"] and labels == str(list(EMOTIONS))


def test_the_card_says_what_it_was_trained_on_and_how_to_use_it(run):
    card = (run / "best" / "README.md").read_text(encoding="utf-8")
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    for split, file in record["data"].items():
        assert f"| {split} | {split}.jsonl | {file['lines']} | {file['sha256']} |" in card
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert f"value: {round(metrics['dev']['micro_f1'], 4)}" in card
    assert f"| dev | {metrics['dev']['micro_f1']:.3f} [" in card
    assert ", ".join(EMOTIONS) in card and str(ROOT) not in card and "base_model" not in card
    assert "Licence: to be filled in" in card and "python predict.py DIR" in card


# Labels are data

LABELS = {
    "two, which transformers leaves out of config.json": ["LABEL_0", "LABEL_1"],
    "three, with a blank and a keyword": ["not so good", "class", "none"],
    "28": [f"label {number}" for number in range(28)],
    "44": [f"감정-{number}" for number in range(43)] + ["없음"],
}


@pytest.mark.parametrize("script", ["bert_plain.py", "gpt_train.py"])
@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_labels_are_those_of_the_training_file(script, labels, tmp_path):
    """Of the first training row, in its order; one a line here, as of a polarity."""
    rows = [
        make_row(str(n), f"{n} 번째 급식", "급식")
        | {"output": {name: str(index == n % len(labels)) for index, name in enumerate(labels)}}
        for n in range(48)
    ]
    train, out = write_rows(tmp_path / "train.jsonl", rows), tmp_path / "out"
    dev = write_rows(tmp_path / "dev.jsonl", rows[:12])
    flags = ["--model", MODELS[script], "--epochs", 1, "--precision", "fp32", "--output-dir", out]
    flags += ["--max-length", 1024] if script == "gpt_train.py" else []
    outcome = call(script, "--train-file", train, "--dev-file", dev, *flags)
    assert outcome.returncode == 0, outcome.stderr
    assert json.loads((out / "best" / "decision.json").read_text())["labels"] == labels
    reordered = [
        row | {"output": dict(reversed(row["output"].items()))} for row in rows[:12]
    ]  # the same labels in another order are measured
    other = write_rows(tmp_path / "other.jsonl", reordered)
    again = script.replace("train", "inference")
    best = ["--model-ckpt-path", out / "best", "--output-dir", tmp_path / "again"]
    outcome = call(again, *best, "--dev-file", other, "--precision", "fp32")
    assert outcome.returncode == 0, outcome.stderr
    one, two = (
        json.loads((path / "metrics.json").read_text())["dev"] for path in (out, tmp_path / "again")
    )
    assert one == two and list(one["per_emotion"]) == labels
    [result] = predict.load(out)(["급식"])
    assert list(result["scores"]) == labels


def test_answers_can_be_given(small, tmp_path):
    answers, out = tmp_path / "answers.json", tmp_path / "out"
    answers.write_text('{"joy": "좋음", "anger": "화"}', encoding="utf-8")
    arguments = [*small.arguments("gpt_train.py"), "--output-dir", out]
    outcome = call("gpt_train.py", *arguments, "--answers", answers)
    assert outcome.returncode == 0, outcome.stderr
    strings = json.loads((out / "best" / "prompt.json").read_text())["strings"]
    asked = [each.strip() for each in strings["answers"]]
    assert asked == ["좋음", "기대", "신뢰", "깜짝", "혐오", "공포", "화", "슬픔", "없음"]
    assert "좋음, 기대" in strings["prefix"] and "tokens of answers: 좋음 " in outcome.stdout
    for content, told in (("[]", "is no JSON object"), ('{"glee": "x"}', "'glee' is no label")):
        answers.write_text(content, encoding="utf-8")
        outcome = call("gpt_train.py", *arguments[:-1], tmp_path / "no", "--answers", answers)
        assert_refused(outcome, f"--answers {answers}: {told}")


def test_an_adapter_goes_on_where_it_was(small, tmp_path):
    """With a rate of next to nothing the second training ends with the scores of the first."""
    first = small.undisturbed("gpt_train.py")
    arguments = [*small.arguments("gpt_train.py"), "--output-dir", tmp_path / "out"]
    changes = ["--adapter", first / "best", "--lr", "1e-12", "--epochs", 1, "--alpha", 64]
    outcome = call("gpt_train.py", *arguments, *changes)
    assert outcome.returncode == 0, outcome.stderr
    one, two = (
        np.array(scores_in(path / "dev.scores.jsonl")) for path in (first, tmp_path / "out")
    )
    assert abs(one - two).max() < 1e-5
    for adapter in (MODELS["gpt_train.py"], "nowhere", first):  # a run, and not its best/
        outcome = call("gpt_train.py", *arguments[:-1], tmp_path / "no", "--adapter", adapter)
        assert_refused(outcome, f"--adapter {adapter}: cannot be loaded: no adapter_config.json")
    shutil.copytree(first / "best", tmp_path / "pissa")
    file = tmp_path / "pissa" / "adapter_config.json"
    outputs.write_json(file, outputs.read_json(file) | {"init_lora_weights": "pissa"})
    outcome = call("gpt_train.py", *arguments[:-1], tmp_path / "no", "--adapter", file.parent)
    assert_refused(outcome, "begins as pissa does, which 4 bits do not allow")


def test_a_second_training_goes_on_from_the_first(small, tmp_path):
    for kind in ENCODERS:
        script, *more = KINDS[kind]
        first, out = small.undisturbed(script, *more), tmp_path / kind
        arguments = [
            *small.arguments(script),
            *more,
            "--output-dir",
            out,
            "--model",
            first / "best",
        ]
        outcome = call(script, *arguments, "--lr", "1e-12", "--epochs", 1)
        assert outcome.returncode == 0 and "for the 0 new weights" in outcome.stdout, outcome.stderr
        one, two = (np.array(scores_in(path / "dev.scores.jsonl")) for path in (first, out))
        assert abs(one - two).max() < 1e-5, kind


def test_a_broken_rule_is_refused_and_one_of_another_editor_read(small, tmp_path):
    best = tmp_path / "best"
    shutil.copytree(small.undisturbed("bert_plain.py") / "best", best)
    text = (best / "decision.json").read_text(encoding="utf-8")
    edited = json.dumps(json.loads(text) | {"threshold": 0.99, "at_least_one": False})
    (best / "decision.json").write_text(edited, encoding="utf-8-sig")
    (tmp_path / "run.json").write_text("[1]")  # of what is no run
    assert predict.load(best)(TEXTS)[0]["emotions"] == []
    (best / "decision.json").write_text(edited[:-1] + ",}", encoding="utf-8")
    asked = "predict.py", best, "글"
    assert_refused(call(*asked), "decision.json: is missing or broken; give a decision rule, as ")
    outputs.write_json(tmp_path / "run.json", {"seed": 42})  # of a run that has not ended
    assert_refused(call(*asked), "decision.json: is missing or broken; let its run end (--resume)")


def test_the_import_takes_what_it_says_and_refuses_the_rest(small):
    best = small.undisturbed("bert_plain.py") / "best"
    assert predict.load(best, threshold=1)(TEXTS)[0]["emotions"] == []
    assert len(predict.load(best, threshold=0)(TEXTS)[0]["emotions"]) == len(EMOTIONS)
    for name, value in (
        *(("threshold", "abc"), ("threshold", 7.0), ("precision", "x")),
        *(("batch_size", 0), ("batch_size", "8")),
    ):
        with pytest.raises(utils.InputError, match=rf"^{name}: "):
            predict.load(best, **{name: value})
    classify = predict.load(best)
    for given in (("글",), (TEXTS[:2], "대상")):
        with pytest.raises(utils.InputError, match="lists"):
            classify(*given)
    for given, told in (
        (([1],), "1 is no text"),
        ((TEXTS[:1], [3]), "3 is no text, and no target"),
        ((TEXTS[:2], ["표"]), "texts are 2, and targets 1"),
    ):
        with pytest.raises(utils.InputError, match=told):
            classify(*given)
    beside, strange, none = classify(["급식"] * 3, ["급식", {}, None])
    assert strange["target"] is None and strange["scores"] == none["scores"] != beside["scores"]


def test_a_terminal_is_told_that_texts_are_waited_for(monkeypatch, capsys):
    class Terminal(io.TextIOWrapper):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stdin", Terminal(io.BytesIO("좋다\n".encode())))
    assert list(texts.lines_of_stdin()) == ["좋다"]
    assert capsys.readouterr().err.startswith("write a text a line; ")


def test_a_run_without_a_checkpoint_is_told_what_mends_it(small, tmp_path):
    best = small.undisturbed("bert_plain.py") / "best"
    run = json.loads((best.parent / "run.json").read_text(encoding="utf-8"))
    predicted = run | {"arguments": run["arguments"] | {"model_ckpt_path": "best"}}
    for facts, told in (
        (run, "put it there again"),
        ({"arguments": run["arguments"]}, "let it end (--resume)"),
        (predicted, "give one that trained"),
        ({"arguments": None}, "give one that trained"),
    ):
        outputs.write_json(tmp_path / "run.json", facts)
        assert_refused(call("predict.py", tmp_path, "글"), f"has no checkpoint (best/); {told}")
    (tmp_path / "run.json").write_text("{")
    shutil.copytree(best, tmp_path / "best")
    assert call("predict.py", tmp_path, "글").returncode == 0


def test_an_adapter_is_read_from_wherever_its_base_lies(small, tmp_path):
    model, *rest = small.arguments("gpt_train.py")[1:]
    given = ["--model", model.name, *rest, "--epochs", 1, "--output-dir", tmp_path / "run"]
    outcome = call("gpt_train.py", *given, cwd=model.parent)
    assert outcome.returncode == 0, outcome.stderr
    assert call("predict.py", tmp_path / "run", "글", cwd=tmp_path).returncode == 0
    file = tmp_path / "run" / "best" / "adapter_config.json"
    gone = json.loads(file.read_text()) | {"base_model_name_or_path": str(tmp_path / "gone")}
    outputs.write_json(file, gone)
    told = f"its base {tmp_path / 'gone'} is not there; put it there again, or write into {file}"
    for script in ("predict.py", "export.py"):
        assert_refused(call(script, tmp_path / "run", tmp_path / "out"), told)
    given = ["--model-ckpt-path", file.parent, "--output-dir", tmp_path / "out", *rest[2:4]]
    assert_refused(call("gpt_inference.py", *given), told)
    told = f"was trained on {tmp_path / 'gone'}, and is put on {model}; right only if their weights"
    further = ["--adapter", file.parent, *rest, "--epochs", 1, "--output-dir", tmp_path / "further"]
    for script, flags in {"gpt_inference.py": given, "gpt_train.py": further}.items():
        outcome = call(script, "--model", model, *flags)
        assert outcome.returncode == 0 and outcome.stderr == "", outcome.stderr
        assert outcome.stdout.count(told) == 1


def test_a_corpus_file_is_read_as_the_scripts_read_it(small, tmp_path):
    """A target that is no object is none, though a string is one for the import."""
    best = small.undisturbed("bert_plain.py") / "best"
    rows = [{"id": str(n), "input": {"form": "급식 최고"}} for n in range(3)]
    rows[1]["input"]["target"], rows[2]["input"]["target"] = "급식", {}
    write_rows(tmp_path / "in.jsonl", rows)
    outcome = call("predict.py", best, "--input", tmp_path / "in.jsonl")
    one, two, three = (json.loads(line)["scores"] for line in outcome.stdout.splitlines())
    assert one == two == three


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--format", "csv"], "--format: is not for sentences; leave it out, and give a table by"),
        (["글", "--text-column", "a"], "--text-column: is not for sentences"),
        (["--input", "in.jsonl", "--target", "표"], "--target: is not for jsonl"),
        (["--input", "in.jsonl", "--target-column", "t"], "--target-column: is not for jsonl"),
        (["--input", "odd.dat", "--output", "out.csv"], "of what form is it? give --format"),
        (["글", "--output", "nowhere/out.jsonl"], "its directory is not there; make it"),
        (["글", "--output", "out.csv"], "here that is .jsonl; name it so"),
        (["--input", "header.csv", "--output", "out.xlsx"], "here that is .csv; name it so"),
        (["--input", "header.csv", "--output", "out.jsonl"], "here that is .csv; name it so"),
        (
            ["--input", "header.csv", "--target", "표", "--target-column", "n"],
            "--target and --target-column: give one of them",
        ),
        (["--input", "quote.csv"], "line 3: is no table"),
        (["--input", "header.csv"], "has no rows"),
        (["--input", "empty.txt"], "has no lines"),
    ],
)
def test_what_would_be_left_unread_is_refused(arguments, told, small, tmp_path, monkeypatch):
    best = (small.undisturbed("bert_plain.py") / "best").resolve()
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "in.jsonl", [make_row()])
    (tmp_path / "quote.csv").write_text('text,n\n"좋다,1\n"싫다,2\n화나,3\n', encoding="utf-8")
    (tmp_path / "header.csv").write_text("text,n\n", encoding="utf-8")
    (tmp_path / "empty.txt").touch()
    given = [tmp_path / each if "." in each[:-1] else each for each in arguments]
    assert_refused(call("predict.py", best, *given), told)


@pytest.mark.parametrize("column", ["text", "form", "sentence", "문장", "텍스트"])
def test_texts_are_found_in_a_column_of_such_a_name(column, tmp_path):
    path = tmp_path / "in.csv"
    path.write_text(f"other,{column}\nx,좋다\n", encoding="utf-8")
    args = predict.argument_parser().parse_args(["CHECKPOINT", "--input", str(path)])
    assert [text for text, _, _ in texts.open_source(args).items] == ["좋다"]


def test_a_table_comes_back_whatever_stands_in_it(small, tmp_path):
    """A lone carriage return, a huge cell, columns named as the new ones, time and again."""
    best = small.undisturbed("bert_plain.py") / "best"
    cells = ["가\r나 좋다", "긴 " * 100_000]
    path = tmp_path / "0.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["text", "emotions"], *([cell, "x"] for cell in cells)])
    for number in (1, 2, 3):
        before, path = path, tmp_path / f"{number}.csv"
        outcome = call("predict.py", best, "--input", before, "--output", path)
        assert outcome.returncode == 0, outcome.stderr
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert len(set(header)) == len(header) == 2 + 3 * (1 + len(EMOTIONS))
    assert [row[0] for row in rows] == cells and all(len(row) == len(header) for row in rows)


def test_a_blank_line_of_a_table_is_an_empty_cell_or_told(small, tmp_path):
    best = small.undisturbed("bert_plain.py") / "best"
    one, two = tmp_path / "one.csv", tmp_path / "two.csv"
    one.write_text('text\r\n"좋다"\r\n\r\n""\r\n" "\r\n"싫다"\r\n\r\n', newline="")
    outcome = call("predict.py", best, "--input", one)
    rows = list(csv.DictReader(io.StringIO(outcome.stdout)))
    assert [row["text"] for row in rows] == ["좋다", "", "", " ", "싫다"] and outcome.stderr == ""
    two.write_text("text,n\n좋다,1\n\n싫다,2\n\n")
    outcome = call("predict.py", best, "--input", two)
    rows = list(csv.DictReader(io.StringIO(outcome.stdout)))
    assert [row["n"] for row in rows] == ["1", "2"]
    assert outcome.stderr == f"warning: {two}: blank lines (1): line 3 first: they are left out\n"


def test_a_closed_standard_output_is_told_where_it_is_needed(small, tmp_path):
    command = [ROOT / "predict.py", small.undisturbed("bert_plain.py"), "글"]
    given = [sys.executable, *map(str, command)]
    told = []
    for more in ([], ["--output", str(tmp_path / "out.jsonl")]):
        shell = ["sh", "-c", 'exec "$@" >&-', "sh", *given, *more]
        outcome = subprocess.run(shell, capture_output=True, text=True)
        told.append((outcome.returncode, outcome.stderr))
    closed = "predict.py: error: standard output is closed; give --output FILE\n"
    assert told == [(1, closed), (0, "")]
    assert json.loads((tmp_path / "out.jsonl").read_text(encoding="utf-8"))["text"] == "글"


@pytest.mark.parametrize("script", ["bert_plain.py", "bert_GRU.py", "gpt_train.py"])
def test_a_model_without_its_tokenizer_is_refused(script, small, tmp_path):
    """For which transformers makes one of special tokens alone."""
    base = shutil.copytree(MODELS[script], tmp_path / "base")
    run = shutil.copytree(small.undisturbed(script), tmp_path / "run")
    for file in [*base.glob("tokenizer*"), *(run / "best").glob("tokenizer*")]:
        file.unlink()
    outcome = call(script, "--sample", "--model", base, "--output-dir", tmp_path / "out")
    assert_refused(outcome, f"error: {base}: has no tokenizer (tokenizer.json")
    assert_refused(
        call("predict.py", run, "글"), f"{run / 'best'}: has no tokenizer (tokenizer.json"
    )
    assert not (tmp_path / "out").exists()


def test_labels_stand_in_the_order_of_their_numbers(small, tmp_path):
    best = small.undisturbed("bert_plain.py") / "best"
    turned = shutil.copytree(best, tmp_path / "turned")
    config = json.loads((best / "config.json").read_text(encoding="utf-8"))
    config["id2label"] = dict(reversed(config["id2label"].items()))
    (turned / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert predict.load(turned)(["급식 최고"]) == predict.load(best)(["급식 최고"])
    (turned / "config.json").write_text("{")
    told = f"{turned}: is no checkpoint (config.json is missing or broken); give best/ of a run"
    assert_refused(call("predict.py", turned, "글"), told)


def test_an_adapter_is_found_in_the_cache_of_the_hub(small, tmp_path):
    cached = tmp_path / "hub" / "models--me--gpt"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("abc123")
    (cached / ".no_exist" / "abc123").mkdir(parents=True)
    (cached / ".no_exist" / "abc123" / "config.json").touch()  # as it is told of an adapter
    best = small.undisturbed("gpt_train.py") / "best"
    shutil.copytree(best, cached / "snapshots" / "abc123")
    code = "import predict, sys; print(predict.load(sys.argv[1])(['급식'])[0]['scores']['joy'])"
    command = [sys.executable, "-c", code]
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub")}
    given = {"cwd": ROOT, "env": environment, "capture_output": True, "text": True}
    found = subprocess.run([*command, "me/gpt"], **given)
    assert found.stdout == subprocess.run([*command, str(best)], **given).stdout != "", found.stderr


def test_what_is_for_training_alone_is_told_where_something_is_predicted(small, tmp_path):
    best, file = small.undisturbed("bert_plain.py") / "best", small.corpus()[3]
    where = ["--model-ckpt-path", best, "--dev-file", file, "--output-dir", tmp_path / "out"]
    flags = ["--model", "another", "--fold", 1, "--epochs", 9, "--pooling", "mean"]
    outcome = call("bert_plain.py", *where, *flags, "--sample", "--val-batch-size", 7)
    assert outcome.returncode == 0 and outcome.stdout.count("warning: --") == 4
    for flag in flags[::2]:
        assert f"warning: {flag} is for training; what the checkpoint was" in outcome.stdout


@pytest.mark.parametrize("error", [httpx2.ReadTimeout("slow"), LocalEntryNotFoundError("no net")])
def test_a_download_that_breaks_off_is_told_of(error, monkeypatch):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(checkpoint, "describe_model", lambda *_: "downloading")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    assert_refused(call("predict.py", "a/model", "글"), "a/model: cannot be loaded: ")


@pytest.mark.parametrize(
    ("file", "changed"),
    [
        ("config.json", {"hidden_size": "32"}),
        ("tokenizer.json", {"post_processor": {"type": "OfAnotherVersion"}}),
    ],
)
def test_a_file_of_another_version_is_told_in_one_line(file, changed, small, tmp_path):
    best = shutil.copytree(small.undisturbed("bert_plain.py") / "best", tmp_path / "best")
    content = outputs.read_json(best / file) | changed
    (best / file).write_text(json.dumps(content), encoding="utf-8")
    assert_refused(call("predict.py", best, "글"), f"{best}: cannot be loaded: ")


def test_a_decoder_classifier_from_elsewhere_reads_what_it_was_taught(tmp_path, caplog):
    tokenizer = AutoTokenizer.from_pretrained(GPT_NEOX, pad_token=None)
    given = {"num_labels": 2, "pad_token_id": None, "dtype": "float32"}
    model = AutoModelForSequenceClassification.from_pretrained(GPT_NEOX, **given).eval()
    tokenizer.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    texts = ["오늘 급식 최고", "너무 무섭다", "글"]
    found = predict.load(tmp_path, threshold=0.5)(texts)
    for text, each in zip(texts, found, strict=True):
        logits = model(**tokenizer(text, return_tensors="pt")).logits[0]
        assert list(each["scores"].values()) == pytest.approx(logits.sigmoid().tolist(), abs=1e-4)
    assert f"warning: {tmp_path}: config.json does not say that each label has" in caplog.text


def test_a_classifier_of_tokens_is_none_of_texts(tmp_path):
    AutoModelForTokenClassification.from_pretrained(ROBERTA, num_labels=3).save_pretrained(tmp_path)
    refused = call("predict.py", tmp_path, "글", "--threshold", 0.5)
    assert_refused(refused, f"{tmp_path}: is a checkpoint of RobertaForTokenClassification; ")


def test_plain_use_of_best_cuts_a_text_where_the_model_ends(tmp_path):
    base = shutil.copytree(ROBERTA, tmp_path / "base")
    settings = outputs.read_json(base / "tokenizer_config.json")
    del settings["model_max_length"]
    (base / "tokenizer_config.json").write_text(json.dumps(settings))
    file = write_rows(tmp_path / "rows.jsonl", [make_row(str(n)) for n in range(4)])
    given = ["--model", base, "--train-file", file, "--dev-file", file, "--epochs", 1]
    outcome = call("bert_plain.py", *given, "--output-dir", tmp_path / "out")
    assert outcome.returncode == 0, outcome.stderr
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out" / "best")
    assert len(tokenizer("급식 최고 " * 600, truncation=True)["input_ids"]) == 512


def test_a_wish_for_no_bars_is_met_without_a_word():
    code = "from emotion import encoder; encoder.quiet_loading()"
    environment = os.environ | {"HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    command = [sys.executable, "-W", "error::UserWarning", "-c", code]
    assert subprocess.run(command, cwd=ROOT, env=environment).returncode == 0


def test_a_path_without_a_name_is_taken(small):
    best = small.undisturbed("bert_plain.py") / "best"
    for path in (".", "/", ""):
        outcome = call("predict.py", best, "글", "--output", path)
        assert_refused(outcome, "is there, and nothing is overwritten; give another")


def test_standard_input_is_utf_8(small):
    best = small.undisturbed("bert_plain.py") / "best"
    command = [sys.executable, str(ROOT / "predict.py"), str(best)]
    given = "\ufeff급식\r\n최고\r\n".encode()
    process = subprocess.run(command, input=given, capture_output=True, check=True)
    lines = process.stdout.decode().splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["급식", "최고"]
    process = subprocess.run(command, input="글\n급식".encode("cp949"), capture_output=True)
    assert process.returncode == 2 and b"line 1: is not UTF-8" in process.stderr


@pytest.mark.parametrize("script", ["bert_plain.py", "gpt_train.py"])
def test_one_label_alone(script, small, tmp_path):
    rows = [make_row(str(n)) | {"output": {"좋음": str(n % 2 == 0)}} for n in range(24)]
    file = write_rows(tmp_path / "rows.jsonl", rows)
    files = ["--train-file", file, "--dev-file", file, "--output-dir", tmp_path / "out"]
    given = ["--model", MODELS[script], *files, "--epochs", 1]
    if script == "gpt_train.py":
        assert_refused(call(script, *given), "--objective answer: one label has no other")
        given += ["--objective", "multilabel"]
    assert call(script, *given).returncode == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))
    assert list(metrics["dev"]["per_emotion"]) == ["좋음"]
    [found] = predict.load(tmp_path / "out")(["급식"])
    assert list(found["scores"]) == ["좋음"]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ([], "a file or standard output: No space left"),
        (["--output", "/proc/x"], "/proc/x: No such file"),
    ],
)
def test_where_nothing_can_be_written_is_told_in_one_line(flags, told, small):
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full here")
    command = [sys.executable, ROOT / "predict.py", small.undisturbed(*KINDS["cls"]), *flags]
    with open("/dev/full", "w") as full:
        pipes = {"stdout": full, "stderr": subprocess.PIPE, "text": True, "input": "급식 최고"}
        outcome = subprocess.run(list(map(str, command)), **pipes)
    assert outcome.returncode == 1 and outcome.stderr.count("\n") == 1, outcome.stderr
    assert outcome.stderr.startswith(f"predict.py: error: {told}")


def test_what_was_begun_is_taken_away_when_it_is_stopped(small, tmp_path):
    """By SIGTERM, while it waits for more lines."""
    command = [ROOT / "predict.py", small.undisturbed(*KINDS["cls"]), "--output", "out.jsonl"]
    pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    given = [sys.executable, *map(str, command)]
    with subprocess.Popen(given, cwd=tmp_path, **pipes) as process:
        process.stdin.write("급식 최고\n" * (texts.WINDOW + 1))
        process.stdin.flush()
        deadline = time.monotonic() + 60
        while not any(path.stat().st_size for path in tmp_path.iterdir()):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 130
        assert process.stderr.read() == "predict.py: interrupted\n"
    assert list(tmp_path.iterdir()) == []
