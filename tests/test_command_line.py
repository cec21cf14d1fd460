"""What a user meets before anything is trained: help, refusals, exit codes."""

import importlib.metadata
import importlib.util
import json
import os
import re
import resource
import subprocess
import sys

import psutil
import pytest
from conftest import EMOTIONS, ROOT, assert_refused, call, make_row, run_script, write_rows
from hypothesis import given
from hypothesis import strategies as st

import bert_plain
import gpt_train
import utils
from emotion import checkpoint, cli, data, process
from emotion.prompt_words import make_strings

TRAINING_SCRIPTS = ("bert_plain.py", "bert_GRU.py", "gpt_train.py")
SAMPLE_MODEL = str(utils.SAMPLE / "gpt-neox-tiny")
SCRIPTS = (*TRAINING_SCRIPTS, "gpt_inference.py")


@pytest.fixture
def corpus(tmp_path):
    """Arguments that name a valid corpus and a directory for the run."""
    rows = [make_row(f"line-{n}") for n in range(3)]
    files = {split: write_rows(tmp_path / f"{split}.jsonl", rows) for split in ("train", "dev")}
    named = ["--train-file", files["train"], "--dev-file", files["dev"]]
    return [*named, "--output-dir", tmp_path / "out"]


@pytest.fixture(autouse=True)
def no_national_corpus(monkeypatch):
    """None lies where it is looked for, whatever this machine has."""
    monkeypatch.setattr(data, "CORPUS_FILE", "no/such/nikluge-ea-2023-{}.jsonl")


def shown(value):
    return " ".join(value)[:40] if isinstance(value, list) else ""


def is_quick(limit, *command):
    """Whether a command takes less than `limit` seconds of a processor, in one of three tries.

    A clock would measure what else the machine does.
    """
    environ = {name: each for name, each in os.environ.items() if "COVERAGE" not in name}

    def seconds():
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    for _ in range(3):
        before = seconds()
        ended = subprocess.run(
            [sys.executable, *command], cwd=ROOT, env=environ, capture_output=True
        )
        assert ended.returncode in (0, 2), ended.stderr
        if seconds() - before < limit:
            return True
    return False


def test_importing_utils_is_quick():
    assert is_quick(0.3, "-c", "import utils")


@pytest.mark.parametrize(
    "script", (*SCRIPTS, "ensemble.py", "predict.py", "export.py", "data/convert.py")
)
def test_help_takes_under_a_second(script):
    assert is_quick(1, script, "--help")


def test_help_ends_with_0_and_begins_with_what_the_script_does():
    outcome = run_script("bert_plain.py", "--help")
    assert outcome.returncode == 0 and outcome.stderr == ""
    assert bert_plain.__doc__ in outcome.stdout
    assert outcome.stdout.endswith(
        "--train_batch_size 48, where they are not given.\n".replace("_", "-")
    )


BROKEN_CORPUS = """
import sys, {module}
try:
    {module}.main(sys.argv[1:])
finally:
    print([name for name in ("torch", "transformers", "sklearn") if name in sys.modules])
"""


