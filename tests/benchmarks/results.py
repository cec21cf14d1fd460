"""The results table of the README, from run directories: of the scripts, of ensemble.py, of linear.py.

    python tests/benchmarks/results.py RUN [RUN ...]

Runs that scored the same test file stand together, in the order given; 95 % intervals are from 10,000 resamples of its lines,
the same for all. Seconds and memory are those of the run, as its run.json says.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np

import ensemble
import utils


def describe(run):
    """Script, model and the settings of a run that tell it from others."""
    arguments = run["arguments"]
    if "runs" in arguments:
        return f"`{run['script']}`, average of {len(arguments['runs'])} runs"
    shown = ("model", "pooling", "objective", "epochs", "lr", "head_lr", "seed")
    settings = [f"{name} {Path(str(arguments[name])).name}" for name in shown if arguments.get(name) is not None]
    return ", ".join([f"`{run['script']}`", *settings])


def table(runs):
    """Rows of Markdown for runs of one test file."""
    rows = utils.read_corpus(runs[0]["data"]["test"]["file"], labelled=True)
    labels = utils.encode_labels(rows)
    decisions = np.stack([ensemble.in_order(run["ids"]["test"], run["decisions"]["test"], rows) for run in runs])
    micro, per_emotion = ensemble.bootstrap_f1(labels.astype(bool), decisions, 10_000, 42)
    macro = per_emotion.mean(-1)
    baseline, emotion = utils.majority_micro_f1(labels)
    yield f"| {runs[0]['data']['test']['file']}, {len(rows)} lines | micro-F1 | at 0.5 | macro-F1 | s | GiB |"
    yield "| --- | --- | --- | --- | --- | --- |"
    yield f"| always {emotion} | {baseline:.3f} | | {baseline_macro(labels):.3f} | | |"
    for index, run in enumerate(runs):
        half = utils.micro_f1(labels, utils.decide(ensemble.in_order(run["ids"]["test"], run["scores"]["test"], rows), 0.5))
        figures = [ensemble.show_interval(ensemble.interval(values[:, index])) for values in (micro, macro)]
        memory = max(run["peak_memory_gib"].values())
        yield f"| {describe(run)} | {figures[0]} | {half:.3f} | {figures[1]} | {run['seconds']:.0f} | {memory:.1f} |"


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
        groups.setdefault(run["data"]["test"]["sha256"], []).append(run)
    for runs in groups.values():
        print("\n".join(table(runs)), end="\n\n")


if __name__ == "__main__":
    main()
