"""The output directory: whose it is, what lies in it, what a run says, and how it ends."""

import argparse
import concurrent.futures
import contextlib
import errno
import json
import logging
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import threading
import types

import huggingface_hub
import numpy as np
import pytest
import torch
from conftest import ROOT, assert_refused, call, make_row, run_script, write_rows
from safetensors.torch import load_file, save_file
from small_runs import GPT_NEOX, ROBERTA, assert_same_end

import bert_plain
import utils
from emotion import checkpoint, cli, ending, outputs, process, scoring, training
from emotion.run import Run, last_whole_checkpoint


def content(directory):
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


# Whose a directory is


def test_a_directory_is_taken_before_anything_is_loaded(small, tmp_path, monkeypatch):
    output, found = tmp_path / "below" / "out", []
    describe_model = checkpoint.describe_model

    def look(name):
        found.extend(sorted(path.name for path in output.iterdir()))
        return describe_model(name)

    monkeypatch.setattr(checkpoint, "describe_model", look)
    arguments = [*small.arguments("bert_plain.py"), "--model", tmp_path, "--output-dir", output]
    assert_refused(call("bert_plain.py", *arguments), "no config.json")
    assert found == ["run.json", "train.log"]
    assert not (tmp_path / "below").exists()


def test_of_runs_that_begin_at_once_one_gets_the_directory(tmp_path):
    for attempt in range(20):
        args = argparse.Namespace(output_dir=tmp_path / str(attempt), resume=False)
        together = threading.Barrier(8)

        def take(args=args, together=together):
            together.wait()
            try:
                return Run(args, "one.py").take()
            except utils.InputError as error:
                return str(error)

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            told = [each.result() for each in [pool.submit(take) for _ in range(8)]]
        assert told.count(None) == 1
        refused = {each for each in told if each is not None}
        assert len(refused) == 1 and f"{attempt}-2, or --resume" in refused.pop()


def test_a_run_is_resumed_by_one_process_at_a_time(tmp_path):
    args = argparse.Namespace(output_dir=tmp_path / "out", resume=True)
    told = "another process is at work there; let it end, or give another --output-dir"
    with Run(args, "a.py") as run:
        before = content(tmp_path)
        with pytest.raises(utils.InputError, match=told):
            Run(args, "a.py").__enter__()
        assert content(tmp_path) == before
    args.seed = 1
    with pytest.raises(utils.InputError, match="--seed was None, and is 1"):
        Run(args, "a.py").__enter__()
    del args.seed  # what was refused holds nothing
    with Run(args, "a.py") as again:
        assert again.record["started"] == run.record["started"]


@pytest.mark.parametrize("lost", ["", "[]", '"text"'])
def test_a_run_json_that_got_lost_is_not_taken_for_a_new_one(lost, tmp_path):
    """What is there is of a run that nobody can compare any more."""
    args = argparse.Namespace(output_dir=tmp_path / "out", resume=True)
    (tmp_path / "out" / "checkpoints").mkdir(parents=True)
    (tmp_path / "out" / "run.json").write_text(lost)
    with pytest.raises(utils.InputError, match=r"run.json: is broken; start anew with another"):
        Run(args, "a.py").__enter__()


def test_a_run_is_the_same_however_the_directory_of_its_model_is_called(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "link").symlink_to("model")
    args = argparse.Namespace(output_dir=tmp_path / "out", resume=True, model="model")
    for name in ("model", "model/", "./model", str(tmp_path / "model"), "link"):
        args.model = name
        with Run(args, "a.py"):
            pass
    args.model = "klue/roberta-large"  # of the hub
    with pytest.raises(utils.InputError, match=r"--model was .*model, and is klue/roberta-large;"):
        Run(args, "a.py").__enter__()


def test_files_of_directories_are_moved_over_those_before(tmp_path):
    """As of a tokenizer with several chat templates, whose second best epoch comes."""
    for content in ("a", "b"):
        (tmp_path / "new" / "inside").mkdir(parents=True)
        for path in (tmp_path / "new" / "outside.txt", tmp_path / "new" / "inside" / "one.txt"):
            path.write_text(content)
        outputs.move_files(tmp_path / "new", tmp_path / "best")
    moved = {str(each.relative_to(tmp_path)): each.read_text() for each in tmp_path.rglob("*.txt")}
    assert moved == {"best/outside.txt": "b", "best/inside/one.txt": "b"}
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


@pytest.mark.parametrize("error", [RuntimeError("Connection closed by peer"), MemoryError()])
def test_what_the_disk_is_not_at_fault_for_is_not_told_of_it(error, tmp_path):
    (tmp_path / "part").mkdir()
    with pytest.raises(type(error)) as told, outputs.saving(tmp_path / "whole", tmp_path / "part"):
        raise error
    assert told.value is error and not (tmp_path / "part").exists()


def test_peak_memory_is_that_of_this_process_alone():
    """A child of a large process is not large."""
    code = "from emotion import process; print(process.peak_memory_gib()['host'])"
    held = bytearray(os.urandom(1)) * 2**29  # each page of which is there
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    assert 0 < float(ended.stdout) < 0.4 < process.peak_memory_gib()["host"] and held