@pytest.mark.parametrize("script", TRAINING_SCRIPTS)
def test_a_broken_corpus_is_refused_before_torch_is_imported(script, corpus, tmp_path):
    write_rows(tmp_path / "train.jsonl", [make_row("a"), make_row("b", form="", target=None)])
    code = BROKEN_CORPUS.format(module=script.removesuffix(".py"))
    command = [sys.executable, "-c", code, *map(str, corpus)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert_refused(process, tmp_path / "train.jsonl", "line 2", "input.form")
    assert process.stdout == "[]\n"
    assert not (tmp_path / "out").exists()


def test_a_broken_corpus_is_refused_in_under_a_second(corpus, tmp_path):
    write_rows(tmp_path / "train.jsonl", [make_row("a"), make_row("b", form="", target=None)])
    assert is_quick(1, "bert_plain.py", *map(str, corpus))


def test_a_file_with_oddities_is_warned_of_on_standard_output(corpus, tmp_path):
    """And then, here, the run ends over its model."""
    odd = make_row("b")
    odd["input"]["target"]["begin"] = 99
    write_rows(tmp_path / "train.jsonl", [make_row("a"), odd, odd])
    outcome = call("bert_plain.py", *corpus, "--model", "no/such/directory")
    assert_refused(outcome, "no/such/directory")
    assert f"warning: {tmp_path / 'train.jsonl'}: line 2 first: " in outcome.stdout
    assert outcome.stdout.count("warning: ") == 3  # of lines that dev shares, and of labels, too


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
        (["--val-batch-size", "x"], "--val-batch-size"),
        (["--save-steps", "0"], "--save-steps"),
        (["--report-to", "nobody"], "--report-to"),
        (["--pooling", "max"], "--pooling"),
        (["--folds", "1"], "--folds"),
        (["--folds", "2"], "--folds and --fold belong together"),
        (["--fold", "2"], "--folds and --fold belong together"),
        (["--folds", "2", "--fold", "2"], "the parts are 0 to 1"),
        (["--folds", "2", "--fold", "0"], "row 4: id: 'line-0' stands in row 1 too"),
        (["--threshold", "often"], "--threshold"),
        (["--precision", "int8"], "--precision"),
        (["--no-such-flag"], "--no-such-flag"),
        (["--model", "nobody/no-such-model"], "--model PATH"),
        (["--model", "no/such/directory"], "no/such/directory"),
        (["--model", "tests"], "no config.json"),
        (["--model-ckpt-path", "no/such/checkpoint"], "no/such/checkpoint"),
        (["--dev-file", "no/such/file.jsonl"], "no/such/file.jsonl"),
        (["--test-file", "no/such/file.jsonl"], "no/such/file.jsonl"),
        (["--output-dir", "tests"], "as --output-dir tests-2, or --resume"),
        (["--output-dir", "tests", "--resume"], "holds no run"),
        (["--resume", "--model-ckpt-path", "x"], "--resume"),
        (["--epoch", "3"], "--epoch"),
        (["--output-dir", "README.md"], "is not a directory"),
        (["--output-dir", "README.md/below"], "cannot be written"),
        (["--output-dir", "x" * 300], "File name too long"),
        (["--output-dir", ""], "--resume"),
        (["--output-dir", "/"], "--resume"),
        (["--output-dir", ".."], f"as --output-dir {ROOT.parent}-2"),
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
    ids=shown,
)
def test_a_wrong_argument_is_refused_in_one_line(arguments, told, corpus, tmp_path):
    assert_refused(call("bert_plain.py", *corpus, *arguments), told)
    assert not (tmp_path / "out").exists()


def test_a_wrong_argument_ends_the_process_with_2(corpus, tmp_path):
    for arguments in (["--epochs", "0"], ["--dev-file", "no/such/file.jsonl"]):
        process = run_script("bert_plain.py", *corpus, *arguments)
        assert_refused(process, arguments[0] if arguments[1] == "0" else arguments[1])
        assert process.stdout == "" and process.stderr.startswith("bert_plain.py: error: ")
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
        (["--val-batch-size", "0"], "--val-batch-size"),
        (["--target-modules"], "--target-modules"),
        (["--model", SAMPLE_MODEL, "--max-length", "30"], "the prompt alone takes"),
        (["--model", SAMPLE_MODEL, "--max-length", "9999"], "takes 2048 tokens"),
        (["--model", SAMPLE_MODEL, "--target-modules", "q_proj"], "not found in the base model"),
        (["--model-ckpt-path", "x"], "--model-ckpt-path"),
        (["--model", "nobody/no-such-model"], "--model PATH"),
        (["--model", SAMPLE_MODEL, "--report-to", "trackio"], "pip install trackio"),
        (["--output-dir", "tests"], "--resume"),
    ],
    ids=shown,
)
def test_a_wrong_argument_of_gpt_train_is_refused(arguments, told, corpus, tmp_path):
    if "trackio" in arguments and importlib.util.find_spec("trackio"):
        pytest.skip("it is installed")
    assert_refused(call("gpt_train.py", *corpus, *arguments), told)
    assert not (tmp_path / "out").exists()


