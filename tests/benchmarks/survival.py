"""What a run loses when it is killed or interrupted: the long part of what tests/test_trust.py checks.

    python tests/benchmarks/survival.py [--kills 7] [--interrupts 2] [--seed 0] [--lines 20000 200000]

Each script trains or predicts with its tiny model on a part of the sample, once undisturbed. It is then begun again and again,
and each time killed (SIGKILL) or interrupted (SIGINT and SIGTERM in turn) at a moment drawn by the seed, one in four of them
from its start on, the others from when it has loaded its model, and resumed; gpt_inference.py, which has nothing to resume, is
begun again in another directory. What it leaves must equal what the undisturbed run left to the last bit, and what lay about in
between must have been whole. Last, bert_plain.py predicts files of --lines lines, and the peak memory is shown.
"""

import argparse
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


def disturb(process, number, seconds):
    """Send a signal after so many seconds; returns (seconds until the process had ended, standard error)."""
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, number)
    sent = time.perf_counter()
    _, stderr = process.communicate()
    return time.perf_counter() - sent, stderr


def left(output):
    """The files that a run leaves, by name, as far as they are there."""
    files = {name: output / name for name in (*ENDS_WITH, *WEIGHTS)}
    return {name: file.read_bytes() for name, file in files.items() if file.exists()}


def steps_done(output):
    """The step of the last whole checkpoint."""
    whole = utils.last_whole_checkpoint(output)
    return int(whole.name.rpartition("-")[2]) if whole else 0


def try_once(script, directory, name, number, from_loaded, seconds, reference):
    """Disturb a run and finish it; returns (what went wrong or None, what was told, seconds from signal to end)."""
    output = directory / name
    process = start(script, directory, name)
    if from_loaded:
        wait_until_loaded(process, output)
    took, stderr = disturb(process, number, seconds)
    ended = process.returncode == 0
    if not ended and number != signal.SIGKILL:
        if process.returncode != 130 or stderr.count("\n") != 1:
            return f"ended with {process.returncode}: {stderr}", stderr, took
        if took > 10:
            return f"took {took:.1f} s to end", stderr, took
    whole = {name: content for name, content in left(output).items() if name in ENDS_WITH} if output.exists() else {}
    if any(reference[name] != content for name, content in whole.items()):
        return "left a file that was not whole", stderr, took
    if not ended:
        again = name + "-again" if script == "gpt_inference.py" else name
        resumed = start(script, directory, again, *["--resume"] * (script != "gpt_inference.py"))
        _, errors = resumed.communicate()
        if resumed.returncode:
            return f"could not be resumed: {errors}", stderr, took
        output = directory / again
    if left(output) != reference:
        differing = [name for name, content in reference.items() if left(output).get(name) != content]
        return f"ended with another {', '.join(differing)}", stderr, took
    return None, stderr, took


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
                failures, slowest = [], 0.0
                for number in range(tries):
                    sent = signal.SIGKILL if what == "killed" else (signal.SIGINT, signal.SIGTERM)[number % 2]
                    from_loaded = number % 4 != 3
                    moment = rng.uniform(0, duration - loading if from_loaded else loading)
                    name = f"{script}-{what}-{number}"
                    wrong, told, took = try_once(script, directory, name, sent, from_loaded, moment, reference)
                    slowest = max(slowest, took)
                    when = f"{moment:.2f} s after {'loading' if from_loaded else 'its start'}"
                    if wrong:
                        failures.append(f"{when}: {wrong}")
                    print(f"  {what} {when}{': ' * bool(told)}{told.strip().partition('; go on')[0]}", flush=True)
                print(f"{script:<18}{what:<12}{tries:>6}{tries - len(failures):>10}{slowest:>11.1f} s", flush=True)
                for failure in failures:
                    print(f"  {failure}", flush=True)
        if "bert_plain.py" in options.script:
            for lines in options.lines:
                show_memory(directory, lines)


if __name__ == "__main__":
    main()