def test_a_directory_in_use_is_refused_and_a_free_one_named(small, tmp_path):
    output = tmp_path / "out"
    arguments = [*small.arguments("bert_plain.py"), "--epochs", 1, "--output-dir"]
    output.mkdir()
    (output / "notes.txt").write_text("mine")
    (tmp_path / "out-2").touch()
    refused = call("bert_plain.py", *arguments, output)
    told = f"{output}: is not empty, and no run is overwritten; "
    assert_refused(refused, told, f"as --output-dir {tmp_path}/out-3, or --resume")
    assert_refused(call("bert_plain.py", *arguments, output, "--resume"), "holds no run to resume")
    assert [path.name for path in output.iterdir()] == ["notes.txt"]
    refused = call("bert_plain.py", *arguments, "out", cwd=tmp_path)
    assert_refused(refused, "as --output-dir out-3, or --resume")
    free = refused.stderr.partition("--output-dir ")[2].partition(",")[0]
    assert call("bert_plain.py", *arguments, free, cwd=tmp_path).returncode == 0
    assert (tmp_path / "out-3" / "metrics.json").exists()
    again = call("bert_plain.py", *arguments, free, cwd=tmp_path)
    assert again.stderr.endswith("give another, as --output-dir out-3-2\n")  # it has ended


def test_a_command_that_is_told_can_be_given_as_it_stands(small, tmp_path):
    arguments = [*small.arguments("bert_plain.py"), "--epochs", 1, "--output-dir", "my run"]
    outcome = call("bert_plain.py", *arguments, cwd=tmp_path)
    told = "bert_plain.py --model-ckpt-path 'my run/best' --test-file FILE"
    assert f"python {ROOT / told}" in outcome.stdout
    refused = call("bert_plain.py", *arguments, cwd=tmp_path)
    assert_refused(refused, "give another, as --output-dir 'my run-2'")


