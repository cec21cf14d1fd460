"""What a CUDA card does, from one command; no network, no corpus.

    python tests/benchmarks/gpu.py [--output FILE.json] [--tiny] [--parts bert resumed gpt tests]

Random weights of the true sizes (RoBERTa-large; GPT-NeoX of 12.9 B in 4 bits, built a layer at a
time), lines of the sample, random tokens. Speeds stand beside those published for one RTX 4090.
--tiny tries it with small models, on whatever there is. The JSON is for docs/results.md.
"""

import functools
import itertools
import json
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

from emotion import process

process.quiet_libraries()  # before the libraries are imported

import gpt_memory
import numpy as np
import roberta_large
import speed
import torch

import utils
from emotion import answer_model, causal, cli, inputs, outputs, scoring, systems
from emotion.answer_model import AnswerModel

PUBLISHED = {  # lines a second on one RTX 4090
    **{"bert_plain.py: training": 135, "bert_plain.py: evaluation": 418},
    **{"gpt: training, activations kept": 11.9, "gpt: inference, bf16": 48},
}
PARTS = ("bert", "resumed", "gpt", "tests")
SCRIPTS = ("bert_plain.py", "bert_GRU.py")
PRECISIONS = ("bf16", "fp16", "fp32")
LINES, TOKENS = 16, 96  # of a batch of the GPT
TESTS = ("tests/test_bert.py", "tests/test_gpt.py", "tests/test_models.py")


def card() -> dict[str, str]:
    """The device, its driver, and the versions of what computes on it."""
    found = {"device": str(scoring.device()), "python": platform.python_version()}
    found |= {"torch": torch.__version__, "cuda": str(torch.version.cuda)}
    if torch.cuda.is_available():
        query = [
            "nvidia-smi",
            "--query-gpu=name,driver_version,memory.total",
            "--format=csv,noheader",
        ]
        found["card"] = subprocess.run(query, capture_output=True, text=True).stdout.strip()
    return found


def run(script: str, *arguments: object, until: Path | None = None) -> int:
    """Run a script; interrupted once a path is there, if told. Returns its exit code."""
    command = [sys.executable, str(ROOT / script), *map(str, arguments)]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    while until and child.poll() is None and not any(until.glob("checkpoint-*")):
        time.sleep(0.02)
    if until:
        child.send_signal(signal.SIGTERM)
    return child.wait()


def on_device(peaks: dict[str, float]) -> float:
    """The peak memory of the device that computes."""
    return next((peak for where, peak in peaks.items() if where != "host"), peaks["host"])


def write_lines(path: Path, count: int) -> Path:
    """So many lines of the sample, over and over."""
    rows = utils.read_corpus(utils.SAMPLE / "train.jsonl")
    with path.open("w", encoding="utf-8") as file:
        for number, row in zip(range(count), itertools.cycle(rows), strict=False):
            print(json.dumps(row | {"id": str(number)}, ensure_ascii=False), file=file)
    return path


def bert(script: str, scratch: Path, tiny: bool) -> dict[str, float]:
    """Lines a second in training and evaluation at the published settings, and peak memory."""
    model, output = scratch / "encoder", scratch / script
    if not model.exists():
        roberta_large.build(model, *((2, 64) if tiny else ()))
    train = write_lines(scratch / "train.jsonl", 96 if tiny else 4800)
    dev = write_lines(scratch / "dev.jsonl", 48)
    files = ["--train-file", train, "--dev-file", dev, "--model", model]
    if run(script, *files, "--epochs", 1, "--output-dir", output):
        raise RuntimeError(f"{script} failed; see {output / 'train.log'}")
    score, _ = inputs.load_scorer(output / "best", "auto", 48)
    rows = utils.read_corpus(train)
    score(rows[:96], lambda lines: None)
    began = time.perf_counter()
    score(rows, lambda lines: None)
    record = json.loads((output / "run.json").read_text(encoding="utf-8"))
    return {
        f"{script}: training": float(speed.epoch(output)[1]),
        f"{script}: evaluation": len(rows) / (time.perf_counter() - began),
        f"{script}: peak GiB": on_device(record["peak_memory_gib"]),
    }


def resumed(script: str, scratch: Path) -> dict[str, float]:
    """The largest difference of a score between a whole run and one interrupted and resumed."""
    flags = ["--sample", "--epochs", 1, "--save-steps", 2, "--output-dir"]
    whole, broken = scratch / f"whole-{script}", scratch / f"broken-{script}"
    codes = [run(script, *flags, whole)]
    codes += [run(script, *flags, broken, until=broken / "checkpoints")]
    codes += [run(script, *flags, broken, "--resume")]
    if codes != [0, 130, 0]:
        raise RuntimeError(f"the runs ended with the codes {codes}, not 0, 130 and 0")
    _, one, _ = systems.read_scores(whole / "dev.scores.jsonl")
    _, other, _ = systems.read_scores(broken / "dev.scores.jsonl")
    return {f"{script}: resumed, scores differ by": float(np.abs(one - other).max())}


