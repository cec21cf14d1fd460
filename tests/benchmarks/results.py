"""The results tables of docs/results.md, from runs of the scripts, of ensemble.py, of linear.py.

    python tests/benchmarks/results.py RUN [RUN ...]

Runs that scored the same test file stand together, by the names and in the order given; 95 %
intervals are from 10,000 resamples of its lines, the same for all. Seconds and memory are those of
the run, as its run.json says.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

import utils
from emotion import cli, data, statistics, systems


def table(named):
    """Rows of Markdown for the runs of one test file, {name: run}."""
    runs = list(named.values())
    names = runs[0]["labels"]
    rows = utils.read_corpus(runs[0]["data"]["test"]["file"], labelled=True, labels=names)
    labels = utils.encode_labels(rows, names)

    def of_test(run, what):
        return systems.in_order(run["ids"]["test"], run[what]["test"], rows)

    decisions = np.stack([of_test(run, "decisions") for run in runs])
    sentences = data.sentences(rows)
    micro, per_label = statistics.bootstrap_f1(
        labels.astype(bool), decisions, sentences, 10_000, 42
    )
    macro = per_label.mean(-1)
    answer = systems.constant_answer(list(named))
    always = statistics.constant_decisions(len(labels), names, answer)
    of_always = f"{utils.micro_f1(labels, always):.3f} | | {utils.macro_f1(labels, always):.3f}"
    yield f"| {len(rows)} test lines | micro-F1 | at 0.5 | macro-F1 | s | GiB |"
    yield "| --- | --- | --- | --- | --- | --- |"
    yield f"| always {', '.join(answer)} | {of_always} | | |"
    for index, (name, run) in enumerate(named.items()):
        half = utils.micro_f1(labels, utils.decide(of_test(run, "scores"), 0.5))
        of_micro, of_macro = (
            statistics.show_interval(statistics.interval(values[:, index]))
            for values in (micro, macro)
        )
        memory = max(run["peak_memory_gib"].values())
        measured = f"{half:.3f} | {of_macro} | {run['seconds']:.0f} | {memory:.1f}"
        yield f"| {name} | {of_micro} | {measured} |"


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = cli.ArgumentParser("results.py", __doc__)
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path)
    groups: dict = {}
    for directory in parser.parse_args(argv).runs:
        run = systems.read_run(directory)
        groups.setdefault(run["data"]["test"]["sha256"], {})[directory] = run
    for runs in groups.values():
        print("\n".join(table(runs)), end="\n\n")


if __name__ == "__main__":
    main()
