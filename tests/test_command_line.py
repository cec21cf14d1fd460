"""What a user meets before anything is trained: help, refusals, exit codes. Through the real command lines."""

import contextlib
import io
import json
import re
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, make_row, run_script, write_rows
from hypothesis import given
from hypothesis import strategies as st

import utils

TRAINING_SCRIPTS = ("bert_plain.py", "bert_GRU.py", "gpt_train.py")
SAMPLE_MODEL = str(utils.SAMPLE / "gpt-neox-tiny")
SCRIPTS = (*TRAINING_SCRIPTS, "gpt_inference.py")


@pytest.fixture
def corpus(tmp_path):
    """Arguments that name a valid corpus and a directory for the run."""
    rows = [make_row(f"line-{n}") for n in range(3)]
    files = {split: write_rows(tmp_path / f"{split}.jsonl", rows) for split in ("train", "dev")}
    return ["--train-file", files["train"], "--dev-file", files["dev"], "--output-dir", tmp_path / "out"]


def assert_refused(process, *told):
    """Exit code 2, one line on standard error with all of `told` in it, nothing on standard output."""
    assert process.returncode == 2
    assert process.stdout == ""
    assert process.stderr.count("\n") == 1, process.stderr
    for text in told:
        assert str(text) in process.stderr


def fastest_of_three(command):
    times = []
    for _ in range(3):  # the machine may be busy
        started = time.perf_counter()
        subprocess.run(command, cwd=ROOT, capture_output=True)
        times.append(time.perf_counter() - started)
    return min(times)


def test_importing_utils_is_light():
    code = "import sys, utils; print([name for name in ('torch', 'transformers', 'sklearn') if name in sys.modules])"
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert process.stdout.strip() == "[]"
    assert fastest_of_three([sys.executable, "-c", "import utils"]) < 0.3


@pytest.mark.parametrize("script", (*SCRIPTS, "ensemble.py"))
def test_help_is_quick_and_names_every_flag_of_the_readme(script):
    assert fastest_of_three([sys.executable, script, "--help"]) < 1
    flags = set(re.findall(r"--[a-z][a-z-]+", run_script(script, "--help").stdout)) - {"--help"}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert flags - set(re.findall(r"--[a-z][a-z-]+", readme)) == set()