def test_a_prediction_has_nothing_to_resume(small, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").touch()
    best = small.undisturbed("gpt_train.py") / "best"
    files = [*small.corpus()[2:4], "--output-dir", tmp_path / "out"]
    refused = call("gpt_inference.py", "--model-ckpt-path", best, *files)
    assert_refused(refused, f"give another, as --output-dir {tmp_path}/out-2\n")


def test_an_empty_directory_serves_and_stays_where_an_input_is_wrong(small, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    arguments = [*small.arguments("bert_plain.py"), "--output-dir", output]
    assert_refused(call("bert_plain.py", *arguments, "--model", tmp_path), "no config.json")
    assert list(output.iterdir()) == []
    shutil.copytree(ROBERTA, tmp_path / "model")
    (tmp_path / "model" / "adapter_config.json").touch()
    outcome = call("bert_plain.py", *arguments, "--model", tmp_path / "model")
    assert_refused(outcome, "holds an adapter (adapter_config.json); give a model without one")
    (output / "run.json.partial").touch()  # of a run that was killed as it began
    assert call("bert_plain.py", *arguments, "--epochs", 1).returncode == 0


def broken_model(script, directory):
    """A model whose weights were cut off, as by a download."""
    model = directory / "model"
    shutil.copytree(ROBERTA if script == "bert_plain.py" else GPT_NEOX, model)
    weights = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    return ["--model", model]


def without_weights(script, directory):
    arguments = broken_model(script, directory)
    (arguments[1] / "model.safetensors").unlink()
    return arguments


def long_target(script, directory):
    target = "떡볶이 " * 600 + "!"
    rows = [make_row("short"), make_row("long", form=target, target=target)]
    return ["--train-file", write_rows(directory / "long.jsonl", rows)]


def tracked_long_target(script, directory):
    return [*long_target(script, directory), "--report-to", "tensorboard"]


WRONG = {
    "a target too long": (long_target, "id 'long': input.target.form: "),
    "a target too long, with a tracker": (tracked_long_target, "id 'long': input.target.form: "),
    "broken weights": (broken_model, "model: cannot be loaded: "),
    "no weights": (without_weights, "model: cannot be loaded: "),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("script", ["bert_plain.py", "gpt_train.py"])
def test_a_wrong_input_that_is_found_late_leaves_nothing(script, case, small, tmp_path):
    make, told = WRONG[case]
    output = tmp_path / "some" / "where" / "out"
    arguments = [*small.arguments(script), *make(script, tmp_path), "--output-dir", output]
    for _ in range(2):  # and the next try is not refused for its directory
        assert_refused(call(script, *arguments), told)
        assert not (tmp_path / "some").exists()


def test_what_others_put_into_a_directory_stays(small, tmp_path, monkeypatch):
    output = tmp_path / "out"
    describe_model = checkpoint.describe_model

    def put(name):
        (output / "notes.txt").write_text("mine")
        return describe_model(name)

    monkeypatch.setattr(checkpoint, "describe_model", put)
    arguments = [*small.arguments("bert_plain.py"), "--model", tmp_path, "--output-dir", output]
    assert_refused(call("bert_plain.py", *arguments), "no config.json")
    assert [path.name for path in output.iterdir()] == ["notes.txt"]


# Resuming


def test_where_there_is_nothing_to_resume_a_run_begins(small, tmp_path):
    arguments = [*small.arguments("bert_plain.py"), "--epochs", 1, "--resume"]
    outcome = call("bert_plain.py", *arguments, "--output-dir", tmp_path / "new" / "out")
    assert outcome.returncode == 0 and outcome.stderr == "", outcome.stderr
    assert (tmp_path / "new" / "out" / "metrics.json").exists()


def test_a_complete_run_says_so_and_stays_as_it_is(small, tmp_path):
    for script in ("bert_plain.py", "gpt_train.py"):
        output = tmp_path / script
        shutil.copytree(small.undisturbed(script), output)
        kept = {path: each for path, each in content(output).items() if path.parent != output}
        arguments = [*small.arguments(script), "--output-dir", output, "--resume"]
        outcome = call(script, *arguments)
        assert outcome.returncode == 0 and outcome.stderr == ""
        told = f"{output}: this run is complete; there is nothing to resume"
        assert outcome.stdout.strip() == told
        assert_same_end(output, small.undisturbed(script))
        assert kept.items() <= content(output).items()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (["--lr", "3e-3"], "--lr was 0.002, and is 0.003"),
        (["--seed", "1"], "--seed was 42, and is 1"),
        (["--model", "{copy}"], "--model was "),
        (["--train-file", "{other}"], "--train-file is not the file that the run began with"),
        (["--dev-file", "{other}"], "--dev-file is not the file"),
        (["--pooling", "mean"], "--pooling was cls, and is mean"),
        (["--train-batch-size", 16], "--train-batch-size was 8, and is 16"),
        (["--precision", "bf16"], "computes in fp32, and --precision bf16 is bf16 here"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_resume_refuses_another_run(change, told, small, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(small.undisturbed("bert_plain.py"), output)
    run = json.loads((output / "run.json").read_text(encoding="utf-8"))
    del run["seconds"]  # as if it had not ended
    outputs.write_json(output / "run.json", run)
    other = write_rows(tmp_path / "other", [make_row(str(n)) for n in range(9)])
    shutil.copytree(ROBERTA, tmp_path / "copy")
    change = [str(each).format(copy=tmp_path / "copy", other=other) for each in change]
    arguments = [*small.arguments("bert_plain.py"), "--output-dir", output, "--resume"]
    before = content(output)
    assert_refused(call("bert_plain.py", *arguments, *change), "--resume: ", told)
    del before[output / "train.log"]
    after = content(output)
    assert after.keys() - before.keys() == {output / "train.log"}
    assert [path for path, each in before.items() if after[path] != each] == []
    assert_same_end(output, small.undisturbed("bert_plain.py"))


def test_a_run_goes_on_elsewhere_with_other_random_numbers_and_says_so(small, tmp_path):
    output, here = tmp_path / "out", scoring.device().type
    other = "cpu" if here == "cuda" else "cuda"
    shutil.copytree(small.undisturbed("bert_plain.py"), output)
    run = json.loads((output / "run.json").read_text(encoding="utf-8"))
    del run["seconds"]
    outputs.write_json(output / "run.json", run | {"device": f"{other}:0"})
    arguments = [*small.arguments("bert_plain.py"), "--output-dir", output, "--resume"]
    outcome = call("bert_plain.py", *arguments)
    assert outcome.returncode == 0, outcome.stderr
    told = f"the run was begun on {other}, and goes on on {here}; its dropout is another from here"
    assert outcome.stdout.count(told) == 1


def test_a_run_on_mps_whose_random_numbers_are_not_kept_goes_on_and_says_so(tmp_path, caplog):
    run = Run(argparse.Namespace(output_dir=tmp_path), "bert_plain.py")
    run.note(device="mps:0")
    assert caplog.text == ""
    run.note(device="mps:0")
    assert "was begun on mps, and goes on on mps; its dropout is another from here" in caplog.text


def test_every_process_knows_that_a_run_is_complete(small, monkeypatch):
    args = argparse.Namespace(output_dir=small.undisturbed("bert_plain.py"), resume=True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with Run(args, "bert_plain.py") as run:
        assert run.is_complete()


def test_resume_knows_the_answers_by_what_they_are(small, tmp_path):
    output, one, two = tmp_path / "out", tmp_path / "one.json", tmp_path / "two.json"
    outputs.write_json(one, {"joy": "기쁨", "fear": "두려움"})
    given = [*small.arguments("gpt_train.py"), "--epochs", 1, "--output-dir", output]
    assert call("gpt_train.py", *given, "--answers", one).returncode == 0
    modes = {path.stat().st_mode & 0o777 for path in (output / "best").iterdir()}
    assert len(modes) == 1  # whoever reads one file of a checkpoint reads them all
    one.rename(two)
    told = "this run is complete"
    assert told in call("gpt_train.py", *given, "--answers", two, "--resume").stdout
    outputs.write_json(two, {"joy": "두려움", "fear": "기쁨"})
    refused = call("gpt_train.py", *given, "--answers", two, "--resume")
    assert_refused(refused, "--resume: --answers is not the file that the run began with")
    output = tmp_path / "without"
    shutil.copytree(small.undisturbed("gpt_train.py"), output)
    given = [*small.arguments("gpt_train.py"), "--output-dir", output, "--resume"]
    told = "--answers names a file, and the run noted none when it began; leave it out"
    assert_refused(call("gpt_train.py", *given, "--answers", two), told)
    assert "this run is complete" in call("gpt_train.py", *given).stdout
    run = json.loads((output / "run.json").read_text(encoding="utf-8"))
    outputs.write_json(output / "run.json", run | {"data": {**run["data"], "test": {}}})
    told = "--test-file is there now, and the run has ended without it; predict it with best/"
    assert_refused(call("gpt_train.py", *given), told)


def test_a_run_that_ended_with_a_test_file_is_complete_without_it_too(tmp_path):
    dev, test = (write_rows(tmp_path / name, [make_row("1")]) for name in ("dev", "test"))
    args = argparse.Namespace(output_dir=tmp_path / "out", dev_file=dev, test_file=test)
    with Run(args, "a.py") as run:
        run.note_files({"dev": dev, "test": test})
        run.finish()
    args.resume, args.test_file = True, None
    with Run(args, "a.py") as run:
        run.note_files({"dev": dev})
        assert run.is_complete()
    assert json.loads((tmp_path / "out" / "run.json").read_text())["data"].keys() == {"dev", "test"}


@pytest.mark.parametrize("has_ended", [False, True])
def test_a_test_file_that_came_to_its_place_is_no_part_of_a_run_that_has_ended(has_ended, tmp_path):
    dev, test = (write_rows(tmp_path / name, [make_row("1")]) for name in ("dev", "test"))
    args = argparse.Namespace(output_dir=tmp_path / "out", dev_file=dev, test_file=None)
    with Run(args, "a.py") as run:
        run.note_files({"dev": dev})
        if has_ended:
            run.finish()
    args.resume = True
    with Run(args, "a.py") as run:
        run.note_files({"dev": dev, "test": test})
        assert run.is_complete() == has_ended
        assert run.record["data"].keys() == ({"dev"} if has_ended else {"dev", "test"})
    args.test_file = test  # now a flag names it
    told = pytest.raises(utils.InputError, match="--test-file is there now, and the run has ended")
    with told if has_ended else contextlib.nullcontext(), Run(args, "a.py") as run:
        run.note_files({"dev": dev, "test": test})


def test_resume_refuses_a_run_of_another_script(small, tmp_path):
    shutil.copytree(small.undisturbed("bert_plain.py"), tmp_path / "out")
    arguments = [*small.arguments("bert_GRU.py"), "--output-dir", tmp_path / "out", "--resume"]
    record = json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))
    del record["seconds"]  # as if it had not ended
    outputs.write_json(tmp_path / "out" / "run.json", record)
    told = call("bert_GRU.py", *arguments[:-1]).stderr
    assert told.endswith(f"give another, as --output-dir {tmp_path / 'out-2'}\n")
    assert_refused(call("bert_GRU.py", *arguments), "holds a run of bert_plain.py")


@pytest.mark.parametrize("script", ["bert_plain.py", "gpt_inference.py"])
def test_a_long_target_is_predicted_and_leaves_nothing_where_it_is_trained_on(
    script, small, tmp_path
):
    """A prediction refuses no official line; what is trained on is never changed."""
    rows = [make_row(str(n), "급식 " * 600, "급식 " * 600) for n in range(2)]
    long, trains = write_rows(tmp_path / "test.jsonl", rows), script.replace("inference", "train")
    best, good = small.undisturbed(trains) / "best", small.corpus()[3]
    files = ["--dev-file", good, "--test-file", long, "--output-dir", tmp_path / "out"]
    outcome = call(script, "--model-ckpt-path", best, *files)
    assert outcome.returncode == 0, outcome.stderr
    [warning] = re.findall(r"warning: id '0': input.target.form: .+", outcome.stdout)
    assert warning.endswith("; a part is read of it, as of 1 more")
    given = call("predict.py", best, "급식 " * 600, "--target", "급식 " * 600)
    assert (
        "warning: the line '급식 급식 급식 급식 급식 급식 급식': input.target.form: "
        in given.stderr
    )
    predicted = (tmp_path / "out" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["input"] for line in predicted] == [row["input"] for row in rows]
    arguments = [*small.arguments(trains), "--dev-file", long, "--output-dir", tmp_path / "again"]
    assert_refused(call(trains, *arguments), "id '0': input.target.form", "shorten it")
    assert not (tmp_path / "again").exists()


def test_what_is_refused_late_in_a_prediction_leaves_nothing(small, tmp_path, monkeypatch):
    def refuse(*_):
        raise utils.InputError("test.jsonl: line 5: something; mend it")

    best, good = small.undisturbed("bert_plain.py") / "best", small.corpus()[3]
    monkeypatch.setattr(scoring, "score", refuse)
    files = ["--dev-file", good, "--output-dir", tmp_path / "out"]
    assert_refused(call("bert_plain.py", "--model-ckpt-path", best, *files), "mend it")
    assert not (tmp_path / "out").exists()


def test_what_a_run_needs_of_the_disk_is_told_when_it_starts(small, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    arguments = [*small.arguments("bert_plain.py"), "--epochs", 1, "--output-dir"]
    told = call("bert_plain.py", *arguments, tmp_path / "out").stdout
    pattern = r"^on the disk: (\d+) MiB while this trains, (\d+) MiB in "
    [needed, left] = map(int, re.search(pattern, told, re.MULTILINE).groups())
    files = sum(each.stat().st_size for each in (tmp_path / "out" / "best").glob("*.safetensors"))
    assert left == round(files / 2**20) and abs(needed - 7 * files / 2**20) < 1
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2**20))
    assert "1 MiB are free" in call("bert_plain.py", *arguments, tmp_path / "full").stdout


def test_a_dangling_link_is_no_output_directory(small, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    arguments = [*small.arguments("bert_plain.py"), "--output-dir", tmp_path / "link"]
    assert_refused(call("bert_plain.py", *arguments), "give another --output-dir")
    assert not (tmp_path / "nowhere").exists()


def test_a_console_without_hangul_stops_nothing(small, tmp_path):
    """What it cannot show is a question mark there, and as it is in the log."""
    best = small.undisturbed("bert_plain.py") / "best"
    strange = tmp_path / "한글"
    shutil.copytree(best, strange)
    flags = "--model-ckpt-path", strange, *small.corpus()[2:4], "--output-dir", tmp_path / "out"
    outcome = run_script("bert_plain.py", *flags, PYTHONIOENCODING="ascii:strict", PYTHONUTF8="0")
    assert outcome.returncode == 0 and "loading " in outcome.stdout, outcome.stderr
    assert "한글" in (tmp_path / "out" / "train.log").read_text(encoding="utf-8")
    lines = tmp_path / "in.jsonl"
    lines.write_text('{"id": "1", "input": {"form": "급식 \\ud800 최고"}}')
    given = "predict.py", best, "--input", lines
    outcome = run_script(*given, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert outcome.returncode == 0 and "급식 " in outcome.stdout, outcome.stderr  # UTF-8 in pipes


def test_scores_that_are_not_finite_are_not_written(small, tmp_path):
    best = tmp_path / "best"
    shutil.copytree(small.undisturbed("bert_plain.py") / "best", best)
    weights = load_file(best / "model.safetensors")
    weights["classifier.out_proj.bias"][0] = torch.nan
    save_file(weights, best / "model.safetensors", metadata={"format": "pt"})
    files = ["--dev-file", small.corpus()[3], "--output-dir", tmp_path / "out"]
    outcome = call("bert_plain.py", "--model-ckpt-path", best, *files)
    assert outcome.returncode == 1 and "the scores are not finite" in outcome.stderr
    assert not list((tmp_path / "out").glob("dev*"))


def test_a_build_for_gpus_without_one_computes_on_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert scoring.device() == torch.device("cpu")


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), utils.RunError),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), RuntimeError),
        (RuntimeError("CUDA error: out of memory"), RuntimeError),
        (RuntimeError("unable to mmap 9 bytes: Cannot allocate memory (12)"), RuntimeError),
        (OSError("/data/alloc is no model"), utils.InputError),
        (ValueError(""), utils.InputError),
        (RuntimeError("\n\n  size mismatch"), utils.InputError),
    ],
)
def test_what_goes_wrong_in_loading_is_told_for_what_it_is(error, raised):
    with pytest.raises(Exception) as told, checkpoint.loading("some/model"):
        raise error
    assert told.type is raised
    assert process.is_out_of_memory(told.value) == (raised is RuntimeError)
    assert raised is RuntimeError or str(told.value).startswith("some/model: cannot be loaded: ")


