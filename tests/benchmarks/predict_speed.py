"""predict.py against plain transformers, on a checkpoint of a BERT script.

    python tests/benchmarks/predict_speed.py --checkpoint DIR --texts FILE [--runs 5] [--lines 5000]

One sentence cold: seconds of a whole process, predict.py and a script that loads the same model and
runs it, in turn. Warm: the second call in a process that has loaded it. Many: lines a second of the
first lines of a corpus file, `load(...)` and `pipeline("text-classification", batch_size=32)` in
the same type. Medians, and the ratio to the plain side; times are this machine's.
"""

import argparse
import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import torch
import transformers
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

import utils
from emotion import cli, scoring
from predict import load

SENTENCE = "오늘 공연 너무 좋았다"
PLAIN = """
import sys

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

path, text = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(path)
model = AutoModelForSequenceClassification.from_pretrained(path, trust_remote_code=True).eval()
with torch.inference_mode():
    print(model(**tokenizer(text, return_tensors="pt")).logits.sigmoid().tolist())
"""


def seconds(function: Callable[[], Any]) -> float:
    """What a call takes."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def cold(checkpoint: Path, runs: int) -> dict[str, list[float]]:
    """Seconds of whole processes, for one sentence."""
    commands = {
        "predict.py": [sys.executable, ROOT / "predict.py", checkpoint, SENTENCE],
        "plain": [sys.executable, "-c", PLAIN, checkpoint, SENTENCE],
    }
    found: dict[str, list[float]] = {side: [] for side in commands}
    for _, (side, command) in itertools.product(range(runs), commands.items()):
        given = list(map(str, command))
        found[side].append(
            seconds(lambda given=given: subprocess.run(given, check=True, capture_output=True))
        )
    return found


def warm(checkpoint: Path, runs: int) -> dict[str, list[float]]:
    """Seconds of a call for one sentence, once all is loaded."""
    classify = load(checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint, trust_remote_code=True)
    model.eval()

    @torch.inference_mode()
    def plain() -> Any:
        return model(**tokenizer(SENTENCE, return_tensors="pt")).logits.sigmoid().tolist()

    calls = {"predict.py": lambda: classify([SENTENCE]), "plain": plain}
    for call in calls.values():
        call()
    found: dict[str, list[float]] = {side: [] for side in calls}
    for _, (side, call) in itertools.product(range(runs), calls.items()):
        found[side].append(seconds(call))
    return found


def many(checkpoint: Path, texts: list[str], precision: str) -> dict[str, float]:
    """Lines a second."""
    classify = load(checkpoint, precision=precision)
    plain = pipeline(
        "text-classification",
        str(checkpoint),
        top_k=None,
        batch_size=32,
        dtype=scoring.DTYPES[precision],
        trust_remote_code=True,
    )
    calls: dict[str, Callable[[list[str]], Any]] = {
        "predict.py": classify,
        "plain": lambda given: plain(given, truncation=True),
    }
    for call in calls.values():
        call(texts[:64])
    return {
        side: len(texts) / seconds(lambda call=call: call(texts)) for side, call in calls.items()
    }


def main() -> None:
    """Parse the command line."""
    parser = cli.ArgumentParser("predict_speed.py", __doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="best/ of a run")
    parser.add_argument("--texts", type=Path, required=True, help="a corpus file")
    cli.count(parser, "--runs", 5, "of each side, for one sentence")
    cli.count(parser, "--lines", 5000, "of the file, over and over")
    cli.run_tool(parser, show, None)


def show(options: argparse.Namespace) -> None:
    """Print a row for each measurement."""
    transformers.utils.logging.set_verbosity_error()
    rows: list[tuple[str, float, float]] = []
    for what, measure in (("one sentence, cold: s", cold), ("one sentence, warm: s", warm)):
        found = measure(options.checkpoint, options.runs)
        rows.append((what, *(statistics.median(found[side]) for side in ("predict.py", "plain"))))
    forms = itertools.cycle(row["input"]["form"] for row in utils.iter_corpus(options.texts))
    texts = list(itertools.islice(forms, options.lines))
    for precision in dict.fromkeys((scoring.resolve_precision("auto"), "fp32")):
        speed = many(options.checkpoint, texts, precision)
        rows.append((f"{len(texts):,} lines, {precision}: lines/s", *speed.values()))
    print(f"| {'':<30} | predict.py | plain | ratio |\n| --- | --- | --- | --- |")
    for what, ours, plain in rows:
        print(f"| {what:<30} | {ours:.3g} | {plain:.3g} | {ours / plain:.2f} |")


if __name__ == "__main__":
    main()
