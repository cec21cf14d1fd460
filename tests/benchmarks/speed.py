"""Speed of bert_plain.py against another checkout of this repository, both sides in one run.

    git worktree add ../before COMMIT
    python tests/benchmarks/speed.py --before ../before --model DIR --corpus DIR [--runs 3]

Each side is run as a user runs it, in turn: training for one epoch on train.jsonl of the corpus,
its time by the run's own log, and prediction of 8,000 unlabelled lines (those of train.jsonl, over
and over), its time as a whole process. Times are this machine's; read the ratio.
"""

import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from emotion import cli

TO_PREDICT = 8000


def argument_parser(script: str, description: str | None) -> cli.ArgumentParser:
    """The command line that this and gpt_speed.py share."""
    parser = cli.ArgumentParser(script, description)
    parser.add_argument("--before", type=Path, required=True, help="another checkout")
    parser.add_argument("--corpus", type=Path, required=True)
    cli.count(parser, "--runs", 3, "of each side")
    return parser


def run(where: Path, program: list[object], *arguments: object) -> float:
    """Run a program of a checkout; returns its seconds as a whole process."""
    command = [sys.executable, *map(str, [*program, *arguments])]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(where)}
    began = time.perf_counter()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return time.perf_counter() - began


def epoch(output: Path) -> re.Match[str]:
    """What the log of a run says of its one epoch; first group: lines a second."""
    log = (output / "train.log").read_text(encoding="utf-8")
    return re.search(r"^epoch 1/1: .*?([0-9.]+) lines/s.*$", log, re.MULTILINE)


def train(where: Path, program: list[object], output: Path, *flags: object) -> float:
    """Lines a second of one epoch, evaluation left out."""
    run(where, program, *flags, "--epochs", 1, "--output-dir", output)
    return float(epoch(output)[1])


def write_lines(source: Path, target: Path) -> None:
    """Write TO_PREDICT unlabelled lines."""
    lines = source.read_text(encoding="utf-8").splitlines()
    with target.open("w", encoding="utf-8") as file:
        for number, line in zip(range(TO_PREDICT), itertools.cycle(lines), strict=False):
            row = json.loads(line) | {"id": str(number), "output": None}
            print(json.dumps(row, ensure_ascii=False), file=file)


def main() -> None:
    """Print a row for each side and the ratio, from medians."""
    parser = argument_parser("speed.py", __doc__)
    parser.add_argument("--model", required=True, help="a from_pretrained directory")
    options = parser.parse_args()
    trained = [f"--{split}-file={options.corpus / split}.jsonl" for split in ("train", "dev")]
    trained += ["--model", options.model, "--lr", "1e-4", "--head-lr", "1e-2", "--pooling", "mean"]
    sides = {"before": options.before.resolve(), "now": ROOT}
    training: dict[str, list[float]] = {side: [] for side in sides}
    predicting: dict[str, list[float]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as scratch:
        to_predict = Path(scratch, "lines.jsonl")
        write_lines(options.corpus / "train.jsonl", to_predict)
        for number, (side, where) in itertools.product(range(options.runs), sides.items()):
            output, program = Path(scratch, f"{side}-{number}"), [where / "bert_plain.py"]
            training[side].append(train(where, program, output, *trained))
            flags = ["--model-ckpt-path", output / "best", "--test-file", to_predict]
            flags += ["--output-dir", Path(scratch, f"{side}-{number}-predicted")]
            predicting[side].append(TO_PREDICT / run(where, program, *flags))
            print(f"{side}: {training[side][-1]:.1f}, {predicting[side][-1]:.1f}", flush=True)
    print(f"\n{'':<40}{'before':>10}{'now':>10}{'ratio':>8}")
    for what, speeds in (("training, lines/s", training), ("8,000 lines predicted", predicting)):
        before, now = (statistics.median(speeds[side]) for side in sides)
        print(f"{what:<40}{before:>10.1f}{now:>10.1f}{now / before:>8.2f}")


if __name__ == "__main__":
    main()