def test_a_name_that_utf8_cannot_hold_is_refused_in_one_line(tmp_path):
    arguments = ["--train-file", "\udcff.jsonl", "--output-dir", tmp_path / "out"]
    assert_refused(call("bert_plain.py", *arguments), "no such file")
    assert not (tmp_path / "out").exists()


def test_resume_refuses_another_number_of_processes(small, tmp_path, monkeypatch):
    output = tmp_path / "out"
    shutil.copytree(small.undisturbed("bert_plain.py"), output)
    args = argparse.Namespace(output_dir=output, resume=True)
    record = json.loads((output / "run.json").read_text())
    outputs.write_json(output / "run.json", {"arguments": vars(args), "processes": 1})
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(utils.InputError, match="the number of processes was 1, and is 2"):
        Run(args, "one.py").__enter__()
    assert record["processes"] == 1


def test_a_smaller_batch_goes_on_with_the_steps_as_they_were(small, tmp_path, monkeypatch):
    """As is told where the memory is full."""
    output = tmp_path / "out"
    arguments = [*small.arguments("bert_plain.py"), "--output-dir", output]
    step, parts, loss = training.Training.step, [], bert_plain.EncoderTask.loss

    def fill_the_memory(self, batch):
        if self.state.step == 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        step(self, batch)

    def count(self, model, batch):
        parts.append(len(batch))
        return loss(self, model, batch)

    with monkeypatch.context() as patch:
        patch.setattr(training.Training, "step", fill_the_memory)
        full = call("bert_plain.py", *arguments)
    assert full.returncode == 1 and "--resume and a smaller --train-batch-size" in full.stderr
    monkeypatch.setattr(bert_plain.EncoderTask, "loss", count)
    outcome = call("bert_plain.py", *arguments, "--resume", "--train-batch-size", 3)
    assert outcome.returncode == 0, outcome.stderr
    assert max(parts) == 3 and len(parts) > 2
    reference = small.undisturbed("bert_plain.py")
    steps, expected = (
        [each["step"] for each in json.loads((path / "run.json").read_text())["history"]]
        for path in (output, reference)
    )
    assert steps == expected
    record = json.loads((output / "run.json").read_text())
    assert record["arguments"]["train_batch_size"] == 8


