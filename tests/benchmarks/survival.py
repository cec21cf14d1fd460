"""What a run loses when it is killed or interrupted: the long part of tests/test_trust.py.

    python tests/benchmarks/survival.py [--kills 7] [--interrupts 3] [--lines 20000 200000]

Each script trains or predicts with its tiny model on a part of the sample, once undisturbed. It is
then begun again and again, each time killed (SIGKILL) or interrupted (SIGINT, SIGTERM and SIGHUP in
turn) at a moment drawn by the seed, one in four of them from its start on, the others from when it
has loaded its model, and taken up again: a killed run with --resume, an interrupted one by the
command that it printed. gpt_inference.py, which has nothing to resume, is begun again in another
directory. What it leaves must equal what the undisturbed run left to the last bit, and what lay
about in between must have been whole. A run that was done before its signal came is not counted,
and another moment is drawn.

Each training script is also interrupted as two processes, once in training and once in evaluation,
and taken up by the printed command: scores as those of two undisturbed processes, to 1e-5. Last,
bert_plain.py predicts files of --lines lines, and the peak memory is shown.
"""

import functools
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from small_runs import ENDS_WITH

import utils
from emotion import cli, systems

TO_PREDICT = ("--dev-file", "dev.jsonl", "--test-file", "test.jsonl")
TRAINING = ("--train-file", "train.jsonl", *TO_PREDICT, "--epochs", "3")
SCRIPTS = {
    "bert_plain.py": (*TRAINING, "--train-batch-size", "8"),
    "bert_GRU.py": (*TRAINING, "--train-batch-size", "16"),
    "gpt_train.py": (*TRAINING, "--save-steps", "3", "--batch-size", "8"),
    "gpt_inference.py": ("--model-ckpt-path", "gpt/best", *TO_PREDICT),
}
INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
WEIGHTS = ("best/model.safetensors", "best/adapter_model.safetensors")


def write_corpus(directory):
    rows = (utils.SAMPLE / "train.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    parts = {"train": (0, 96), "dev": (96, 136), "test": (136, 156), "long-dev": (160, 560)}
    for name, (first, end) in parts.items():
        (directory / f"{name}.jsonl").write_text("".join(rows[first:end]), encoding="utf-8")


def start(script, directory, output, *flags, processes=1):
    """Start a script in a process group of its own."""
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
    command = [sys.executable, *launcher * (processes > 1), str(ROOT / script), "--sample"]
    return start_command([*command, *SCRIPTS[script], "--output-dir", output, *flags], directory)


def start_command(command, directory, **settings):
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    settings |= {"cwd": directory, "env": environment, "start_new_session": True}
    return subprocess.Popen(command, **settings, **streams)


def wait_until(process, is_true):
    while process.poll() is None and not is_true():
        time.sleep(0.005)


def has_loaded(output):
    """Whether a run has loaded its model: run.json then says on what device."""
    file = output / "run.json"
    return file.exists() and '"device"' in file.read_text(encoding="utf-8")


def disturb(script, directory, name, number, from_loaded, seconds):
    """Begin a run and send it a signal; returns (exit code, standard error, seconds to the end)."""
    process = start(script, directory, name)
    if from_loaded:
        wait_until(process, functools.partial(has_loaded, directory / name))
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, number)
    sent = time.perf_counter()
    _, stderr = process.communicate()
    return process.returncode, stderr, time.perf_counter() - sent


def left(output):
    """The files that a run leaves, by name, as far as they are there."""
    files = {name: output / name for name in (*ENDS_WITH, *WEIGHTS)}
    return {name: file.read_bytes() for name, file in files.items() if file.exists()}


def printed_command(stderr):
    """The command that an interrupted run says goes on."""
    [line] = [line for line in stderr.splitlines() if "interrupted; " in line]
    return line.rpartition(" with: ")[2]


