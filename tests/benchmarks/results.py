"""The tables of docs/results.md, from runs of the scripts, of ensemble.py, of linear.py.

    python tests/benchmarks/results.py RUN [RUN ...]              print them
    python tests/benchmarks/results.py --write FILE --runs DIR    write those of a page anew

Runs that scored the same test file stand in one table. Those that differ in nothing but their seed
are a row: means, with 95 % intervals from 10,000 resamples of sentences and seeds. Each run
decides by the rule that it saved; "macro-F1, tuned for it" by one tuned on dev for macro-F1. Where
each line has one label, accuracy is how often the most probable one is right. Seconds and memory
are means of the runs', as their run.json says.

In a page, a comment says before each table which runs it is of, in the directory of --runs:
<!-- runs: kote/linear kote/bert_plain-* -->. A table of which some are missing stays as it is.
"""

import argparse
import itertools
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

import utils
from emotion import cli, data, kinds, outputs, rules, statistics, systems

MARK = re.compile(r"(<!-- runs: (.+?) -->\n)(?:\n*(?:\|.*\n)+)*")
Run = dict[str, Any]


class Lines:
    """The lines of a split that a run scored, and what it and others say of them."""

    def __init__(self, path: Path, run: Run, split: str) -> None:
        self.labels, self.split = run["labels"], split
        if split not in run["scores"]:
            raise utils.InputError(f"{path}: scored no {split} lines; predict some with it")
        splits = ["train", "dev"] if split == "dev" and kinds.is_pooled(run) else [split]
        rows = [systems.read_scored_file({}, each, {path: run}) for each in splits]
        self.choose(list(itertools.chain(*rows)))

    def choose(self, rows: list[utils.Row]) -> None:
        """Let these be the lines."""
        if not all(map(utils.has_labels, rows)):
            told = f"the {self.split} lines have no labels; predict some that have, and table these"
            raise utils.InputError(told)
        self.rows, self.gold = rows, utils.encode_labels(rows, self.labels)
        self.sentences = data.sentences(rows)

    def check(self, labels: Sequence[str]) -> None:
        """Raise utils.InputError where others are named, or in another order."""
        if list(labels) != self.labels:
            told = f"one has the labels {', '.join(labels)}, another {', '.join(self.labels)}"
            raise utils.InputError(f"{told}; name runs with the same, in the same order")

    def of(self, run: Run, what: str) -> np.ndarray:
        """The "scores" or "decisions" of a run, [lines, labels]."""
        self.check(run["labels"])
        return systems.in_order(run["ids"][self.split], run[what][self.split], self.rows)

    def f1(self, decisions: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Micro- and macro-F1 of each run, [1 + resamples, runs]."""
        given = self.gold.astype(bool), np.stack(decisions), self.sentences
        micro, per_label = statistics.bootstrap_f1(*given, statistics.RESAMPLES, statistics.SEED)
        return micro, per_label.mean(-1)


def tuned_for_macro(path: Path, run: Run, test: Lines) -> np.ndarray:
    """Decisions on test by the rule that serves the macro-F1 of dev."""
    dev = Lines(path, run, "dev")
    tried = rules.tune_rules(dev.gold, dev.of(run, "scores"), dev.sentences, "macro")
    return tried[0][0](test.of(run, "scores"))


def name_of(paths: Sequence[Path]) -> str:
    """What the runs of a row are called: of several, without their seeds."""
    return str(paths[0]) if len(paths) == 1 else re.sub(r"-\d+$", "", str(paths[0]))


def trivial_rows(named: dict[Path, Run], test: Lines, of_accuracy: bool) -> Iterator[str]:
    """A row for the best constant answer by micro-F1, by macro-F1, and by accuracy where asked."""
    by_pool = sorted(named.values(), key=lambda run: bool(run.get("out_of_fold")))
    best = next(filter(None, (run.get("constant_answer") for run in by_pool)), [])  # of train
    answers = [best, test.labels]  # the F1 of a label that every line has is the highest constant
    if of_accuracy:
        dev = Lines(*next(iter(named.items())), "dev")
        answers.append([test.labels[dev.gold.sum(0).argmax()]])
    for answer in filter(None, dict.fromkeys(map(tuple, answers))):
        always = statistics.constant_decisions(len(test.rows), test.labels, answer)
        micro, macro = utils.micro_f1(test.gold, always), utils.macro_f1(test.gold, always)
        cells = [f"{micro:.3f}", f"{macro:.3f}", f"{macro:.3f}"]
        cells += [f"{micro:.3f}" if len(answer) == 1 else ""] * of_accuracy
        told = "every label" if len(answer) == len(test.labels) else ", ".join(answer)
        yield f"| always {told} | | | {' | '.join(cells)} | | | |"


def table(named: dict[Path, Run]) -> Iterator[str]:
    """Rows of Markdown for the runs of one test file, by directory."""
    runs = list(named.values())
    test = Lines(*next(iter(named.items())), "test")
    micro, macro = test.f1([test.of(run, "decisions") for run in runs])
    _, tuned = test.f1([tuned_for_macro(*each, test) for each in named.items()])
    figures = {"micro-F1": micro, "macro-F1": macro, "macro-F1, tuned for it": tuned}
    if (test.gold.sum(-1) == 1).all():
        highest = [rules.Rule(np.inf, at_least_one=True)(test.of(run, "scores")) for run in runs]
        figures["accuracy"], _ = test.f1(highest)  # of one label a line, micro-F1 is that
    groups = statistics.grouped(kinds.kinds_of(runs))
    of_groups = {
        name: statistics.over_seeds(each, groups, statistics.SEED) for name, each in figures.items()
    }
    yield f"| {len(test.rows)} test lines | seeds | at 0.5 | {' | '.join(figures)} | s | GiB | at |"
    yield "| --- " * (len(figures) + 6) + "|"
    yield from trivial_rows(named, test, "accuracy" in figures)
    for number, group in enumerate(groups):
        members = [runs[index] for index in group]
        half = [
            utils.micro_f1(test.gold, utils.decide(test.of(each, "scores"), 0.5))
            for each in members
        ]
        cells = [
            statistics.show_interval(statistics.interval(each[:, number]))
            for each in of_groups.values()
        ]
        seconds = np.mean([each["seconds"] for each in members])
        memory = np.mean([max(each["peak_memory_gib"].values()) for each in members])
        at = (str(each["git_commit"]).partition("-") for each in members)
        commits = ", ".join(sorted({commit[:7] + dash + dirty for commit, dash, dirty in at}))
        measured = f"{np.mean(half):.3f} | {' | '.join(cells)} | {seconds:.0f} | {memory:.1f}"
        name = name_of([list(named)[index] for index in group])
        yield f"| {name} | {len(group)} | {measured} | {commits} |"


def tables(directories: Sequence[Path], root: Path | None = None) -> str:
    """The tables of runs, a blank line between them; names as seen from `root`."""
    groups: dict[str, dict[Path, Run]] = {}
    for directory in directories:
        run = systems.read_run(directory)
        if run["arguments"].get("folds") is not None:
            told = "is of one fold; average those of all folds (ensemble.py), and name the average"
            raise utils.InputError(f"{directory}: {told}")
        name = directory.relative_to(root) if root else directory
        groups.setdefault(run["data"].get("test", {}).get("sha256", ""), {})[name] = run
    return "\n\n".join("\n".join(table(runs)) for runs in groups.values()) + "\n"


def rewrite(page: Path, root: Path) -> None:
    """Write the tables of a page anew, of runs below a directory."""

    def fresh(found: re.Match[str]) -> str:
        matched = {each: sorted(root.glob(each)) for each in found[2].split()}
        if missing := [each for each, paths in matched.items() if not paths]:
            print(f"{found[2]}: stays as it is, there is no {' and no '.join(missing)}", flush=True)
            return found[0]
        runs = list(itertools.chain.from_iterable(matched.values()))
        made = tables(runs, root)
        print(f"{found[2]}: made of {len(runs)}", flush=True)
        return found[1] + made

    if not page.is_file() or not root.is_dir():
        told = "no such page" if root.is_dir() else f"no directory {root} of runs"
        raise utils.InputError(f"{page}: {told}; check --write and --runs")
    made = MARK.sub(fresh, page.read_text(encoding="utf-8"))
    with outputs.whole_file(page) as file:
        file.write(made)


def main(argv: Sequence[str] | None = None) -> None:
    """Print tables, or write those of a page."""
    parser = cli.ArgumentParser("results.py", __doc__)
    parser.add_argument("run", metavar="RUN", nargs="*", type=Path)
    parser.add_argument("--write", metavar="FILE", type=Path, help="a page with tables")
    parser.add_argument("--runs", metavar="DIR", type=Path, help="where its runs are")

    def show(options: argparse.Namespace) -> None:
        if bool(options.write) != bool(options.runs) or bool(options.write) == bool(options.run):
            parser.error("give RUN, or --write and --runs")
        if options.write:
            rewrite(options.write, options.runs)
        else:
            print(tables(options.run))

    cli.run_tool(parser, show, argv)


if __name__ == "__main__":
    main()
