"""The results table of the README, from run directories: of the scripts, of ensemble.py, of linear.py.

    python tests/benchmarks/results.py RUN [RUN ...]

Runs that scored the same test file stand together, by the names and in the order given; 95 % intervals are from 10,000
resamples of its lines, the same for all. Seconds and memory are those of the run, as its run.json says.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np

import ensemble
import utils


def table(named):
    """Rows of Markdown for the runs of one test file, {name: run}."""
    runs = list(named.values())
    rows = utils.read_corpus(runs[0]["data"]["test"]["file"], labelled=True)
    labels = utils.encode_labels(rows)
    decisions = np.stack([ensemble.in_order(run["ids"]["test"], run["decisions"]["test"], rows) for run in runs])
    micro, per_emotion = ensemble.bootstrap_f1(labels.astype(bool), decisions, 10_000, 42)
    macro = per_emotion.mean(-1)
    baseline, emotion = utils.majority_micro_f1(labels)
    yield f"| {len(rows)} test lines | micro-F1 | at 0.5 | macro-F1 | s | GiB |"
    yield "| --- | --- | --- | --- | --- | --- |"
    yield f"| always {emotion} | {baseline:.3f} | | {baseline_macro(labels):.3f} | | |"
    for index, (name, run) in enumerate(named.items()):
        half = utils.micro_f1(labels, utils.decide(ensemble.in_order(run["ids"]["test"], run["scores"]["test"], rows), 0.5))
        figures = [ensemble.show_interval(ensemble.interval(values[:, index])) for values in (micro, macro)]
        memory = max(run["peak_memory_gib"].values())
        yield f"| {name} | {figures[0]} | {half:.3f} | {figures[1]} | {run['seconds']:.0f} | {memory:.1f} |"


def baseline_macro(labels):
    """Macro-F1 of always answering the most frequent emotion."""
    support = labels.sum(0).max()
    return 2 * support / (support + len(labels)) / labels.shape[1]


def main():
    parser = utils.ArgumentParser(__doc__)
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path)
    groups = {}
    for directory in parser.parse_args().runs:
        run = ensemble.read_run(directory)
        groups.setdefault(run["data"]["test"]["sha256"], {})[directory] = run
    for runs in groups.values():
        print("\n".join(table(runs)), end="\n\n")


if __name__ == "__main__":
    main()