class Steps(gpt_memory.OneStep):
    """Steps whose time is taken from the end of the first on, which prepares the kernels."""

    def end_epoch(self, epoch: int, speed: float) -> None:
        if epoch == 1:
            self.began = now(self.accelerator.device)


def now(device: torch.device) -> float:
    """Seconds, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def gpt(tiny: bool) -> dict[str, float]:
    """Lines a second in training, activations kept and computed again, and in inference."""
    size = gpt_memory.config(2, 256) if tiny else gpt_memory.config()
    steps, device, found = (2 if tiny else 8), scoring.device(), {}
    build = functools.partial(gpt_memory.build, size, device)
    causal.load_base = lambda *_: causal.compute_in_float32(build(), torch.bfloat16)
    AnswerModel.choose_way = lambda *_: "not tried: speed is measured"
    for again in (False, True):
        with tempfile.TemporaryDirectory() as directory:
            run, accelerator, corpora, task = gpt_memory.make_task(directory, LINES, size)
            packed = task.draw(LINES, TOKENS)
            need = gpt_memory.needs(task)
            task.plan = task.plan._replace(again=again)
            task.load()
            loop = Steps(run, accelerator, corpora, task, steps)
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            loop.train()
            seconds, peak = now(device) - loop.began, on_device(process.peak_memory_gib())
            name = f"gpt: training, activations {'computed again' if again else 'kept'}"
            found[name] = LINES * (steps - 1) / seconds
            found[f"{name}: peak GiB"] = peak
            estimate = sum((need.held | need.training(packed, again)).values())
            found[f"{name}: --estimate, GiB"] = estimate / 2**30
    model, suffixes = task.model.eval(), task.suffixes["dev"] * (1 if tiny else 16)
    for precision in PRECISIONS:
        model.set_precision(precision)
        batch = answer_model.score(model, suffixes, lambda lines: None, LINES)
        began = time.perf_counter()
        answer_model.score(model, suffixes, lambda lines: None)
        rate = len(suffixes) / (time.perf_counter() - began)
        alone = answer_model.score(model, suffixes[:LINES], lambda lines: None, 1)
        found[f"gpt: inference, {precision}"] = rate
        off = float(np.abs(batch[:LINES] - alone).max())
        found[f"gpt: batch of {LINES} against one, {precision}"] = off
    return found


def suite() -> dict[str, float]:
    """How the tests of scripts and models end; each is told at once, should time run out."""
    command = [sys.executable, "-m", "pytest", "-v", "-n", "4", *TESTS]
    return {"tests: exit code": subprocess.run(command, cwd=ROOT).returncode}


def main() -> None:
    """Print what was found, and write it."""
    parser = cli.ArgumentParser("gpu.py", __doc__)
    parser.add_argument("--output", type=Path, help="a JSON file")
    parser.add_argument("--tiny", action="store_true", help="small models, on any device")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="default: all")
    options = parser.parse_args()
    tiny = options.tiny
    if options.output:
        try:
            outputs.check_new(options.output)
        except utils.InputError as error:
            parser.error(str(error))
    if not (tiny or torch.cuda.is_available()):
        parser.error("there is no CUDA card; --tiny runs on anything")
    began, about, found = time.perf_counter(), card(), {}
    print(*(f"{name}: {value}" for name, value in about.items()), sep="\n", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        scratch, again = Path(directory), SCRIPTS[:1] if tiny else SCRIPTS
        parts: dict[str, list[Callable[[], dict[str, float]]]] = {
            "bert": [functools.partial(bert, script, scratch, tiny) for script in SCRIPTS],
            "resumed": [functools.partial(resumed, script, scratch) for script in again],
            "gpt": [functools.partial(gpt, tiny)],
            "tests": [suite],
        }
        chosen = dict.fromkeys(options.parts)  # each once
        for part in itertools.chain.from_iterable(parts[name] for name in chosen):
            for name, value in part().items():
                found[name] = value
                beside = f"   published: {PUBLISHED[name]}" if name in PUBLISHED else ""
                print(f"{name:<60}{value:>12.4g}{beside}", flush=True)
            found["seconds"] = time.perf_counter() - began
            if options.output:  # what has been found, should the rest be cut off
                outputs.write_json(options.output, {"about": about, "found": found})


if __name__ == "__main__":
    main()
