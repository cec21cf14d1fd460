"""Runs that are killed, interrupted, shared out or given what they should refuse.

The long part: benchmarks/survival.py.
"""

import json
import os
import pickle
import re
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import causal_layouts
import encoder_layouts
import numpy as np
import pytest
from children import finish, ranks, run_child, start
from conftest import EMOTIONS, OFFLINE, ROOT, assert_refused, call, make_row, write_rows
from safetensors.torch import load_file, save_file
from small_runs import GPT_NEOX, MODELS, ROBERTA, assert_same_end
from test_corpus import GOOD, REFUSED, REFUSED_ANYWHERE

import bert_plain
import utils
from emotion import cli, data, outputs, systems
from emotion.prompt_words import make_strings
from emotion.run import last_whole_checkpoint

SCRIPTS = ("bert_plain.py", "bert_GRU.py", "gpt_train.py", "gpt_inference.py")


# Killed and interrupted

KILLED = {  # what the script is about to do: script, event, path, how often; the last checkpoint
    "as it begins": ("bert_plain.py", "open", "out/train.log", 1, None),
    "before the first checkpoint": ("bert_plain.py", "os.mkdir", "checkpoints/.partial", 1, None),
    "in the middle of an epoch": ("bert_plain.py", "shutil.rmtree", "checkpoint-4", 2, 6),
    "while best/ is replaced": ("bert_plain.py", "os.rename", "best/tokenizer.json", 2, 6),
    "between best/ and the checkpoint": ("bert_plain.py", "os.rmdir", "best.partial", 2, 6),
    "while a checkpoint is written": (
        *("bert_plain.py", "open", ".partial/training_state.json.partial"),
        *(5, 8),
    ),
    "before a checkpoint gets its name": ("bert_plain.py", "shutil.rmtree", "checkpoint-9", 1, 8),
    "after training": ("bert_plain.py", "open", "best/decision.json.partial", 1, 12),
    "before the metrics": ("bert_plain.py", "open", "metrics.json.partial", 1, 12),
    "in an epoch of gpt_train": ("gpt_train.py", "shutil.rmtree", "checkpoint-4", 2, 6),
    "in the last epoch of gpt_train": (
        "gpt_train.py",
        "open",
        "12/training_state.json.partial",
        1,
        12,
    ),
}


@pytest.mark.parametrize("moment", KILLED)
def test_a_killed_run_is_resumed_to_the_same_end(moment, small, tmp_path):
    script, *when, step = KILLED[moment]
    reference, output = small.undisturbed(script), tmp_path / "out"
    arguments = [*small.arguments(script), "--output-dir", output]
    disturbances = [(*when, signal.SIGKILL)]
    killed = run_child(script, *arguments, output=tmp_path / "told", disturbances=disturbances)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (output / "metrics.json").exists()
    last = last_whole_checkpoint(output)
    assert (last and last.name) == (step and f"checkpoint-{step}")
    resumed = call(script, *arguments, "--resume")
    assert resumed.returncode == 0 and resumed.stderr == "", resumed.stderr
    assert (f"going on from {last}" in resumed.stdout) == (step is not None)
    assert_same_end(output, reference)


@pytest.mark.parametrize(
    ("script", "number", "moment", "step"),
    [
        ("bert_plain.py", signal.SIGINT, ("shutil.rmtree", "checkpoint-4", 2), 6),
        ("bert_plain.py", signal.SIGHUP, ("open", "12/training_state.json.partial", 1), 12),
        ("gpt_train.py", signal.SIGTERM, ("os.rmdir", "best.partial", 1), 4),
    ],
    ids=["SIGINT in an epoch", "SIGHUP at the end", "SIGTERM after an evaluation"],
)
def test_an_interrupted_run_saves_and_its_command_goes_on(
    script, number, moment, step, small, tmp_path
):
    reference, output = small.undisturbed(script), tmp_path / "out"
    arguments = [*small.arguments(script), "--output-dir", output]
    settings = {"output": tmp_path / "told", "disturbances": [(*moment, number)]}
    outcome = run_child(script, *arguments, **settings)
    assert outcome.returncode == 130, outcome.stderr
    assert not (output / "metrics.json").exists()
    last = last_whole_checkpoint(output)
    assert last.name == f"checkpoint-{step}"
    told, _, command = outcome.stderr.partition("; go on with: ")
    assert told == f"{script}: interrupted; the last whole checkpoint is {last}"
    assert command.count("\n") == 1
    python, *again = shlex.split(command)
    assert python == "python"
    resumed = run_child(*again, output=tmp_path / "again")
    assert resumed.returncode == 0 and resumed.stderr == "", resumed.stderr
    assert f"going on from {last}" in resumed.stdout
    assert_same_end(output, reference)