def finish(script, directory, name, reference, command):
    """Take up a run that was disturbed; returns what went wrong, or None."""
    kept = left(directory / name)
    whole = {file: content for file, content in kept.items() if file in ENDS_WITH}
    if any(reference[file] != content for file, content in whole.items()):
        return "left a file that was not whole"
    again = f"{name}-again" if script == "gpt_inference.py" else name
    if command:
        process = start_command(command, directory, shell=True)
    else:
        resume = [] if script == "gpt_inference.py" else ["--resume"]
        process = start(script, directory, again, *resume)
    _, stderr = process.communicate()
    if process.returncode:
        return f"could not be resumed: {stderr}"
    return differences(directory / again, reference)


def differences(output, reference):
    """What a run that has ended left otherwise than the undisturbed one, or None."""
    files = left(output)
    names = [name for name in files | reference if files.get(name) != reference.get(name)]
    return f"ended with another {', '.join(names)}" if names else None


def survive(script, directory, what, tries, rng, loading, working, reference):
    """Disturb a script `tries` times and print what came of it.

    `loading` and `working` are its seconds undisturbed.
    """
    failures, slowest, tried = [], 0.0, 0
    attempts = itertools.count()
    while tried < tries:
        number = signal.SIGKILL if what == "killed" else INTERRUPTS[tried % len(INTERRUPTS)]
        from_loaded = tried % 4 != 3
        moment = rng.uniform(0, working if from_loaded else loading)
        name = f"{script}-{what}-{next(attempts)}"
        code, stderr, took = disturb(script, directory, name, number, from_loaded, moment)
        when = f"by {number.name} {moment:.2f} s after {'loading' if from_loaded else 'its start'}"
        if code == 0:
            wrong = differences(directory / name, reference)
            print(f"  {what} {when}: was done before", flush=True)
        else:
            tried += 1
            slowest = max(slowest, took)
            told = stderr.strip().partition(" with: ")[0]
            print(f"  {what} {when}{': ' * bool(told)}{told}", flush=True)
            if what == "killed" or script == "gpt_inference.py":
                wrong = finish(script, directory, name, reference, None)
            elif code != 130 or stderr.count("\n") != 1 or took > 10:
                wrong = f"ended with {code} after {took:.1f} s: {stderr}"
            else:
                wrong = finish(script, directory, name, reference, printed_command(stderr))
        if wrong:
            failures.append(f"{when}: {wrong}")
    report(script, what, tried, failures, slowest)


def survive_two(script, directory):
    """Interrupt two processes of a training script, in training and in evaluation."""
    steps = 96 // (2 * int(SCRIPTS[script][-1]))  # of an epoch; a checkpoint stands at its end
    flags = ("--save-steps", str(steps), "--dev-file", "long-dev.jsonl", "--epochs", "2")
    flags += ("--val-batch-size", "1", "--precision", "fp32")
    name = f"{script}-two"
    process = start(script, directory, name, *flags, processes=2)
    _, stderr = process.communicate()
    assert process.returncode == 0, stderr
    expected = [scores_of(directory / name / f"{split}.scores.jsonl") for split in ("dev", "test")]
    failures, slowest = [], 0.0
    for what, number in (("training", signal.SIGINT), ("evaluation", signal.SIGTERM)):
        again = f"{name}-{what}"
        process, output = start(script, directory, again, *flags, processes=2), directory / again
        ready = output / "checkpoints" / f"checkpoint-{steps}"
        wait_until(
            process, ready.exists if what == "evaluation" else lambda o=output: has_loaded(o)
        )
        time.sleep(0.2)
        os.killpg(process.pid, number)
        sent = time.perf_counter()
        _, stderr = process.communicate()
        slowest = max(slowest, time.perf_counter() - sent)
        told = next((line for line in stderr.splitlines() if "interrupted; " in line), stderr)
        print(
            f"  two processes in {what}, {number.name}: {told.partition(' with: ')[0]}", flush=True
        )
        _, problem = start_command(printed_command(stderr), directory, shell=True).communicate()
        files = [output / f"{split}.scores.jsonl" for split in ("dev", "test")]
        if not all(file.exists() for file in files):
            failures.append(f"{what}: did not go on: {problem}")
            continue
        off = max(
            abs(scores_of(file) - each).max() for file, each in zip(files, expected, strict=True)
        )
        print(f"  largest difference of a score: {off:.1e}", flush=True)
        if off > 1e-5:
            failures.append(f"{what}: scores differ by {off}")
    report(script, "two processes", 2, failures, slowest)


