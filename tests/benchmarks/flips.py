"""Labels planted wrong: how many of them stand at the top of the list of lines to look at.

    python tests/benchmarks/flips.py --corpus DIR --model DIR --output-dir DIR [--jobs 2]

In one of 20 lines of train and dev, drawn at random, one label is exchanged for one that the line
does not have (a line without labels gets one). The lines are then ranked as report.html ranks
them, by scores out of fold, and by those of a model that was trained on the lines themselves; the
table says which share of the planted lines is among the first 5 % and 10 %. A list in no order
has 5 % and 10 % of them there.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

import numpy as np
import published

import utils
from emotion import cli, data, report, systems

FLAGS = (*published.BERT, "--pooling", "mean", "--head-lr", "1e-2", "--epochs", "2")
SHARE = 0.05  # of the lines


def plant(rows: list[utils.Row], labels: list[str]) -> set[str]:
    """Exchange a label in some rows; returns their ids."""
    rng, planted = np.random.default_rng(0), set()
    for index in rng.choice(len(rows), round(SHARE * len(rows)), replace=False):
        output, present = rows[index]["output"], utils.encode_labels([rows[index]], labels)[0] > 0
        if present.any():
            output[labels[rng.choice(np.flatnonzero(present))]] = "False"
        if not present.all():
            output[labels[rng.choice(np.flatnonzero(~present))]] = "True"
        planted.add(rows[index]["id"])
    return planted


def main() -> None:
    """Parse the command line."""
    parser = cli.ArgumentParser("flips.py", __doc__)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--model", required=True, help="a from_pretrained directory")
    parser.add_argument("--output-dir", type=Path, required=True)
    cli.count(parser, "--jobs", 2, "runs side by side")
    cli.run_tool(parser, show, None)


def show(options: argparse.Namespace) -> None:
    """Plant, train, rank, print."""
    output = options.output_dir
    files = [options.corpus / f"{each}.jsonl" for each in ("train", "dev")]
    train, dev = (utils.read_corpus(each, labelled=True) for each in files)
    labels, rows = utils.labels_of(train), train + dev
    data.check_ids(rows, f"{files[0]} and {files[1]}")
    planted = plant(rows, labels)
    output.mkdir(parents=True, exist_ok=True)
    for name, lines in {"train": train, "dev": dev, "all": rows}.items():
        published.write(output / f"{name}.jsonl", lines)
    by_fold = (*FLAGS, "--train-file", str(output / "train.jsonl"))
    itself = (*FLAGS, "--train-file", str(output / "all.jsonl"))
    itself = (*itself, "--test-file", str(output / "all.jsonl"))
    given = ("--model", options.model, "--dev-file", str(output / "dev.jsonl"))
    commands = {
        f"fold-{fold}": (*by_fold, *given, "--folds", str(published.FOLDS), "--fold", str(fold))
        for fold in range(published.FOLDS)
    }
    for name in published.make({**commands, "itself": (*itself, *given)}, output, options.jobs):
        print(f"finished {name}", flush=True)
    runs = [systems.read_run(output / name) for name in commands]
    scored = {
        "out of fold": {
            id: values
            for run in runs
            for id, values in zip(run["ids"]["dev"], run["scores"]["dev"], strict=True)
        }
    }
    run = systems.read_run(output / "itself")
    scored["trained on the lines"] = dict(
        zip(run["ids"]["test"], run["scores"]["test"], strict=True)
    )
    present = utils.encode_labels(rows, labels) > 0
    is_planted = np.array([row["id"] in planted for row in rows])
    print(f"| {len(rows):,} lines, {len(planted)} planted: found | first 5 % | first 10 % |")
    print("| --- | --- | --- |")
    for name, scores in scored.items():
        ranked = is_planted[
            report.hardest_first(present, np.array([scores[r["id"]] for r in rows]))
        ]
        found = [ranked[: round(part * len(rows))].sum() / len(planted) for part in (0.05, 0.1)]
        print(f"| {name} | {' | '.join(f'{100 * each:.0f} %' for each in found)} |")


if __name__ == "__main__":
    main()
