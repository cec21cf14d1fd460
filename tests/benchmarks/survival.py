"""What a run loses when it is killed or interrupted: the long part of what tests/test_trust.py checks.

    python tests/benchmarks/survival.py [--kills 7] [--interrupts 2] [--seed 0] [--lines 20000 200000]

Each script trains or predicts with its tiny model on a part of the sample, once undisturbed. It is then begun again and again,
and each time killed (SIGKILL) or interrupted (SIGINT and SIGTERM in turn) at a moment drawn by the seed, one in four of them
from its start on, the others from when it has loaded its model, and resumed; gpt_inference.py, which has nothing to resume, is
begun again in another directory. What it leaves must equal what the undisturbed run left to the last bit, and what lay about in
between must have been whole. A run that was done before its signal came is not counted, and another moment is drawn. Last,
bert_plain.py predicts files of --lines lines, and the peak memory is shown.
"""

import argparse
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
sys.path.insert(0, str(ROOT))

import utils

TRAINING = ("--train-file", "train.jsonl", "--dev-file", "dev.jsonl", "--test-file", "test.jsonl", "--epochs", "3")
SCRIPTS = {
    "bert_plain.py": (*TRAINING, "--train-batch-size", "8"),
    "bert_GRU.py": (*TRAINING, "--train-batch-size", "16"),
    "gpt_train.py": (*TRAINING, "--batch-size", "8", "--save-steps", "3"),
    "gpt_inference.py": ("--model-ckpt-path", "gpt/best", "--dev-file", "dev.jsonl", "--test-file", "test.jsonl"),
}
ENDS_WITH = ("metrics.json", "dev.jsonl", "dev.scores.jsonl", "test.jsonl", "test.scores.jsonl")
WEIGHTS = ("best/model.safetensors", "best/adapter_model.safetensors")


def write_corpus(directory):
    rows = (utils.SAMPLE / "train.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    for split, start, end in (("train", 0, 96), ("dev", 96, 136), ("test", 136, 156)):
        (directory / f"{split}.jsonl").write_text("".join(rows[start:end]), encoding="utf-8")


def start(script, directory, output, *flags):
    """Start a script in a process group of its own."""
    command = [sys.executable, str(ROOT / script), "--sample", *SCRIPTS[script], "--output-dir", output, *flags]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=directory, env=environment, start_new_session=True, **streams)


def wait_until_loaded(process, output):
    while process.poll() is None and not (output / "run.json").exists():
        time.sleep(0.01)


def disturb(script, directory, name, number, from_loaded, seconds):
    """Begin a run and send it a signal; returns (exit code, standard error, seconds from the signal to the end)."""
    process = start(script, directory, name)
    if from_loaded:
        wait_until_loaded(process, directory / name)
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


def finish(script, directory, name, reference):
    """Take up a run that was disturbed; returns what went wrong, or None."""
    whole = {file: content for file, content in left(directory / name).items() if file in ENDS_WITH}
    if any(reference[file] != content for file, content in whole.items()):
        return "left a file that was not whole"
    again, flags = (f"{name}-again", ()) if script == "gpt_inference.py" else (name, ("--resume",))
    process = start(script, directory, again, *flags)
    _, stderr = process.communicate()
    if process.returncode:
        return f"could not be resumed: {stderr}"
    return differences(directory / again, reference)


def differences(output, reference):
    """What a run that has ended left otherwise than the undisturbed one, or None."""
    files = left(output)
    differing = [name for name in files | reference if files.get(name) != reference.get(name)]
    return f"ended with another {', '.join(differing)}" if differing else None


def survive(script, directory, what, tries, rng, loading, working, reference):
    """Disturb a script `tries` times and print what came of it; `loading` and `working` are its seconds undisturbed."""
    failures, slowest, tried = [], 0.0, 0
    attempts = itertools.count()
    while tried < tries:
        number = signal.SIGKILL if what == "killed" else (signal.SIGINT, signal.SIGTERM)[tried % 2]
        from_loaded = tried % 4 != 3
        moment = rng.uniform(0, working if from_loaded else loading)
        name = f"{script}-{what}-{next(attempts)}"
        code, stderr, took = disturb(script, directory, name, number, from_loaded, moment)
        when = f"{moment:.2f} s after {'loading' if from_loaded else 'its start'}"
        if code == 0:
            wrong = differences(directory / name, reference)
            print(f"  {what} {when}: was done before", flush=True)
        else:
            tried += 1
            slowest = max(slowest, took)
            print(f"  {what} {when}{': ' * bool(stderr)}{stderr.strip().partition('; go on')[0]}", flush=True)
            if number != signal.SIGKILL and (code != 130 or stderr.count("\n") != 1 or took > 10):
                wrong = f"ended with {code} after {took:.1f} s: {stderr}"
            else:
                wrong = finish(script, directory, name, reference)
        if wrong:
            failures.append(f"{when}: {wrong}")
    print(f"{script:<18}{what:<12}{tried:>6}{tried - len(failures):>10}{slowest:>11.1f} s", flush=True)
    for failure in failures:
        print(f"  {failure}", flush=True)


def show_memory(directory, lines):
    """Print the peak memory of predicting an unlabelled file of so many lines with what bert_plain.py trained."""
    with (directory / "long.jsonl").open("w", encoding="utf-8") as file:
        for number in range(lines):
            row = {"id": str(number), "input": {"form": f"급식 최고 {number}", "target": None}}
            print(json.dumps(row, ensure_ascii=False), file=file)
    output, checkpoint = f"lines-{lines}", "bert_plain.py-reference/best"
    command = [sys.executable, str(ROOT / "bert_plain.py"), "--model-ckpt-path", checkpoint, "--test-file", "long.jsonl"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, "--output-dir", output], cwd=directory, env=environment, check=True, capture_output=True)
    run = json.loads((directory / output / "run.json").read_text(encoding="utf-8"))
    memory = run["peak_memory_gib"]["host"]
    print(f"bert_plain.py     {lines:>9} lines predicted in {run['seconds']:.0f} s; peak memory {memory} GiB", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=7, help="of each script")
    parser.add_argument("--interrupts", type=int, default=2, help="of each script")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lines", type=int, nargs="*", default=[20_000, 200_000], help="of the files whose memory is shown")
    parser.add_argument("--script", choices=SCRIPTS, nargs="+", default=list(SCRIPTS))
    options = parser.parse_args()
    rng = random.Random(options.seed)
    print(f"{'':<18}{'':<12}{'tried':>6}{'same end':>10}{'slowest end':>13}")
    with tempfile.TemporaryDirectory() as root:
        directory = Path(root)
        write_corpus(directory)
        if "gpt_inference.py" in options.script:
            train = start("gpt_train.py", directory, "gpt")
            assert train.wait() == 0, train.communicate()
        for script in options.script:
            process = start(script, directory, f"{script}-reference")
            began = time.perf_counter()
            wait_until_loaded(process, directory / f"{script}-reference")
            loading = time.perf_counter() - began
            _, stderr = process.communicate()
            duration = time.perf_counter() - began
            assert process.returncode == 0, stderr
            reference = left(directory / f"{script}-reference")
            for what, tries in (("killed", options.kills), ("interrupted", options.interrupts)):
                survive(script, directory, what, tries, rng, loading, duration - loading, reference)
        if "bert_plain.py" in options.script:
            for lines in options.lines:
                show_memory(directory, lines)


if __name__ == "__main__":
    main()