def scores_of(path):
    return systems.read_scores(path)[1]


def report(script, what, tried, failures, slowest):
    same = tried - len(failures)
    print(f"{script:<18}{what:<15}{tried:>6}{same:>10}{slowest:>11.1f} s", flush=True)
    for failure in failures:
        print(f"  {failure}", flush=True)


def show_memory(directory, lines):
    """Print the peak memory of predicting a file of so many lines with what was trained."""
    with (directory / "long.jsonl").open("w", encoding="utf-8") as file:
        for number in range(lines):
            row = {"id": str(number), "input": {"form": f"급식 최고 {number}", "target": None}}
            print(json.dumps(row, ensure_ascii=False), file=file)
    output, checkpoint = f"lines-{lines}", "bert_plain.py-reference/best"
    flags = ["--model-ckpt-path", checkpoint, "--test-file", "long.jsonl", "--output-dir", output]
    process = start_command([sys.executable, str(ROOT / "bert_plain.py"), *flags], directory)
    _, stderr = process.communicate()
    assert process.returncode == 0, stderr
    run = json.loads((directory / output / "run.json").read_text(encoding="utf-8"))
    memory = run["peak_memory_gib"]["host"]
    print(
        f"bert_plain.py     {lines:>9} lines predicted in {run['seconds']:.0f} s; "
        f"peak memory {memory} GiB",
        flush=True,
    )


def main():
    parser = cli.ArgumentParser("survival.py", __doc__)
    cli.count(parser, "--kills", 7, "of each script", low=0)
    cli.count(parser, "--interrupts", 3, "of each script", low=0)
    cli.count(parser, "--seed", 0, "of the moments", low=0)
    lines, told = [20_000, 200_000], "of the files whose memory is shown"
    parser.add_argument("--lines", type=int, nargs="*", default=lines, help=told)
    parser.add_argument("--script", choices=SCRIPTS, nargs="+", default=list(SCRIPTS))
    options = parser.parse_args()
    for number in INTERRUPTS:  # a shell's background jobs are started to ignore some
        signal.signal(number, signal.SIG_DFL)
    rng = random.Random(options.seed)
    print(f"{'':<18}{'':<15}{'tried':>6}{'same end':>10}{'slowest end':>13}")
    with tempfile.TemporaryDirectory() as root:
        directory = Path(root)
        write_corpus(directory)
        if "gpt_inference.py" in options.script:
            train = start("gpt_train.py", directory, "gpt")
            assert train.wait() == 0, train.communicate()
        for script in options.script:
            process = start(script, directory, f"{script}-reference")
            began = time.perf_counter()
            output = directory / f"{script}-reference"
            wait_until(process, functools.partial(has_loaded, output))
            loading = time.perf_counter() - began
            _, stderr = process.communicate()
            duration = time.perf_counter() - began
            assert process.returncode == 0, stderr
            reference = left(directory / f"{script}-reference")
            for what, tries in (("killed", options.kills), ("interrupted", options.interrupts)):
                survive(script, directory, what, tries, rng, loading, duration - loading, reference)
            if script != "gpt_inference.py":
                survive_two(script, directory)
        if "bert_plain.py" in options.script:
            for lines in options.lines:
                show_memory(directory, lines)


if __name__ == "__main__":
    main()