def test_a_second_signal_ends_at_once_and_what_was_saved_is_whole(small, tmp_path):
    """While the first signal waits for the checkpoint that is being written."""
    reference, output = small.undisturbed("bert_plain.py"), tmp_path / "out"
    arguments = [*small.arguments("bert_plain.py"), "--output-dir", output]
    writing = ("open", ".partial/training_state.json.partial")
    disturbances = [("shutil.rmtree", "checkpoints/.partial", 3, signal.SIGTERM)]
    disturbances += [(*writing, 3, signal.SIGINT)]
    settings = {"output": tmp_path / "told", "disturbances": disturbances}
    outcome = run_child("bert_plain.py", *arguments, **settings)
    assert outcome.returncode == 130
    assert outcome.stderr.count("\n") == 1
    assert f"the last whole checkpoint is {output}/checkpoints/checkpoint-4" in outcome.stderr
    assert (output / "checkpoints" / ".partial").exists()
    resumed = call("bert_plain.py", *arguments, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert_same_end(output, reference)


def in_a_shell(command):
    """Run a command line as a user would paste it."""
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    environment = os.environ | OFFLINE | {"PATH": path}
    settings = {"shell": True, "cwd": ROOT, "capture_output": True, "text": True}
    return subprocess.run(command, env=environment, **settings)


def test_an_interrupt_while_torch_is_imported_leaves_a_command_that_works(small, tmp_path):
    output = tmp_path / "out"
    flags = [*small.arguments("bert_plain.py"), "--output-dir", output]
    command = [sys.executable, ROOT / "bert_plain.py", *flags]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(list(map(str, command)), env=os.environ | OFFLINE, **streams)
    deadline = time.monotonic() + 300
    while not (output / "run.json").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    began = time.perf_counter()
    _, told = process.communicate()
    assert time.perf_counter() - began < 5
    assert process.returncode == 130 and told.count("\n") == 1, told
    told, _, command = told.partition("; start again with: ")
    assert told == "bert_plain.py: interrupted; there is no checkpoint yet"
    again = in_a_shell(command)
    assert again.returncode == 0 and again.stderr == "", again.stderr
    assert_same_end(output, small.undisturbed("bert_plain.py"))


def test_an_interrupted_prediction_says_that_it_is_not_complete(small, tmp_path):
    best, output = small.undisturbed("bert_plain.py") / "best", tmp_path / "out"
    arguments = ["--model-ckpt-path", best, *small.corpus()[2:], "--output-dir", output]
    disturbances = [("open", "test.scores.jsonl.partial", 1, signal.SIGINT)]
    settings = {"output": tmp_path / "told", "disturbances": disturbances}
    outcome = run_child("bert_plain.py", *arguments, **settings)
    assert outcome.returncode == 130 and outcome.stderr.count("\n") == 1
    assert f"{output} is not complete; delete it, or give another --output-dir" in outcome.stderr
    again = call("bert_plain.py", *arguments)
    assert again.returncode == 2 and "no run is overwritten" in again.stderr


def test_two_runs_started_at_once_do_not_share_a_directory(small, tmp_path):
    arguments = [*small.arguments("bert_plain.py"), "--output-dir", tmp_path / "out"]
    started = [start("bert_plain.py", *arguments, output=tmp_path / name) for name in "ab"]
    outcomes = sorted(map(finish, started), key=lambda outcome: outcome.returncode)
    assert [outcome.returncode for outcome in outcomes] == [0, 2]
    assert outcomes[0].stderr == "" and outcomes[1].stderr.count("\n") == 1
    assert f"--output-dir {tmp_path}/out-2, or --resume" in outcomes[1].stderr
    assert_same_end(tmp_path / "out", small.undisturbed("bert_plain.py"))


# Several processes

LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--nproc_per_node", "2"],
    "accelerate": [
        *("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
        *("--main_process_port", "0", "--num_machines", "1"),
        *("--mixed_precision", "no", "--dynamo_backend", "no"),
    ],
}
WRAPPER = """
    import importlib, os, signal, sys, time
    from pathlib import Path

    sys.path[0] = {root!r}
    from emotion import process
    process.quiet_libraries()
    import torch
    from emotion import scoring

    torch.nn.functional.dropout = lambda values, *arguments, **settings: values

    def wanted(rank):
        "Once, in the process of this rank, where a file asks for it."
        asks = Path(__file__).with_name("interrupt")
        found = os.environ.get("RANK") == rank and asks.exists()
        if found:
            asks.unlink()
        return found

    def in_an_evaluation(*arguments):
        if wanted("1"):
            os.kill(os.getpid(), signal.SIGINT)
        return batches_by_length(*arguments)

    def in_an_epoch(event, arguments):
        path = Path(str(arguments[0])) if event == "shutil.rmtree" else Path()
        if path.name == "checkpoint-3" and path.exists() and wanted("0"):
            told, before = [], signal.getsignal(signal.SIGINT)
            signal.signal(signal.SIGINT, lambda *it: (told.append(it), before(*it)))
            os.kill(os.getppid(), signal.SIGINT)
            while not told:  # the launcher passes it on
                time.sleep(0.01)
            signal.signal(signal.SIGINT, before)

    batches_by_length = scoring.batches_by_length
    if {moment!r} == "evaluation":
        scoring.batches_by_length = in_an_evaluation
    elif {moment!r} == "epoch":
        sys.addaudithook(in_an_epoch)
    importlib.import_module(Path(__file__).stem).main()
"""


def wrap(script, directory, moment=None):
    """A script without dropout, which each process draws for itself.

    Where the file `interrupt` lies beside it, it is interrupted once: in the "evaluation" process 1
    alone, in an "epoch" the launcher.
    """
    wrapper = directory / script
    wrapper.write_text(textwrap.dedent(WRAPPER).format(root=str(ROOT), moment=moment))
    return wrapper


def scores_of(directory, split="dev"):
    return systems.read_scores(directory / f"{split}.scores.jsonl")[1]


@pytest.fixture(scope="session")
def odd(made_once):
    """Arguments of a training on 33 lines: the last of three steps of 16 has a single line."""

    def make(directory):
        directory.mkdir()
        rows = utils.read_corpus(utils.SAMPLE / "train.jsonl")
        write_rows(directory / "train.jsonl", rows[:33])
        write_rows(directory / "dev.jsonl", rows[64:87])
        config = json.loads((ROBERTA / "config.json").read_text())
        shutil.copytree(ROBERTA, directory / "model")
        outputs.write_json(
            directory / "model" / "config.json", config | {"attention_probs_dropout_prob": 0.0}
        )
        return subprocess.CompletedProcess([], 0)

    directory, _ = made_once("odd", make)
    files = ["--train-file", directory / "train.jsonl", "--dev-file", directory / "dev.jsonl"]
    flags = [*files, "--precision", "fp32", "--val-batch-size", 5]
    encoder = [*flags, "--model", directory / "model", "--lr", "2e-3"]
    adapter = [*flags, "--model", GPT_NEOX, "--lr", "4e-3", "--dropout", 0, "--seed", 3]
    return {
        "bert_plain.py": [*encoder, "--epochs", 2, "--save-steps", 2, "--train-batch-size"],
        "bert_GRU.py": [*encoder, "--epochs", 1, "--train-batch-size"],
        "gpt_train.py": [*adapter, "--epochs", 2, "--batch-size"],
    }


@pytest.fixture(scope="session")
def alone(made_once, odd):
    """Output directories of runs on these lines by one process, without dropout, made once."""

    def get(script):
        def train(directory):
            directory.mkdir()
            arguments = [*odd[script], 16, "--output-dir", directory / "out"]
            settings = {"output": directory / "told"}
            return run_child(wrap(script, directory), *arguments, **settings)

        directory, outcome = made_once(f"alone-{script}", train)
        assert outcome.returncode == 0 and outcome.stderr == "", outcome.stderr
        return directory / "out"

    return get


def two_processes(script, *arguments, output):
    """Run a script in two children that are told what a launcher tells; their outcomes."""
    files = [output.with_name(f"{output.name}-{rank}") for rank in range(2)]
    started = [
        start(script, *arguments, output=file, environment=environment)
        for file, environment in zip(files, ranks(2), strict=True)
    ]
    return list(map(finish, started))


def assert_trained_alike(output, alone, tolerance):
    assert scores_of(output) == pytest.approx(scores_of(alone), abs=tolerance)
    assert (output / "dev.jsonl").read_bytes() == (alone / "dev.jsonl").read_bytes()
    run, other = (json.loads((path / "run.json").read_text()) for path in (output, alone))
    assert (run["processes"], other["processes"]) == (2, 1)
    for name in ("loss", "micro_f1"):
        logged, expected = (
            {entry["step"]: entry[name] for entry in each["history"] if name in entry}
            for each in (run, other)
        )
        assert logged == pytest.approx(expected, abs=tolerance)
    assert max(expected, key=expected.get) == max(expected)  # the last: what is left has all steps


@pytest.mark.parametrize("script", ["bert_GRU.py", "gpt_train.py"])
def test_two_processes_train_as_one_does(script, odd, alone, tmp_path):
    """In float32, also with a last step of one line, which leaves a process none."""
    arguments = [*odd[script], 8, "--output-dir", tmp_path / "out"]
    outcomes = two_processes(wrap(script, tmp_path), *arguments, output=tmp_path / "told")
    assert [outcome.returncode for outcome in outcomes] == [0, 0], outcomes[0].stderr
    assert [outcome.stderr for outcome in outcomes] == ["", ""]
    assert outcomes[0].stdout.count("Done in") == 1 and outcomes[1].stdout == ""
    assert_trained_alike(tmp_path / "out", alone(script), 1e-5)


def test_two_processes_train_an_encoder_that_leaves_some_of_its_weights_out(odd, tmp_path):
    """A pooler that no head reads: DDP refuses the second step where it is not told of that."""
    encoder_layouts.build("kobigbird", tmp_path / "model")
    arguments = [*odd["bert_plain.py"], 8, "--model", tmp_path / "model", "--epochs", 1]
    arguments += ["--output-dir", tmp_path / "out"]
    outcomes = two_processes(ROOT / "bert_plain.py", *arguments, output=tmp_path / "told")
    assert [outcome.returncode for outcome in outcomes] == [0, 0], outcomes[0].stderr
    assert [outcome.stderr for outcome in outcomes] == ["", ""]


def test_two_processes_of_which_one_is_interrupted_in_an_evaluation_stop_and_go_on(
    odd, alone, tmp_path
):
    script = wrap("bert_plain.py", tmp_path, "evaluation")
    arguments = [*odd["bert_plain.py"], 8, "--output-dir", tmp_path / "out"]
    (tmp_path / "interrupt").touch()
    outcomes = two_processes(script, *arguments, output=tmp_path / "told")
    assert [outcome.returncode for outcome in outcomes] == [130, 130], outcomes[0].stderr
    assert outcomes[0].stderr.count("\n") == 1 and outcomes[1].stderr == ""
    last = last_whole_checkpoint(tmp_path / "out")
    assert last.name == "checkpoint-3"
    states = {file.name for file in last.glob("random_states_*")}
    assert states == {"random_states_0.pkl", "random_states_1.pkl"}  # of each process
    launcher = "python -m torch.distributed.run --nproc_per_node 2"
    command = shlex.join(map(str, [script, *arguments, "--resume"]))
    assert f"checkpoint is {last}; go on with: {launcher} {command}\n" in outcomes[0].stderr
    outcomes = two_processes(script, *arguments, "--resume", output=tmp_path / "again")
    assert [outcome.returncode for outcome in outcomes] == [0, 0], outcomes[0].stderr
    made_up_for = re.search(r"epoch 1/2: loss [\d.]+, dev micro-F1", outcomes[0].stdout)
    assert made_up_for, outcomes[0].stdout  # the evaluation alone: no speed of training is told
    assert_trained_alike(tmp_path / "out", alone("bert_plain.py"), 1e-5)


def launch(launcher, script, *arguments):
    """Run a script by a launcher, in a session of its own."""
    command = [sys.executable, "-m", *LAUNCHERS[launcher], *map(str, (script, *arguments))]
    environment = os.environ | OFFLINE | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    settings = {"env": environment, "capture_output": True, "text": True}
    return subprocess.run(command, start_new_session=True, **settings)


def test_an_interrupted_torchrun_stops_and_its_command_goes_on(odd, alone, tmp_path):
    script = wrap("bert_plain.py", tmp_path, "epoch")
    flags = [*odd["bert_plain.py"], 8, "--output-dir", tmp_path / "out"]
    (tmp_path / "interrupt").touch()
    process = launch("torchrun", script, *flags)
    assert process.returncode != 0
    last = last_whole_checkpoint(tmp_path / "out")
    assert last.name == "checkpoint-4" and not (tmp_path / "out" / "metrics.json").exists()
    [told] = [line for line in process.stderr.splitlines() if "interrupted;" in line]
    assert f"bert_plain.py: interrupted; the last whole checkpoint is {last}" in told
    command = told.partition("go on with: ")[2]
    assert "-m torch.distributed.run --nproc_per_node 2" in command
    resumed = in_a_shell(command)
    assert resumed.returncode == 0, resumed.stderr
    assert "going on from" in resumed.stdout and resumed.stdout.count("Done in") == 1
    assert_trained_alike(tmp_path / "out", alone("bert_plain.py"), 1e-5)


def test_accelerate_launches_a_prediction_that_equals_that_of_one_process(small, tmp_path):
    best = small.undisturbed("gpt_train.py") / "best"
    arguments = ["--model-ckpt-path", best, *small.corpus()[2:], "--precision", "fp32"]
    arguments += ["--batch-size", 5, "--output-dir", tmp_path / "out"]
    process = launch("accelerate", ROOT / "gpt_inference.py", *arguments)
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("Done in") == 1
    for split in ("dev", "test"):
        expected = scores_of(small.undisturbed("gpt_train.py"), split)
        assert scores_of(tmp_path / "out", split) == pytest.approx(expected, abs=1e-5)


# Bad input


def checkpoint_of(directory, base=str(GPT_NEOX), **changes):
    """What gpt_inference.py reads of a checkpoint before it loads anything, written by hand."""
    directory.mkdir()
    measures = {"model_type": "gpt_neox", "vocab_size": 3200, "hidden_size": 128}
    settings = {
        "objective": "answer",
        "max_length": 512,
        "labels": list(EMOTIONS),
        "strings": make_strings("ko", EMOTIONS),
        "base": measures | {"num_hidden_layers": 4},
    }
    outputs.write_json(directory / "adapter_config.json", {"base_model_name_or_path": base})
    outputs.write_json(directory / "prompt.json", settings | changes)
    decision = {"labels": list(EMOTIONS), "threshold": 0.3}
    outputs.write_json(directory / "decision.json", decision)
    return directory


@pytest.mark.parametrize(
    ("script", "case"),
    [
        (script, case)  # a file to predict needs no labels
        for script in SCRIPTS
        for case in (REFUSED_ANYWHERE if script == "gpt_inference.py" else REFUSED)
    ],
)
def test_a_wrong_line_is_refused_by_every_script(script, case, tmp_path):
    line, told = REFUSED[case]
    good = write_rows(tmp_path / "good.jsonl", [GOOD])
    bad = tmp_path / "bad.jsonl"
    line = line if isinstance(line, str) else json.dumps(line)
    bad.write_text(json.dumps(GOOD) + "\n" + line + "\n", encoding="utf-8")
    arguments = ["--model", MODELS.get(script, GPT_NEOX), "--dev-file", bad]
    if script == "gpt_inference.py":
        arguments += ["--model-ckpt-path", checkpoint_of(tmp_path / "checkpoint")]
    else:
        arguments += ["--train-file", good]
    process = call(script, *arguments, "--output-dir", tmp_path / "out")
    assert_refused(process, f"{script}: error: {bad}: {told}")
    assert process.stdout == ""
    assert not (tmp_path / "out").exists()


def test_a_line_of_a_megabyte_is_cut_and_predicted(small, tmp_path):
    rows = [make_row(str(n), form="급식 최고 " * (n * 80_000 + 1)) for n in range(2)]
    file = write_rows(tmp_path / "long.jsonl", rows)
    assert file.stat().st_size > 2**20
    flags = ["--model-ckpt-path", small.undisturbed("bert_plain.py") / "best", "--test-file", file]
    process = call("bert_plain.py", *flags, "--output-dir", tmp_path / "out")
    assert process.returncode == 0 and process.stderr == "", process.stderr
    assert "warning: 1 of 2 texts fill the 512 tokens that the model reads; " in process.stdout
    predicted = utils.read_corpus(tmp_path / "out" / "test.jsonl")
    assert [row["input"] for row in predicted] == [row["input"] for row in rows]


def test_a_file_is_predicted_window_by_window(small, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "WINDOW", 7)
    reference, output = small.undisturbed("bert_plain.py"), tmp_path / "out"
    arguments = ["--model-ckpt-path", reference / "best", *small.corpus()[2:4]]
    process = call("bert_plain.py", *arguments, "--precision", "fp32", "--output-dir", output)
    assert process.returncode == 0, process.stderr
    assert scores_of(output) == pytest.approx(scores_of(reference), abs=1e-5)
    assert (output / "dev.jsonl").read_bytes() == (reference / "dev.jsonl").read_bytes()


def test_lines_of_train_in_dev_are_counted_and_told(caplog):
    rows = [make_row(str(n), form=f"급식 {n}") for n in range(4)]
    others = [make_row("a", form="급식   3"), make_row("b", form="급식 9")]
    with caplog.at_level("WARNING", "emotion"):
        data.warn_of_repeats({"train": rows, "dev": rows, "test": others})
        assert sorted(record.getMessage().split(";")[0] for record in caplog.records) == [
            "warning: 1 of the 2 lines of test stand in train too",
            "warning: all 4 lines of dev stand in train too",
        ]
        caplog.clear()
        data.warn_of_repeats({"train": rows, "dev": [make_row("c", form="급식 1", target=None)]})
        assert not caplog.records


@pytest.mark.parametrize("split", ["train", "dev"])
def test_a_label_that_no_line_of_a_split_has_is_told(split, tmp_path):
    seen = [{"joy": "True", "fear": "False", "anger": str(n == 1)} for n in range(2)]
    rows = [make_row(str(n)) | {"output": output} for n, output in enumerate(seen)]
    file, out = str(write_rows(tmp_path / "rows.jsonl", rows)), tmp_path / "out"
    every = str(
        write_rows(
            tmp_path / "every.jsonl",
            [row | {"output": dict.fromkeys(seen[0], "True")} for row in rows],
        )
    )
    files = {"train": every, "dev": every, split: file}
    given = ["--train-file", files["train"], "--dev-file", files["dev"], "--output-dir", str(out)]
    cli.run_script(bert_plain.argument_parser("bert_plain", ""), data.read_to_train, given)
    told = (out / "train.log").read_text()
    assert told.count("no line of") == 1
    assert f"warning: no line of {split} is labelled fear\n" in told


# Checkpoints from others


@pytest.mark.parametrize(
    "change",
    [
        {"strings": {"prefix": "x"}},
        {"strings": make_strings("ko", EMOTIONS[:7])},
        {"strings": make_strings("ko", EMOTIONS) | {"answers": list(range(9))}},
        {"labels": [1, 2, 3, 4, 5, 6, 7, 8]},
        {"objective": "regression"},
        {"max_length": "512"},
        {"base": None},
    ],
    ids=["prompt", "eight answers", "numbers", "labels", "objective", "length", "base"],
)
def test_an_adapter_that_does_not_fit_is_refused(change, tmp_path):
    file = write_rows(tmp_path / "dev.jsonl", [GOOD])
    checkpoint = checkpoint_of(tmp_path / "checkpoint", **change)
    flags = ["--model-ckpt-path", checkpoint, "--dev-file", file, "--output-dir", tmp_path / "out"]
    assert_refused(call("gpt_inference.py", *flags), checkpoint, "is no checkpoint")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("change", ["lacks", "has"])
def test_an_adapter_with_other_layers_is_refused(change, small, tmp_path):
    """One that lacks a matrix would score as its base does there, without a word."""
    best = shutil.copytree(small.undisturbed("gpt_train.py") / "best", tmp_path / "best")
    weights = load_file(best / "adapter_model.safetensors")
    name = sorted(weights)[0]
    matrix = weights.pop(name)
    weights |= {name.replace("query_key_value", "dense"): matrix} if change == "has" else {}
    save_file(weights, best / "adapter_model.safetensors", {"format": "pt"})
    file = write_rows(tmp_path / "dev.jsonl", [GOOD])
    flags = ["--model-ckpt-path", best, "--dev-file", file, "--output-dir", tmp_path / "out"]
    told = f"{best}: is of another model (it {change} "
    assert_refused(call("gpt_inference.py", *flags), told)
    assert not (tmp_path / "out").exists()


def test_an_adapter_of_another_architecture_is_not_gone_on_with(small, tmp_path):
    best = small.undisturbed("gpt_train.py") / "best"
    causal_layouts.build("llama3", tmp_path / "model")
    arguments = small.arguments("gpt_train.py")
    arguments[1] = tmp_path / "model"
    flags = ["--adapter", best, "--output-dir", tmp_path / "out"]
    told = "error: --adapter: LlamaForCausalLM: Target modules "
    mend = f"; give another, or --model {GPT_NEOX}, that it was trained on"
    assert_refused(call("gpt_train.py", *arguments, *flags), told, mend)


def test_an_adapter_of_another_base_is_refused_before_weights_are_loaded(small, tmp_path):
    best = small.undisturbed("gpt_train.py") / "best"
    file = write_rows(tmp_path / "dev.jsonl", [GOOD])
    base = tmp_path / "base"
    base.mkdir()
    config = json.loads((GPT_NEOX / "config.json").read_text())
    flags = ["--model-ckpt-path", best, "--dev-file", file, "--output-dir", tmp_path / "out"]
    for name, value in (("vocab_size", 99), ("hidden_size", 256), ("num_hidden_layers", 3)):
        # and no weights, which are not looked for
        (base / "config.json").write_text(json.dumps(config | {name: value}))
        process = call("gpt_inference.py", *flags, "--model", base)
        assert_refused(process, f"{name} {config[name]}", f"has {value}")
    assert not (tmp_path / "out").exists()


class Payload:
    def __reduce__(self):
        return (os.mkdir, ("executed",))


@pytest.mark.parametrize("kind", ["pickle", "pickle beside", "remote code", "adapter"])
def test_a_checkpoint_runs_no_code_and_leads_nowhere_else(kind, small, tmp_path):
    best = tmp_path / "best"
    shutil.copytree(small.undisturbed("bert_plain.py") / "best", best)
    if kind.startswith("pickle"):
        if kind == "pickle":
            (best / "model.safetensors").unlink()
        else:
            (best / "model.safetensors").write_bytes(b"")
        (best / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(), protocol=2))
    elif kind == "remote code":
        config = json.loads((best / "config.json").read_text())
        config |= {"model_type": "theirs", "auto_map": {"AutoConfig": "theirs.Config"}}
        (best / "config.json").write_text(json.dumps(config))
        (best / "theirs.py").write_text("import os; os.mkdir('executed')")
    else:
        adapter = {"base_model_name_or_path": str(ROBERTA), "peft_type": "LORA"}
        (best / "adapter_config.json").write_text(json.dumps(adapter))
    file = write_rows(tmp_path / "dev.jsonl", [GOOD])
    flags = ["--model-ckpt-path", best, "--dev-file", file, "--output-dir", tmp_path / "out"]
    process = call("bert_plain.py", *flags, cwd=tmp_path)
    assert_refused(process, f"bert_plain.py: error: {best}: ")
    assert not (tmp_path / "out").exists() and not (tmp_path / "executed").exists()