def stop_after_five_steps(monkeypatch):
    step = training.Training.step

    def stop_after_five(self, batch):
        step(self, batch)
        if self.state.step == 5:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(training.Training, "step", stop_after_five)


def test_what_changes_no_weight_may_differ_on_resume(small, tmp_path, monkeypatch):
    """Batch size of evaluation, steps between checkpoints, threshold, tracker, where files are, a
    test file that comes later.
    """
    reference, output = small.undisturbed("bert_plain.py"), tmp_path / "out"
    moved = {path: shutil.copy(path, tmp_path) for path in small.corpus()[1::2]}
    arguments = [*small.arguments("bert_plain.py"), "--output-dir", output]
    stop_after_five_steps(monkeypatch)
    at = arguments.index("--test-file")
    begun = arguments[:at] + arguments[at + 2 :]
    assert call("bert_plain.py", *begun).returncode == 130
    arguments = [moved.get(each, each) for each in arguments]
    changes = ["--val-batch-size", 3, "--save-steps", 100, "--threshold", 0.4]
    changes += ["--report-to", "tensorboard", "--resume"]
    outcome = call("bert_plain.py", *arguments, *changes)
    assert outcome.returncode == 0 and outcome.stderr == "", outcome.stderr
    weights = [(path / "best" / "model.safetensors").read_bytes() for path in (output, reference)]
    assert weights[0] == weights[1]
    decision = json.loads((output / "best" / "decision.json").read_text())
    assert decision["threshold"] == 0.4
    scores = [(path / "test.scores.jsonl").read_bytes() for path in (output, reference)]
    assert scores[0] == scores[1]


