"""Runs that are killed, interrupted, resumed, shared out or given what they should refuse. The long part: survival.py."""

import argparse
import json
import os
import pickle
import shlex
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from conftest import OFFLINE, ROOT, make_row, run_script, write_rows
from test_corpus import GOOD, REFUSED

import bert_plain
import ensemble
import utils

SCRIPTS = ("bert_plain.py", "bert_GRU.py", "gpt_train.py", "gpt_inference.py")
ENDS_WITH = ("metrics.json", "dev.jsonl", "dev.scores.jsonl", "test.jsonl", "test.scores.jsonl")
ROBERTA, GPT_NEOX = utils.SAMPLE / "roberta-tiny", utils.SAMPLE / "gpt-neox-tiny"
MODELS = {"bert_plain.py": ROBERTA, "bert_GRU.py": ROBERTA, "gpt_train.py": GPT_NEOX}
SETTINGS = {
    "bert_plain.py": ["--train-batch-size", 8],
    "bert_GRU.py": [],
    "gpt_train.py": ["--batch-size", 8, "--save-steps", 3],
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Arguments that name a corpus of 64, 24 and 16 lines."""
    root = tmp_path_factory.mktemp("corpus")
    rows = utils.read_corpus(utils.SAMPLE / "train.jsonl")
    parts = {"train": rows[:64], "dev": rows[64:88], "test": rows[88:104]}
    return [argument for split, part in parts.items() for argument in (f"--{split}-file", write_rows(root / split, part))]


@pytest.fixture(scope="module")
def undisturbed(corpus, tmp_path_factory):
    """The output directory of a whole run of a script, made once for each."""
    made = {}

    def run(script):
        if script not in made:
            made[script] = tmp_path_factory.mktemp(script) / "out"
            process = run_script(script, *training(script, corpus), "--output-dir", made[script])
            assert process.returncode == 0 and process.stderr == "", process.stderr
        return made[script]

    return run


def training(script, corpus):
    return ["--model", MODELS[script], *corpus, "--epochs", 3, "--lr", "1e-3", *SETTINGS[script]]


def start(script, *arguments):
    command = [sys.executable, str(ROOT / script), *map(str, arguments)]
    return subprocess.Popen(command, env=os.environ | OFFLINE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(process, path, pattern):
    """Wait until a file that matches appears below `path`, and fail if the process ends before."""
    while not any(path.glob(pattern)):
        assert process.poll() is None, process.communicate()
        time.sleep(0.001)


def assert_same_end(output, reference):
    for name in ENDS_WITH:
        assert (output / name).read_bytes() == (reference / name).read_bytes(), name
    for weights in (reference / "best").glob("*.safetensors"):
        assert (output / "best" / weights.name).read_bytes() == weights.read_bytes()


# Killed and interrupted


@pytest.mark.parametrize(
    ("script", "moment"),
    [
        ("bert_plain.py", "checkpoints/.partial/*/*"),
        ("bert_plain.py", "run.json"),
        ("gpt_train.py", "checkpoints/checkpoint-6"),
    ],
)
def test_a_killed_run_is_resumed_to_the_same_end(script, moment, corpus, undisturbed, tmp_path):
    reference, output = undisturbed(script), tmp_path / "out"
    process = start(script, *training(script, corpus), "--output-dir", output)
    wait_for(process, output, moment)
    process.kill()
    process.communicate()
    assert not (output / "metrics.json").exists()
    resumed = run_script(script, *training(script, corpus), "--output-dir", output, "--resume")
    assert resumed.returncode == 0 and resumed.stderr == "", resumed.stderr
    assert_same_end(output, reference)
    assert not (output / "checkpoints" / ".partial").exists()


@pytest.mark.parametrize(("script", "number"), [("bert_plain.py", signal.SIGINT), ("gpt_train.py", signal.SIGTERM)])
def test_an_interrupted_run_saves_says_how_to_go_on_and_does(script, number, corpus, undisturbed, tmp_path):
    reference, output = undisturbed(script), tmp_path / "out"
    process = start(script, *training(script, corpus), "--output-dir", output)
    wait_for(process, output, "checkpoints/checkpoint-*")
    began = time.perf_counter()
    process.send_signal(number)
    _, told = process.communicate()
    assert time.perf_counter() - began < 10
    assert process.returncode == 130, told
    assert told.count("\n") == 1 and str(utils.last_whole_checkpoint(output)) in told
    command = shlex.split(told.partition("go on with: python ")[2])
    resumed = run_script(*command)
    assert resumed.returncode == 0, resumed.stderr
    assert_same_end(output, reference)


def test_an_evaluation_that_is_broken_off_is_made_up_for(corpus, undisturbed, tmp_path, monkeypatch):
    """Also in the last epoch, after which there is no step to go on with."""
    reference, output = undisturbed("bert_plain.py"), tmp_path / "out"

    def run(*more):
        arguments = [*map(str, training("bert_plain.py", corpus)), "--output-dir", str(output), *more]
        args = bert_plain.parser.parse_args(arguments)
        corpora = utils.read_corpora(args, predicting=False)
        bert_plain.main(args, corpora, bert_plain.AutoModelForSequenceClassification)

    dev_metrics = bert_plain.dev_metrics

    def break_off(prediction):
        monkeypatch.setattr(bert_plain, "dev_metrics", dev_metrics)
        raise KeyboardInterrupt

    def after(evaluations):
        def count(prediction):
            if evaluations:
                return dev_metrics(prediction) if evaluations.pop() else break_off(prediction)
            return break_off(prediction)

        return count

    for survived in ([], [True], [True]):  # broken off in the first, then in the second, then in the third epoch
        monkeypatch.setattr(bert_plain, "dev_metrics", after(survived))
        with pytest.raises(KeyboardInterrupt):
            run(*["--resume"] * output.exists())
        assert utils.last_whole_checkpoint(output)
    run("--resume")
    assert_same_end(output, reference)


def test_two_runs_with_one_seed_are_equal_and_with_another_are_not(corpus, undisturbed, tmp_path):
    for seed in (42, 43):
        process = run_script(
            "bert_plain.py", *training("bert_plain.py", corpus), "--seed", seed, "--output-dir", tmp_path / str(seed)
        )
        assert process.returncode == 0, process.stderr
    assert_same_end(tmp_path / "42", undisturbed("bert_plain.py"))
    assert (tmp_path / "43" / "dev.scores.jsonl").read_bytes() != (tmp_path / "42" / "dev.scores.jsonl").read_bytes()


def test_a_checkpoint_is_passed_over_that_lacks_a_file_or_the_end_of_one(undisturbed, tmp_path):
    whole = utils.last_whole_checkpoint(undisturbed("gpt_train.py"))
    kept = sorted(int(path.name.rpartition("-")[2]) for path in whole.parent.iterdir())
    assert kept[-2:] == [22, 24] or kept[-2:] == [21, 24]  # steps are saved too, and no more than three are kept
    assert len(kept) <= 3
    shutil.copytree(whole, tmp_path / "checkpoints" / "checkpoint-5")
    later = tmp_path / "checkpoints" / "checkpoint-6"
    for file in whole.iterdir():
        if file.suffix not in (".json", ".pt", ".pth", ".bin", ".safetensors"):
            continue
        for change in ("missing", "cut"):
            if change == "missing" and file.name not in ("trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth"):
                continue
            shutil.rmtree(later, ignore_errors=True)
            shutil.copytree(whole, later)
            assert utils.last_whole_checkpoint(tmp_path) == later
            if change == "missing":
                (later / file.name).unlink()
            else:
                (later / file.name).write_bytes(file.read_bytes()[: file.stat().st_size // 2])
            assert utils.last_whole_checkpoint(tmp_path).name == "checkpoint-5", (file.name, change)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (["--lr", "2e-3"], "--lr was 0.001, and is 0.002"),
        (["--seed", "1"], "--seed"),
        (["--model", "{copy}"], "--model"),
        (["--train-file", "{other}"], "--train-file is not the file"),
        (["--dev-file", "{other}"], "--dev-file is not the file"),
        (["--pooling", "mean"], "--pooling"),
    ],
)
def test_resume_refuses_another_run(change, told, corpus, undisturbed, tmp_path):
    output = undisturbed("bert_plain.py")
    shutil.copytree(ROBERTA, tmp_path / "copy")
    other = write_rows(tmp_path / "other", [make_row(str(n)) for n in range(9)])
    change = [argument.format(copy=tmp_path / "copy", other=other) for argument in change]
    process = run_script("bert_plain.py", *training("bert_plain.py", corpus), *change, "--output-dir", output, "--resume")
    assert process.returncode == 2 and process.stderr.count("\n") == 1
    assert told in process.stderr


def test_a_corpus_that_moved_may_be_resumed(corpus, undisturbed, tmp_path):
    args = bert_plain.parser.parse_args(list(map(str, training("bert_plain.py", corpus))))
    args.output_dir = undisturbed("bert_plain.py")
    del args.sample_defaults
    args.train_file = shutil.copy(args.train_file, tmp_path / "moved")
    utils.check_same_run(args, ["train", "dev", "test"])
    with pytest.raises(utils.InputError, match="--test-file"):
        utils.check_same_run(args, ["train", "dev"])


# What a machine lacks


def test_a_full_disk_is_told_and_what_was_saved_stays(corpus, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=14m", "tmpfs", disk], capture_output=True, text=True)
    if mount.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mount.stderr.strip()}")
    try:
        process = run_script("bert_plain.py", *training("bert_plain.py", corpus), "--output-dir", disk / "out")
        assert process.returncode == 1, process.stderr
        assert process.stderr.count("\n") == 1
        assert str(disk / "out" / "checkpoints" / "checkpoint-16") in process.stderr and "MiB are needed" in process.stderr
        assert utils.last_whole_checkpoint(disk / "out").name == "checkpoint-8"
        assert not (disk / "out" / "metrics.json").exists()
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_full_disk_while_a_file_is_written_leaves_the_one_before(tmp_path):
    utils.write_json(tmp_path / "metrics.json", 1)
    with pytest.raises(utils.RunError, match=r"metrics\.json: no room"), utils.whole_file(tmp_path / "metrics.json"):
        raise OSError(utils.NO_ROOM[0], "No space left on device")
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]
    assert (tmp_path / "metrics.json").read_text() == "1\n"
    with pytest.raises(utils.RunError, match="are needed"), utils.room_for(tmp_path / "model", 2**60):
        raise AssertionError("is not reached")


@pytest.mark.parametrize("script", ["bert_plain.py", "gpt_train.py"])
def test_a_loss_that_is_not_finite_stops_the_run(script, corpus, tmp_path):
    rates = ["--lr", "1e38"] if script == "gpt_train.py" else ["--lr", "1e38", "--head-lr", "1e38"]
    process = run_script(script, *training(script, corpus), *rates, "--output-dir", tmp_path / "out")
    assert process.returncode == 1, process.stdout
    assert process.stderr.count("\n") == 1
    assert "the loss is" in process.stderr and "on the lines sample-" in process.stderr and "--lr" in process.stderr
    assert not (tmp_path / "out" / "metrics.json").exists()


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), 1, "the memory of the GPU is full (CUDA"),
        (utils.RunError("step 3: it went wrong"), 1, "error: step 3"),
        (utils.InputError("--lr: is odd"), 2, "error: --lr"),
        (KeyboardInterrupt(), 130, "there is no checkpoint yet; start again with: python "),
    ],
)
def test_what_ends_a_run_is_told_in_one_line(error, code, told, capsys, tmp_path):
    args = argparse.Namespace(output_dir=tmp_path, resume=False, model_ckpt_path=None)
    with pytest.raises(SystemExit) as end, utils.errors_for_people(bert_plain.parser, args):
        raise error
    assert end.value.code == code
    message = capsys.readouterr().err
    assert told in message and message.count("\n") == 1


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(utils.InputError, match="3 processes were launched, and there are 2 GPUs"):
        utils.check_devices()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    utils.check_devices()


def test_gpus_that_are_not_used_or_differ_are_told(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", ["RTX 4090", "RTX 3090"].__getitem__)
    [note] = utils.device_notes("cuda:0")
    assert "2 GPUs are here, and 1 in use" in note and "torchrun --nproc_per_node 2" in note
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    [note] = utils.device_notes("cuda:0")
    assert "the GPUs differ (RTX 3090, RTX 4090)" in note
    assert utils.device_notes(torch.device("cpu")) == ["no GPU was found: this runs on the CPU"]


def test_a_gpu_that_is_not_of_cuda_has_no_notes(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert utils.device_notes(torch.device("mps")) == []


# Several processes


LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--nproc_per_node", "2"],
    "accelerate": ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"],
}
WITHOUT_DROPOUT = f"""
import os, runpy, sys, torch
gru = torch.nn.GRU
torch.nn.GRU = lambda *arguments, dropout, **settings: gru(*arguments, **settings)
torch.nn.functional.dropout = lambda values, *arguments, **settings: values
sys.path[0] = {str(ROOT)!r}
runpy.run_path(os.path.join(sys.path[0], os.path.basename(sys.argv[0])), run_name="__main__")
"""


def launch_two(launcher, script, *arguments):
    command = [sys.executable, "-m", *LAUNCHERS[launcher], str(ROOT / script), *map(str, arguments)]
    environment = os.environ | OFFLINE | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("Done in") == 1
    return process


def scores_of(directory, split="dev"):
    return ensemble.read_scores(directory / f"{split}.scores.jsonl")[1]


@pytest.mark.parametrize(("launcher", "script"), [("torchrun", "bert_plain.py"), ("accelerate", "bert_GRU.py")])
def test_two_processes_train_an_encoder_as_one_does(launcher, script, corpus, tmp_path):
    """Without dropout, which each process draws for itself, and in float32."""
    without_dropout = tmp_path / script
    without_dropout.write_text(WITHOUT_DROPOUT)
    model = tmp_path / "model"
    shutil.copytree(ROBERTA, model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"attention_probs_dropout_prob": 0.0}))
    flags = ["--model", model, *corpus, "--epochs", 2, "--lr", "1e-3", "--precision", "fp32"]
    alone = run_script(without_dropout, *flags, "--train-batch-size", 16, "--output-dir", tmp_path / "one")
    assert alone.returncode == 0, alone.stderr
    launch_two(launcher, without_dropout, *flags, "--train-batch-size", 8, "--output-dir", tmp_path / "two")
    assert scores_of(tmp_path / "two") == pytest.approx(scores_of(tmp_path / "one"), abs=1e-5)
    assert (tmp_path / "two" / "dev.jsonl").read_bytes() == (tmp_path / "one" / "dev.jsonl").read_bytes()
    assert json.loads((tmp_path / "two" / "run.json").read_text())["processes"] == 2
    checkpoint = utils.last_whole_checkpoint(tmp_path / "two")
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= {file.name for file in checkpoint.iterdir()}


def test_two_processes_train_and_predict_with_an_adapter_as_one_does(corpus, tmp_path):
    flags = ["--model", GPT_NEOX, *corpus, "--epochs", 1, "--lr", "1e-3", "--dropout", 0]
    alone = run_script("gpt_train.py", *flags, "--batch-size", 16, "--output-dir", tmp_path / "one")
    assert alone.returncode == 0, alone.stderr
    launch_two("torchrun", "gpt_train.py", *flags, "--batch-size", 8, "--output-dir", tmp_path / "two")
    assert scores_of(tmp_path / "two") == pytest.approx(scores_of(tmp_path / "one"), abs=2e-3)  # trained in bf16
    predict = ["--model-ckpt-path", tmp_path / "one" / "best", *corpus[2:], "--output-dir"]
    launch_two("accelerate", "gpt_inference.py", *predict, tmp_path / "predicted")
    for split in ("dev", "test"):
        assert scores_of(tmp_path / "predicted", split) == pytest.approx(scores_of(tmp_path / "one", split), abs=2e-6)


# Bad input


def checkpoint_of(directory, base=str(GPT_NEOX), **changes):
    """What gpt_inference.py reads of a checkpoint before it loads anything, written by hand."""
    directory.mkdir()
    settings = {"objective": "answer", "max_length": 512, "strings": utils.PROMPTS["ko"]}
    settings["base"] = {"model_type": "gpt_neox", "vocab_size": 3200, "hidden_size": 128, "num_hidden_layers": 4}
    utils.write_json(directory / "adapter_config.json", {"base_model_name_or_path": base})
    utils.write_json(directory / "prompt.json", settings | changes)
    decision = {"emotions": utils.EMOTIONS, "threshold": 0.3}
    utils.write_json(directory / "decision.json", decision | {"sha256": utils.seal(decision)})
    return directory


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_wrong_line_is_refused_by_every_script(script, case, tmp_path):
    line, told = REFUSED[case]
    if isinstance(line, dict) and case != "id twice" and line.get("id") == GOOD["id"]:
        line = {**line, "id": "line-2"}
    line = line if isinstance(line, str) else json.dumps(line)
    good = write_rows(tmp_path / "good.jsonl", [GOOD])
    bad = tmp_path / "bad.jsonl"
    bad.write_text(json.dumps(GOOD) + "\n" + line + "\n", encoding="utf-8")
    if script == "gpt_inference.py":
        arguments = ["--model", GPT_NEOX, "--model-ckpt-path", checkpoint_of(tmp_path / "checkpoint")]
    else:
        arguments = ["--model", MODELS[script], "--train-file", good]
    process = run_script(script, *arguments, "--dev-file", bad, "--output-dir", tmp_path / "out")
    assert process.returncode == 2, process.stdout
    assert process.stdout == "" and process.stderr.count("\n") == 1
    assert f"{bad}: {told}" in process.stderr
    assert not (tmp_path / "out").exists()


def test_a_line_of_a_megabyte_is_cut_and_predicted(sample_runs, tmp_path):
    rows = [make_row(str(n), form="급식 최고 " * (n * 80_000 + 1)) for n in range(2)]
    file = write_rows(tmp_path / "long.jsonl", rows)
    assert file.stat().st_size > 2**20
    flags = ["--model-ckpt-path", sample_runs["bert_plain"][0] / "best", "--test-file", file, "--output-dir", tmp_path / "out"]
    process = run_script("bert_plain.py", *flags)
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    assert [row["input"] for row in utils.read_corpus(tmp_path / "out" / "test.jsonl")] == [row["input"] for row in rows]


def test_a_file_is_predicted_window_by_window(sample_runs, tmp_path, monkeypatch):
    monkeypatch.setattr(utils, "WINDOW", 7)
    best = sample_runs["bert_plain"][0] / "best"
    arguments = ["--model-ckpt-path", best, "--dev-file", utils.SAMPLE / "dev.jsonl", "--output-dir", tmp_path / "out"]
    args = bert_plain.parser.parse_args(list(map(str, arguments)))
    bert_plain.main(args, {"dev": 150}, None)
    assert scores_of(tmp_path / "out") == pytest.approx(scores_of(sample_runs["bert_plain"][0]), abs=0.02)  # bf16 may be used
    ids = [row["id"] for row in utils.read_corpus(utils.SAMPLE / "dev.jsonl")]
    assert [row["id"] for row in utils.read_corpus(tmp_path / "out" / "dev.jsonl")] == ids


def test_lines_of_train_in_dev_are_counted_and_told(caplog):
    rows = [make_row(str(n), form=f"급식 {n}") for n in range(4)]
    others = [make_row("a", form="급식   3"), make_row("b", form="급식 9")]
    with caplog.at_level("WARNING", "nikluge-ea"):
        utils.warn_of_repeats({"train": rows, "dev": rows, "test": others})
        assert sorted(record.message.split(";")[0] for record in caplog.records) == [
            "warning: 1 of the 2 lines of test stand in train too",
            "warning: all 4 lines of dev stand in train too",
        ]
        caplog.clear()
        utils.warn_of_repeats({"train": rows, "dev": [make_row("c", form="급식 1", target=None)]})
        assert not caplog.records


# Checkpoints from others


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, "a path outside it"),
        ({"strings": {"prefix": "x"}}, "is no checkpoint"),
        ({"strings": utils.PROMPTS["ko"] | {"answers": utils.PROMPTS["ko"]["answers"][:-1]}}, "is no checkpoint"),
        ({"strings": utils.PROMPTS["ko"] | {"answers": list(range(9))}}, "is no checkpoint"),
        ({"objective": "regression"}, "is no checkpoint"),
        ({"max_length": "512"}, "is no checkpoint"),
        ({"base": None}, "is no checkpoint"),
    ],
    ids=[
        "base elsewhere",
        "prompt",
        "eight answers",
        "answers that are numbers",
        "objective",
        "length",
        "measures of the base",
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_before_torch_is_imported(change, told, tmp_path):
    file = write_rows(tmp_path / "dev.jsonl", [GOOD])
    checkpoint = checkpoint_of(tmp_path / "checkpoint", **change)
    flags = ["--model-ckpt-path", checkpoint, "--dev-file", file, "--output-dir", tmp_path / "out"]
    process = run_script("gpt_inference.py", *flags)
    assert process.returncode == 2 and process.stderr.count("\n") == 1, process.stderr
    assert told in process.stderr
    assert not (tmp_path / "out").exists()


def test_an_adapter_of_another_base_is_refused_before_weights_are_loaded(undisturbed, tmp_path):
    best = tmp_path / "best"
    shutil.copytree(undisturbed("gpt_train.py") / "best", best)
    file = write_rows(tmp_path / "dev.jsonl", [GOOD])
    base = tmp_path / "base"
    base.mkdir()
    config = json.loads((GPT_NEOX / "config.json").read_text())
    for name, value in (("vocab_size", 99), ("hidden_size", 256), ("num_hidden_layers", 3)):
        (base / "config.json").write_text(json.dumps(config | {name: value}))  # and no weights, which are not looked for
        flags = ["--model-ckpt-path", best, "--model", base, "--dev-file", file, "--output-dir", tmp_path / "out"]
        process = run_script("gpt_inference.py", *flags)
        assert process.returncode == 2 and process.stderr.count("\n") == 1, process.stderr
        assert f"{name} {config[name]}" in process.stderr and f"has {value}" in process.stderr
    refused = run_script("gpt_inference.py", "--model-ckpt-path", best, "--dev-file", file, "--output-dir", tmp_path / "out")
    assert refused.returncode == 2 and f"give --model {GPT_NEOX}" in refused.stderr  # moved away from its run
    assert not (tmp_path / "out").exists()


class Payload:
    def __reduce__(self):
        return (os.mkdir, ("executed",))


@pytest.mark.parametrize("kind", ["pickle", "remote code", "adapter"])
def test_a_checkpoint_runs_no_code_and_leads_nowhere_else(kind, sample_runs, tmp_path):
    best = tmp_path / "best"
    shutil.copytree(sample_runs["bert_plain"][0] / "best", best)
    if kind == "pickle":
        (best / "model.safetensors").unlink()
        (best / "pytorch_model.bin").write_bytes(pickle.dumps(Payload()))
    elif kind == "remote code":
        config = json.loads((best / "config.json").read_text())
        config |= {"model_type": "theirs", "auto_map": {"AutoConfig": "theirs.Config"}}
        (best / "config.json").write_text(json.dumps(config))
        (best / "theirs.py").write_text("import os; os.mkdir('executed')")
    else:
        (best / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(ROBERTA), "peft_type": "LORA"}))
    file = write_rows(tmp_path / "dev.jsonl", [GOOD])
    flags = ["--model-ckpt-path", best, "--dev-file", file, "--output-dir", tmp_path / "out"]
    process = run_script("bert_plain.py", *flags, cwd=tmp_path)
    assert process.returncode == 2, process.stderr
    assert f"bert_plain.py: error: {best}: " in process.stderr.splitlines()[-1] and "Traceback" not in process.stderr
    assert not (tmp_path / "out").exists() and not (tmp_path / "executed").exists()


def test_scores_of_a_checkpoint_are_decided_by_its_own_rule_unless_told(sample_runs, tmp_path):
    best = tmp_path / "best"
    shutil.copytree(sample_runs["bert_plain"][0] / "best", best)
    decision = json.loads((best / "decision.json").read_text())
    utils.write_json(best / "decision.json", decision | {"threshold": 0.01})
    args = argparse.Namespace(model_ckpt_path=best, threshold="auto")
    with pytest.raises(utils.InputError, match="was changed"):
        utils.checkpoint_threshold(args)
    args.threshold = 0.01
    assert utils.checkpoint_threshold(args) == 0.01
    assert np.isclose(utils.load_threshold(sample_runs["bert_plain"][0] / "best"), decision["threshold"])