@pytest.mark.parametrize("script", TRAINING_SCRIPTS)
def test_a_broken_corpus_is_refused_before_torch_is_imported(script, corpus, tmp_path):
    write_rows(tmp_path / "train.jsonl", [make_row("a"), make_row("b", form="", target=None)])
    assert_refused(run_script(script, *corpus), tmp_path / "train.jsonl", "line 2", "input.form")
    assert not (tmp_path / "out").exists()
    assert fastest_of_three([sys.executable, script, *map(str, corpus)]) < 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--epochs", "0"], "--epochs"),
        (["--epochs", "two"], "--epochs"),
        (["--lr", "nan"], "--lr"),
        (["--lr", "0"], "--lr"),
        (["--head-lr", "-1"], "--head-lr"),
        (["--weight-decay", "inf"], "--weight-decay"),
        (["--seed", "-1"], "--seed"),
        (["--train-batch-size", "0"], "--train-batch-size"),
        (["--threshold", "1.5"], "--threshold"),
        (["--threshold", "often"], "--threshold"),
        (["--precision", "int8"], "--precision"),
        (["--no-such-flag"], "--no-such-flag"),
        (["--model", "nobody/no-such-model"], "--model PATH"),
        (["--model", "no/such/directory"], "no/such/directory"),
        (["--model", "tests"], "no config.json"),
        (["--model-ckpt-path", "no/such/checkpoint"], "no/such/checkpoint"),
        (["--dev-file", "no/such/file.jsonl"], "no/such/file.jsonl"),
        (["--test-file", "no/such/file.jsonl"], "no/such/file.jsonl"),
        (["--output-dir", "tests"], "--resume"),
        (["--output-dir", "tests", "--resume"], "holds no run"),
        (["--resume", "--model-ckpt-path", "x"], "--resume"),
        (["--epoch", "3"], "--epoch"),
        (["--output-dir", "README.md"], "is not a directory"),
        (["--output-dir", "README.md/below"], "cannot be written"),
        (["--output-dir", "x" * 300], "File name too long"),
        (["--output-dir", ""], "--resume"),
        (["--train-file", "x" * 300], "no such file"),
        (["--train-file", ""], "is not a file"),
        (["--model-ckpt-path", "x" * 300], "is no checkpoint"),
        (["--model", "x" * 300], "neither a directory nor a model"),
        (["--model", ""], "neither a directory nor a model"),
        (["--model", "../../etc"], "--model ../../etc"),
        (["--seed", "9" * 400], "--seed"),
        (["--epochs", "1e3"], "--epochs"),
        (["--epochs", ""], "--epochs"),
        (["--lr"], "--lr"),
        (["stray"], "stray"),
        (["--lr", "1", "--lr", "x"], "--lr"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_a_wrong_argument_is_refused_in_one_line(arguments, told, corpus, tmp_path):
    assert_refused(run_script("bert_plain.py", *corpus, *arguments), told)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--objective", "regression"], "--objective"),
        (["--language", "fr"], "--language"),
        (["--rank", "0"], "--rank"),
        (["--alpha", "-1"], "--alpha"),
        (["--dropout", "1"], "--dropout"),
        (["--batch-size", "0"], "--batch-size"),
        (["--max-length", "3"], "--max-length"),
        (["--model", SAMPLE_MODEL, "--max-length", "30"], "the prompt alone takes"),
        (["--model", SAMPLE_MODEL, "--max-length", "9999"], "takes 2048 tokens"),
        (["--model", SAMPLE_MODEL, "--target-modules", "q_proj"], "has no such linear layers"),
        (["--model-ckpt-path", "x"], "--model-ckpt-path"),
        (["--model", "nobody/no-such-model"], "--model PATH"),
        (["--output-dir", "tests"], "--resume"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_argument_of_gpt_train_is_refused(arguments, told, corpus, tmp_path):
    assert_refused(run_script("gpt_train.py", *corpus, *arguments), told)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "--model-ckpt-path is required"),
        (["--sample"], "python gpt_train.py --sample"),
        (["--model-ckpt-path", "no/such/checkpoint"], "no/such/checkpoint: is no checkpoint of gpt_train.py"),
        (["--model-ckpt-path", "{adapter}"], "decision.json"),
        (["--model-ckpt-path", "{adapter}", "--threshold", "0.5"], "somewhere/else: not on this machine"),
        (["--model-ckpt-path", "{adapter}", "--threshold", "0.5", "--model", "{adapter}"], "no config.json"),
        (["--model-ckpt-path", "{adapter}", "--threshold", "0.5", "--dev-file", "no/such.jsonl"], "no/such.jsonl"),
        (["--precision", "int8"], "--precision"),
        (["--batch-size", "none"], "--batch-size"),
        (["--train-file", "x"], "--train-file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_argument_of_gpt_inference_is_refused(arguments, told, corpus, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "somewhere/else"}))
    prompt = {"objective": "answer", "max_length": 512, "strings": utils.PROMPTS["ko"], "base": {}}
    (adapter / "prompt.json").write_text(json.dumps(prompt))
    arguments = [argument.format(adapter=adapter) for argument in arguments]
    files = [] if "--dev-file" in arguments or "--sample" in arguments else ["--dev-file", tmp_path / "dev.jsonl"]
    assert_refused(run_script("gpt_inference.py", *files, *arguments, cwd=tmp_path), told)
    assert not (tmp_path / "outputs").exists()


arguments = st.lists(
    st.sampled_from(["--epochs", "--lr", "--seed", "--threshold", "--folds", "--fold", "--resume", "--precision", "--pooling"])
    | st.sampled_from(["--train-file", "--dev-file", "--test-file", "--output-dir", "--model-ckpt-path", "--head-lr", "-x"])
    | st.sampled_from(["auto", "cls", "nan", "-inf", "-1", "", "--", "/", "..", "~", "x" * 300, "1" * 500])
    | st.integers().map(str)
    | st.floats().map(str)
    | st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=6),
    max_size=7,
)


@given(arguments)
def test_any_arguments_are_refused_in_one_line(arguments):
    """Without a corpus, none of them can be right."""
    parser = utils.bert_argument_parser("", "fuzzed", head_lr=1e-3)
    parser.add_argument("--pooling", choices=("cls", "mean"))
    errors = io.StringIO()
    with (
        utils.signals_handled_by(signal.default_int_handler),
        contextlib.redirect_stderr(errors),
        pytest.raises(SystemExit) as end,
    ):
        utils.parse_arguments(parser, lambda args: utils.check_encoder(args, ("Classifier",)), arguments)
    assert end.value.code == 2
    assert errors.getvalue().count("\n") == 1 or any("\n" in argument for argument in arguments)


def test_a_missing_corpus_says_where_it_is_applied_for(tmp_path):
    process = run_script("bert_plain.py", cwd=tmp_path)
    assert_refused(process, "data/nikluge-ea-2023-train.jsonl", utils.CORPUS_PAGE, "--sample")


def test_a_model_that_cannot_be_reached_says_what_else_to_do(corpus):
    assert_refused(run_script("bert_GRU.py", *corpus), "klue/roberta-large", "hub", "--model PATH", "--sample")


def test_a_broken_model_is_refused(corpus, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"model_type": "roberta"}))
    assert_refused(run_script("bert_plain.py", *corpus, "--model", model), model)
    assert not (tmp_path / "out").exists()