def test_a_gru_is_saved_and_resumed_whole_as_a_gpu_lays_it_out(small, tmp_path, monkeypatch):
    """All its weights are one buffer there, which accelerate takes for one tied weight."""

    def in_one_buffer(gru):
        flat = torch.cat([each.detach().flatten() for each in gru.parameters()])
        parts = flat.split([each.numel() for each in gru.parameters()])
        for parameter, part in zip(gru.parameters(), parts, strict=True):
            parameter.data = part.view_as(parameter)

    reference, output = small.undisturbed("bert_GRU.py"), tmp_path / "out"
    arguments = [*small.arguments("bert_GRU.py"), "--output-dir", output]
    monkeypatch.setattr(torch.nn.GRU, "flatten_parameters", in_one_buffer)
    stop_after_five_steps(monkeypatch)
    assert call("bert_GRU.py", *arguments).returncode == 130
    outcome = call("bert_GRU.py", *arguments, "--resume")
    assert outcome.returncode == 0 and outcome.stderr == "", outcome.stderr
    assert_same_end(output, reference)


def test_a_broken_record_is_refused(small, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(small.undisturbed("bert_plain.py"), output)
    (output / "run.json").write_text('{"arguments": ')
    arguments = [*small.arguments("bert_plain.py"), "--output-dir", output, "--resume"]
    assert_refused(call("bert_plain.py", *arguments), f"{output}/run.json: is broken; ")


# What a run says and leaves


def test_a_run_tells_what_it_loads_before_it_does(small):
    for script, model in (("bert_plain.py", ROBERTA), ("gpt_train.py", GPT_NEOX)):
        said = (small.undisturbed(script) / "train.log").read_text().splitlines()
        size = (model / "model.safetensors").stat().st_size / 2**20
        assert said[0] == f"loading {model}, {size:.0f} MiB of weights"
        assert any("first example" in line for line in said)


def test_what_is_downloaded_is_told_with_its_size(monkeypatch, tmp_path):
    sizes = {"config.json": 600, "a.safetensors": 2**30, "b.safetensors": 2**29, "all.bin": 2**31}
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))

    def model_info(self, name, **_):
        files = [types.SimpleNamespace(rfilename=file, size=size) for file, size in sizes.items()]
        return types.SimpleNamespace(siblings=files)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    told = checkpoint.describe_model("some/model")
    assert told == "downloading some/model from the hub, 1,536 MiB of weights"
    sizes = {"pytorch_model.bin": 2**31, "config.json": 600}
    assert checkpoint.describe_model("some/model").endswith("2,048 MiB of weights")
    sizes["adapter_config.json"] = 600
    with pytest.raises(utils.InputError, match="some/model: holds an adapter"):
        checkpoint.describe_model("some/model")
    assert checkpoint.describe_model("some/model", "")  # a checkpoint, which may be one


def test_the_log_holds_what_was_printed_and_the_traceback_of_an_error(small, tmp_path, monkeypatch):
    output = tmp_path / "out"
    arguments = [*small.arguments("bert_plain.py"), "--epochs", 1, "--output-dir", output]

    def fail(*_):
        raise KeyError("a fault of our own")

    monkeypatch.setattr(ending, "choose_rule", fail)
    with pytest.raises(KeyError):
        call("bert_plain.py", *arguments)
    log = (output / "train.log").read_text()
    told = r"epoch 1/1: loss [\d.]+, [\d.]+ lines/s, dev micro-F1 .*, macro-F1 "
    assert re.search(told, log), log
    assert "Traceback (most recent call last)" in log and "a fault of our own" in log
    monkeypatch.undo()
    assert call("bert_plain.py", *arguments, "--resume").returncode == 0
    assert (output / "train.log").read_text().startswith(log)


