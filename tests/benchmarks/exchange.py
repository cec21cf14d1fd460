"""Does a model read the target? Its score with the true target, with another, with none.

    python tests/benchmarks/exchange.py [--split dev|test] RUN [RUN ...]

Of the split that the runs scored, the lines whose sentence has several targets are asked again:
with the true target but not its place, with the next of its targets, and with none. Runs that
differ in nothing but their seed are a row; 95 % intervals are from 10,000 resamples of sentences
and seeds together.
"""

import argparse
import collections
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]

import numpy as np
import results

import utils
from emotion import classifier, cli, kinds, statistics, systems, targets

ASKED = ("true", "no place", "another", "none")


def with_targets(rows: list[utils.Row]) -> dict[str, list[utils.Row]]:
    """The rows of sentences with several targets, by what is asked of ASKED."""
    of_sentence = collections.defaultdict(list)
    for row in rows:
        sentence, target = utils.text_and_target(row)
        if target:
            of_sentence[sentence].append((target, row))
    asked: dict[str, list[utils.Row]] = {each: [] for each in ASKED}
    for several in of_sentence.values():
        for number, (target, row) in enumerate(several):
            following = (each for named, each in several[number:] + several if named != target)
            if other := next(following, None):
                form, place = row["input"]["form"], other["input"]["target"]
                asked["true"].append(row)
                asked["no place"].append(targets.unplaced(row))
                asked["another"].append(row | {"input": {"form": form, "target": place}})
                asked["none"].append(row | {"input": {"form": form}})
    if not asked["true"]:
        told = "no sentence of the lines has several targets; predict a corpus that has such"
        raise utils.InputError(told)
    return asked


def show(options: argparse.Namespace) -> None:
    """Print a row for each kind of run."""
    runs = {path: systems.read_run(path) for path in options.runs}
    for path, record in runs.items():
        lines = results.Lines(path, record, options.split)
        if options.split == "dev" and kinds.is_pooled(record):
            told = "runs of folds have learnt lines of dev; ask them with --split test"
            raise utils.InputError(f"{path}: {told}")
    systems.read_scored_file({}, options.split, runs)  # of one file
    asked = with_targets(lines.rows)
    lines.choose(asked["true"])
    found = {}
    for path, record in runs.items():
        model = classifier.load(path)
        lines.check(model.labels)
        reads_place = record["arguments"].get("target") != "pair"
        as_read = {
            each: rows if reads_place else list(map(targets.unplaced, rows))
            for each, rows in asked.items()
        }
        once = {str(row["input"]): row for row in itertools.chain(*as_read.values())}
        scores = model.score_rows(list(once.values()), lambda _: None)
        predicted = dict(zip(once, model.rule(scores), strict=True))
        for each, rows in as_read.items():
            found[path, each] = np.array([predicted[str(row["input"])] for row in rows])
    micro, _ = lines.f1([found[path, each] for each in ASKED for path in runs])
    groups = statistics.grouped(kinds.kinds_of(list(runs.values())))
    count = len(runs)
    means = [
        statistics.over_seeds(micro[:, n * count : (n + 1) * count], groups, statistics.SEED)
        for n in range(len(ASKED))
    ]
    told = f"{len(asked['true'])} lines of sentences with several targets"
    falls = [f"true - {each}" for each in ASKED[1:]]
    print(f"| {told}: micro-F1 | seeds | {' | '.join([*ASKED, *falls])} |")
    print("| --- " * (2 + len(ASKED) + len(falls)) + "|")
    for number, group in enumerate(groups):
        true, *others = (each[:, number] for each in means)
        cells = [statistics.interval(each) for each in (true, *others)]
        cells += [statistics.paired_difference(true, each) for each in others]
        name = results.name_of([list(runs)[index] for index in group])
        print(f"| {name} | {len(group)} | {' | '.join(map(statistics.show_interval, cells))} |")


def main(argv: Sequence[str] | None = None) -> None:
    """Ask again, and print a row for each kind of run."""
    parser = cli.ArgumentParser("exchange.py", __doc__)
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path)
    parser.add_argument("--split", choices=("dev", "test"), default="test")
    cli.run_tool(parser, show, argv)


if __name__ == "__main__":
    main()