@pytest.mark.parametrize("script", ["bert_plain.py", "gpt_train.py"])
def test_a_model_to_train_runs_no_code(script, small, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(MODELS[script], model)
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(), protocol=2))
    arguments = [*small.arguments(script), "--model", model, "--output-dir", tmp_path / "out"]
    assert_refused(call(script, *arguments, cwd=tmp_path), f"{script}: error: {model}: ")
    assert not (tmp_path / "out").exists() and not (tmp_path / "executed").exists()


def test_a_checkpoint_decides_by_its_own_rule_which_a_hand_may_edit_unless_told(small, tmp_path):
    best = tmp_path / "best"
    shutil.copytree(small.undisturbed("bert_plain.py") / "best", best)
    decision = json.loads((best / "decision.json").read_text())
    scores = scores_of(small.undisturbed("bert_plain.py"))
    flags = ["--model-ckpt-path", best, *small.corpus()[2:4], "--precision", "fp32"]
    thresholds = {"own": decision["threshold"], "edited": 0.2, "told": 0.3}
    for name, threshold in thresholds.items():
        if name == "edited":
            outputs.write_json(best / "decision.json", decision | {"threshold": threshold})
        told = ["--threshold", threshold] if name == "told" else []
        process = call("bert_plain.py", *flags, *told, "--output-dir", tmp_path / name)
        assert process.returncode == 0, process.stderr
        rows = utils.read_corpus(tmp_path / name / "dev.jsonl")
        decided = utils.encode_labels(rows, EMOTIONS).astype(bool)
        sure = np.abs(scores - threshold) > 1e-5
        assert (decided == (scores >= threshold))[sure].all()
