"""Does a model read the target? Its score with the true target, with another, with none.

    python tests/benchmarks/exchange.py [--split dev|test] RUN [RUN ...]

Of the split that the runs scored, the lines whose sentence has several targets are asked again:
with the true target but not its place, with the next of its targets, and with none. Runs that
differ in nothing but their seed are a row; 95 % intervals are from 10,000 resamples of sentences
and seeds together.
"""

import argparse
import collections
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]

import results

import utils
from emotion import classifier, cli, statistics, systems

ASKED = ("true", "no place", "another", "none")


def with_targets(rows: list[utils.Row]) -> dict[str, list[utils.Row]]:
    """The rows of sentences with several targets, by what is asked of ASKED."""
    of_sentence = collections.defaultdict(list)
    for row in rows:
        if utils.text_and_target(row)[1]:
            of_sentence[row["input"]["form"]].append(row)
    asked: dict[str, list[utils.Row]] = {each: [] for each in ASKED}
    for several in of_sentence.values():
        for row, following in zip(several, [*several[1:], several[0]], strict=True):
            if len(several) > 1:
                form, other = row["input"]["form"], following["input"]["target"]
                named = {"form": row["input"]["target"]["form"]}
                asked["true"].append(row)
                asked["no place"].append(row | {"input": {"form": form, "target": named}})
                asked["another"].append(row | {"input": {"form": form, "target": other}})
                asked["none"].append(row | {"input": {"form": form}})
    return asked


def show(options: argparse.Namespace) -> None:
    """Print a row for each kind of run."""
    runs = {path: systems.read_run(path) for path in options.runs}
    lines = results.Lines(options.runs[0], runs[options.runs[0]], options.split)
    asked = with_targets(lines.rows)
    lines.choose(asked["true"])
    found = {}
    for path in runs:
        model = classifier.load(path)
        for each, rows in asked.items():
            scores = model.score_rows(rows, lambda _: None)
            found[path, each] = model.rule(scores)
    micro, _ = lines.f1([found[path, each] for each in ASKED for path in runs])
    groups = list(results.by_kind(list(runs.values())).values())
    count = len(runs)
    means = [
        statistics.over_seeds(micro[:, n * count : (n + 1) * count], groups, 42)
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


def main() -> None:
    """Ask again, and print a row for each kind of run."""
    parser = cli.ArgumentParser("exchange.py", __doc__)
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path)
    parser.add_argument("--split", choices=("dev", "test"), default="test")
    cli.run_tool(parser, show, None)


if __name__ == "__main__":
    main()