def test_a_record_tells_how_a_run_was_made(small):
    record = json.loads((small.undisturbed("gpt_train.py") / "run.json").read_text())
    assert record["script"] == "gpt_train.py" and record["seed"] == 42
    assert record["arguments"]["lr"] == 0.002 and record["processes"] == 1
    assert {"torch", "transformers", "peft", "bitsandbytes"} <= record["versions"].keys()
    assert record["data"]["dev"]["lines"] == 24 and len(record["data"]["dev"]["sha256"]) == 64
    assert record["device"] and record["precision"] == "fp32" and record["seconds"] > 0


def test_a_file_appears_whole_or_stays_as_it_was(tmp_path):
    path = tmp_path / "metrics.json"
    outputs.write_json(path, 1)
    told = r"No space left on device: '.*/metrics\.json'"
    with pytest.raises(OSError, match=told), outputs.whole_file(path) as file:
        file.write("half")
        raise OSError(28, "No space left on device")
    with pytest.raises(KeyError), outputs.whole_file(path) as file:
        file.write("half")
        raise KeyError
    assert [each.name for each in tmp_path.iterdir()] == ["metrics.json"]
    assert path.read_text() == "1\n"
    outputs.write_json(path, {"감정": "기쁨"})
    assert "기쁨" in path.read_text(encoding="utf-8")


# How a run ends


def parser():
    return bert_plain.argument_parser("bert_plain", "")


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has"),
            *(1, "error: the memory is full (CUDA out of memory); go on with --resume "),
        ),
        (MemoryError(), 1, "error: the memory is full"),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate"),
            *(1, "error: the memory is full ("),
        ),
        (
            RuntimeError("[/pair.cc:544] Connection closed by peer [127.0.0.1]:1"),
            *(1, "error: another process ended, see what it told; there is no checkpoint yet; "),
        ),
        (
            torch.distributed.DistBackendError(
                "store->get('0') got error: Connection reset by peer"
            ),
            *(1, "error: another process ended, see what it told; there is no checkpoint yet; "),
        ),
        (utils.RunError("step 3: it went wrong"), 1, "error: step 3: it went wrong"),
        (utils.InputError("--lr: is odd"), 2, "error: --lr: is odd"),
        (OSError(28, "is full", "f"), 1, "f: is full; mend that; there is no checkpoint yet; "),
        (process.Interrupted(), 130, "there is no checkpoint yet; start again with: python "),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_ends_a_run_is_told_in_one_line(error, code, told, capsys, tmp_path):
    def recipe(args, run):
        raise error

    with pytest.raises(SystemExit) as end:
        cli.run_script(parser(), recipe, ["--output-dir", str(tmp_path / "out")])
    assert end.value.code == code
    message = capsys.readouterr().err
    assert message.startswith("bert_plain.py: ")
    assert told in message and message.count("\n") == 1
    assert (tmp_path / "out").exists() == (code != 2)


def test_a_tool_is_told_to_take_a_smaller_batch_where_it_has_one(capsys):
    def work(args):
        raise MemoryError

    with_batch = cli.ArgumentParser("tool.py", "")
    cli.count(with_batch, "--batch-size", None, "of texts")
    mends = {"free some": cli.ArgumentParser("tool.py", "")}
    mends["free some, or take a smaller --batch-size"] = with_batch
    for mend, parser in mends.items():
        with pytest.raises(SystemExit):
            cli.run_tool(parser, work, [])
        assert capsys.readouterr().err == f"tool.py: error: the memory is full; {mend}\n"


def test_a_prediction_is_told_to_score_fewer_lines(tmp_path, capsys):
    def recipe(args, run):
        raise MemoryError

    given = ["--output-dir", str(tmp_path / "out"), "--model-ckpt-path", "best"]
    with pytest.raises(SystemExit):
        cli.run_script(parser(), recipe, given)
    assert capsys.readouterr().err.endswith("free some, or take a smaller --val-batch-size\n")


def test_a_fault_of_our_own_is_not_told_as_one_of_the_user(tmp_path):
    def recipe(args, run):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        cli.run_script(parser(), recipe, ["--output-dir", str(tmp_path / "out")])
    assert "mat1 and mat2" in (tmp_path / "out" / "train.log").read_text()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
def test_a_run_whose_output_nobody_takes_ends_well(tmp_path):
    """Python would try once more when it ends, and end with code 120."""
    code = "import sys; sys.path[:0] = sys.argv[1:3]; import test_run as t; "
    code += "t.cli.run_script(t.parser(), lambda args, run: t.utils.log.info('told'), sys.argv[3:])"
    given = [ROOT, ROOT / "tests", "--output-dir", tmp_path / "out"]
    with open("/dev/full", "w") as full:
        pipes = {"stdout": full, "stderr": subprocess.PIPE, "text": True}
        pipes["env"] = {**os.environ, "PYTHONUNBUFFERED": ""}
        outcome = subprocess.run([sys.executable, "-c", code, *map(str, given)], **pipes)
    assert (outcome.returncode, outcome.stderr) == (0, "")