KNOWN = ["--model-ckpt-path", "{adapter}", "--threshold", "0.5"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "--model-ckpt-path is required"),
        (["--sample"], "python gpt_train.py --sample"),
        (
            ["--model-ckpt-path", "no/such/checkpoint"],
            "prompt.json is missing or broken); give best/",
        ),
        (["--model-ckpt-path", "{adapter}"], "decision.json"),
        ([*KNOWN], "somewhere/else: not on this machine"),
        ([*KNOWN, "--model", "{adapter}"], "no config.json"),
        ([*KNOWN, "--dev-file", "no/such.jsonl"], "no/such.jsonl"),
        (["--precision", "int8"], "--precision"),
        (["--batch-size", "none"], "--batch-size"),
        (["--train-file", "x"], "--train-file"),
    ],
    ids=shown,
)
def test_a_wrong_argument_of_gpt_inference_is_refused(arguments, told, corpus, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    base = {"base_model_name_or_path": "somewhere/else"}
    (adapter / "adapter_config.json").write_text(json.dumps(base))
    prompt = {"objective": "answer", "max_length": 512, "labels": EMOTIONS, "base": {}}
    prompt["strings"] = make_strings("ko", EMOTIONS)
    (adapter / "prompt.json").write_text(json.dumps(prompt))
    arguments = [argument.format(adapter=adapter) for argument in arguments]
    needs_file = not {"--dev-file", "--sample"} & {*arguments}
    files = ["--dev-file", tmp_path / "dev.jsonl"] if needs_file else []
    assert_refused(call("gpt_inference.py", *files, *arguments, cwd=tmp_path), told)
    assert not (tmp_path / "outputs").exists()


FLAGS = {
    "bert_plain.py": ["--train-batch-size", "--pooling", "--model-ckpt-path"],
    "gpt_train.py": ["--objective", "--target-modules", "--estimate", "--max-length"],
    "gpt_inference.py": ["--model-ckpt-path", "--model", "--batch-size"],
    "ensemble.py": ["outputs/one", "--weights", "--no-ensemble", "--resamples"],
}
shared_flags = ["--epochs", "--lr", "--head-lr", "--seed", "--threshold", "--fold", "-x"]
shared_flags += ["--train-file", "--dev-file", "--test-file", "--output-dir", "--precision"]
shared_flags += ["--folds", "--resume"]
values = ["auto", "cls", "nan", "-inf", "-1", "", "--", "/", "..", "~", "x" * 300, "1" * 500]
no_surrogates = st.characters(exclude_categories=("Cs",), exclude_characters="\0")
command_lines = st.sampled_from(sorted(FLAGS)).flatmap(
    lambda script: st.tuples(
        st.just(script),
        st.lists(
            st.sampled_from(shared_flags + FLAGS[script])
            | st.sampled_from(values)
            | st.integers().map(str)
            | st.floats().map(str)
            | st.text(no_surrogates, max_size=6),
            max_size=7,
        ),
    )
)


@given(command_lines)
def test_any_arguments_are_refused_in_one_line(tmp_path_factory, command_line):
    """Without a corpus, none of them can be right."""
    script, arguments = command_line
    where = tmp_path_factory.mktemp("where")
    outcome = call(script, *arguments, cwd=where)
    assert outcome.returncode == 2
    assert outcome.stderr.count("\n") == 1 or any("\n" in argument for argument in arguments)
    assert not list(where.iterdir())


def test_under_sample_what_is_given_wins():
    def parse(*argv):
        parser = bert_plain.argument_parser("bert_plain", None)
        return cli.parse_arguments(parser, argv)

    sample = parse("--sample")
    assert sample.train_file == utils.SAMPLE / "train.jsonl"
    assert (sample.model, sample.epochs, sample.lr) == (utils.SAMPLE / "roberta-tiny", 8, 2e-3)
    given = parse("--epochs", "2", "--sample", "--test-file", "mine.jsonl", "--model", "mine")
    assert (given.model, given.epochs, given.lr) == ("mine", 2, 2e-3)
    assert str(given.test_file) == "mine.jsonl" and given.dev_file == sample.dev_file
    plain = parse()
    assert (plain.model, plain.epochs, plain.lr) == ("klue/roberta-large", 5, 2e-5)
    assert plain.train_file is None and vars(plain).keys() == vars(sample).keys()


def test_the_command_that_goes_on_has_its_launcher(monkeypatch):
    launcher = ["python", "/bin/torchrun", "--nproc_per_node", "1", "bert_plain.py", "--sample"]
    monkeypatch.setattr(sys, "argv", launcher[-2:])
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    alone = "ACCELERATE_USE_CPU=true python bert_plain.py --sample"
    assert process.shell_command("bert_plain.py", None) == alone
    monkeypatch.setenv("RANK", "0")  # of a launcher's one process
    monkeypatch.setattr(psutil.Process, "cmdline", lambda self: launcher)
    told = f"ACCELERATE_USE_CPU=true {' '.join(launcher)}"
    assert process.shell_command("bert_plain.py", None) == told


def test_the_defaults_are_those_of_the_contract():
    bert = bert_plain.argument_parser("bert_plain", None).parse_args([])
    gpt = gpt_train.argument_parser().parse_args([])
    assert (bert.train_batch_size, bert.val_batch_size, bert.weight_decay) == (24, 48, 0.01)
    assert (bert.seed, bert.precision, bert.threshold) == (42, "auto", "auto")
    assert (gpt.model, gpt.lr, gpt.epochs) == ("nlpai-lab/kullm-polyglot-12.8b-v2", 2e-4, 5)
    assert (gpt.batch_size, gpt.rank, gpt.alpha, gpt.dropout) == (16, 16, 32, 0.05)
    assert (gpt.objective, gpt.language, gpt.save_steps) == ("answer", "ko", 500)
    assert bert.save_steps is None and str(bert.output_dir) == "outputs/bert_plain"
    assert (bert.head_lr, bert.report_to) == (1e-3, "none")
    for each in (bert, gpt):
        assert (each.target, each.normalise, each.tune) == ("pair", "on", "micro")
    assert gpt.max_length == 512


def test_the_commit_of_a_run_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(utils, "ROOT", tmp_path)
    assert process.git_commit() is None
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "me")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "me@here")
    (tmp_path / "file").write_text("one")
    for command in ("init -q", "add file", "commit -qm one"):
        subprocess.run(["git", *command.split()], cwd=tmp_path, check=True)
    commit = process.git_commit()
    assert re.fullmatch("[0-9a-f]{40}", commit)
    (tmp_path / "file").write_text("two")
    assert process.git_commit() == f"{commit}-dirty"


def test_a_tokenizer_that_needs_packages_says_so(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "distributions", list)
    with (
        pytest.raises(utils.InputError, match=r"not installed; mend that: .*requirements-extra"),
        checkpoint.loading("model"),
    ):
        raise ValueError("needs SentencePiece")


def test_a_missing_corpus_says_where_it_is_applied_for(tmp_path):
    outcome = call("bert_plain.py", cwd=tmp_path)
    assert_refused(outcome, "nikluge-ea-2023-train.jsonl", data.CORPUS_PAGE, "--sample")
    assert not list(tmp_path.iterdir())


def test_a_model_that_cannot_be_reached_says_what_else_to_do(corpus):
    outcome = call("bert_GRU.py", *corpus)
    assert_refused(outcome, "klue/roberta-large", "hub", "--model PATH", "--sample")


def test_a_broken_model_is_refused(corpus, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"model_type": "roberta"}))
    assert_refused(call("bert_plain.py", *corpus, "--model", model), model)
    assert not (tmp_path / "out").exists()
