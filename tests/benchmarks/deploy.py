"""What a sentence costs on one core, and what that does to the F1: checkpoints in several forms.

    python tests/benchmarks/deploy.py --lines FILE [--linear RUN] NAME=CHECKPOINT[:PRECISION] ...

A checkpoint is what predict.py takes, of a BERT script or of export.py; PRECISION is fp32 (the
default) or bf16. Each is warm, and asked about one sentence at a time, all in turn, with one
thread; the median is told, the ratio to the first, the size of its weights, and micro-F1 by its own
rule with a 95 % interval from 10,000 resamples, and its difference from the first. --linear is a
run of linear.py on the same lines, which says itself what it took there, on lines of dev.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch

import utils
from emotion import classifier, cli, data, statistics, systems, texts
from predict import load

WEIGHTS = ("*.safetensors", "*.onnx", "*.onnx.data")


def mib(checkpoint: Path) -> float:
    """Size of the weights."""
    files = [file for kind in WEIGHTS for file in classifier.find(checkpoint).glob(kind)]
    return sum(file.stat().st_size for file in files) / 2**20


def main() -> None:
    """Parse the command line."""
    parser = cli.ArgumentParser("deploy.py", __doc__)
    parser.add_argument("checkpoints", metavar="NAME=CHECKPOINT[:PRECISION]", nargs="+")
    parser.add_argument("--lines", type=Path, required=True, help="a labelled corpus file")
    parser.add_argument("--linear", type=Path, help="a run of linear.py whose test this is")
    cli.run_tool(parser, show, None)


def show(options: argparse.Namespace) -> None:
    """Print a row for each."""
    torch.set_num_threads(1)
    rows = utils.read_corpus(options.lines, labelled=True)
    forms, took, found = [row["input"]["form"] for row in rows], {}, {}
    for each in options.checkpoints:
        name, _, given = each.partition("=")
        path, _, precision = given.partition(":")
        found[name] = Path(path), load(path, precision=precision or "fp32", batch_size=1)
        found[name][1](forms[:20])
        took[name] = np.zeros(len(forms))
    present = {name: [] for name in found}
    targets = map(texts.place_of, rows)
    for number, (form, target) in enumerate(zip(forms, targets, strict=True)):
        for name, (_, classify) in found.items():
            began = time.perf_counter()
            [answer] = classify([form], [target])
            took[name][number] = 1000 * (time.perf_counter() - began)
            present[name].append(answer["emotions"])
    labels = list(answer["scores"])
    gold = utils.encode_labels(rows, labels) > 0
    decisions = {
        name: np.array([[each in line for each in labels] for line in lines])
        for name, lines in present.items()
    }
    costs = {name: (float(np.median(took[name])), mib(found[name][0])) for name in found}
    if options.linear:
        run = systems.read_run(options.linear)
        order = [labels.index(each) for each in run["labels"]]
        decided = systems.in_order(run["ids"]["test"], run["decisions"]["test"], rows)
        decisions["linear"] = decided[:, np.argsort(order)]
        costs["linear"] = run["milliseconds"], run["mib"]
    given = gold, np.stack(list(decisions.values())), data.sentences(rows)
    micro, _ = statistics.bootstrap_f1(*given, statistics.RESAMPLES, statistics.SEED)
    first = costs[next(iter(costs))][0]
    print(f"| {len(rows)} lines | ms a sentence | times as fast | MiB | micro-F1 | difference |")
    print("| --- | --- | --- | --- | --- | --- |")
    for number, name in enumerate(decisions):
        milliseconds, size = costs[name]
        shown = statistics.show_interval(statistics.interval(micro[:, number]))
        difference = statistics.paired_difference(micro[:, number], micro[:, 0])
        told = statistics.show_interval(difference) if number else ""
        figures = f"{milliseconds:.1f} | {first / milliseconds:.1f} | {size:.0f}"
        print(f"| {name} | {figures} | {shown} | {told} |")


if __name__ == "__main__":
    main()