def test_a_package_that_is_not_there_and_not_in_use_ends_no_run(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "PACKAGES", ("numpy", "no-such-package"))
    cli.run_script(parser(), lambda args, run: None, ["--output-dir", str(tmp_path / "out")])
    found = json.loads((tmp_path / "out" / "run.json").read_text())["versions"]
    assert found == {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "no-such-package": None,
    }


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
def test_a_log_that_cannot_be_written_ends_no_run(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(logging, "raiseExceptions", True)

    def recipe(args, run):
        utils.log.addHandler(logging.FileHandler("/dev/full"))
        utils.log.info("told on the screen alone")

    cli.run_script(parser(), recipe, ["--output-dir", str(tmp_path / "out")])
    assert capsys.readouterr() == ("told on the screen alone\n", "")


def test_the_processes_beside_the_main_one_write_and_say_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")

    def recipe(args, run):
        utils.log.info("not to be seen")
        run.note(device="cpu")
        run.finish()
        raise utils.RunError("nor this")

    with pytest.raises(SystemExit) as end:
        cli.run_script(parser(), recipe, ["--output-dir", str(tmp_path / "out")])
    assert end.value.code == 1
    assert capsys.readouterr() == ("", "")
    assert not (tmp_path / "out").exists()


def test_a_process_beside_the_main_one_tells_what_it_alone_knows(capsys, monkeypatch, tmp_path):
    for name, value in {"RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    waited: list[float] = []
    monkeypatch.setattr(cli.time, "sleep", waited.append)

    def recipe(args, run):
        raise MemoryError

    with pytest.raises(SystemExit) as end:
        cli.run_script(parser(), recipe, ["--output-dir", str(tmp_path / "out")])
    assert end.value.code == 1 and waited == [3]  # in which a launcher would have ended it
    told = capsys.readouterr().err
    assert told.startswith(f"{parser().prog}: process 1: error: ") and told.count("\n") == 1


# Devices


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(utils.InputError, match="3 processes were launched, and there are 2 GPUs"):
        scoring.check_devices()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    scoring.check_devices()


def notes(caplog):
    """What is told of the devices."""
    caplog.clear()
    with caplog.at_level("INFO", "emotion"):
        scoring.check_devices()
    return [record.getMessage() for record in caplog.records]


def test_gpus_that_are_not_used_or_differ_are_told(monkeypatch, caplog):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", ["RTX 4090", "RTX 3090"].__getitem__)
    [note] = notes(caplog)
    assert "2 GPUs are here, and 1 in use" in note and "torchrun --nproc_per_node 2" in note
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    [note] = notes(caplog)
    assert "the GPUs differ (RTX 3090, RTX 4090)" in note


@pytest.mark.parametrize(("told", "device"), [("True", "cpu"), ("False", "cuda")])
def test_gpus_are_left_alone_where_accelerate_says_so(told, device, monkeypatch, caplog):
    """`accelerate launch` says one or the other, whatever it is asked for."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", told)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "H100")
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    assert scoring.device().type == device
    assert scoring.resolve_precision("auto") == ("bf16" if device == "cuda" else "fp32")
    on_cpu = ["no GPU is to be used: this runs on the CPU"]
    assert notes(caplog) == (on_cpu if device == "cpu" else [])
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")  # on one GPU
    with contextlib.nullcontext() if device == "cpu" else pytest.raises(utils.InputError):
        scoring.check_devices()


def test_a_wish_for_the_cpu_that_says_neither_is_refused(small, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "perhaps")
    outcome = call("bert_plain.py", *small.arguments("bert_plain.py"), "--output-dir", tmp_path)
    assert_refused(outcome, "ACCELERATE_USE_CPU=perhaps: is neither true nor false")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("ACCELERATE_USE_CPU", "")  # as one that is not there
    assert not process.wants_cpu()
    given = [*small.arguments("bert_plain.py"), "--epochs", 1, "--output-dir", tmp_path / "out"]
    assert call("bert_plain.py", *given).returncode == 0


def test_a_cpu_is_told_and_a_gpu_that_is_not_of_cuda_has_no_notes(monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: None)
    assert notes(caplog) == ["no GPU was found: this runs on the CPU"]
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("mps"))
    assert notes(caplog) == []
    assert scoring.device().type == "mps"


def test_an_interrupt_between_checkpoints_is_told_with_the_last(small, tmp_path):
    """A process that saves nothing itself, as under a second signal."""
    args = argparse.Namespace(output_dir=tmp_path, resume=False, model_ckpt_path=None)
    assert "there is no checkpoint yet; start again with: run --resume" in (
        cli.what_goes_on(args, "run")
    )
    path = tmp_path / "checkpoints" / "checkpoint-7"
    path.mkdir(parents=True)
    (path / "training_state.json").write_text("{}")
    assert last_whole_checkpoint(tmp_path) == path
    args.resume = True
    told = f"the last whole checkpoint is {path}; go on with: run --resume"
    assert cli.what_goes_on(args, "run --resume") == told
