"""What pays: bert_plain.py against one change at a time, on two public corpora.

    python tests/benchmarks/ablation.py --kote DIR --kote-model DIR --xed DIR --xed-model DIR \\
        --output-dir DIR

A corpus holds train.jsonl, dev.jsonl and test.jsonl. The base is bert_plain.py with mean pooling
and the settings below; it and the GRU are trained with three seeds. Every other change is screened
with one, and what is then above the mean of the base on both corpora is trained with three. A run
is a run directory, OUTPUT_DIR/CORPUS/CHANGE-SEED; one that is finished is not made again, so the
command may be stopped and repeated. --jobs processes work side by side, with one thread and up to
12 GiB each.

The table judges by dev: decisions are cross-fitted (each fifth of the lines by the rule that the
others choose), F1 is averaged over seeds, and the p-value is that of a paired bootstrap over
sentences and seeds, by Holm's correction for the number of rows. Test is shown beside it, and
decides nothing.
"""

import concurrent.futures
import contextlib
import functools
import io
import multiprocessing
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import published

import utils
from emotion import cli, data, outputs, rules, statistics, systems

SEEDS = published.SEEDS
SETTINGS = ("--lr", "1e-4", "--head-lr", "1e-2", "--epochs", "2")
BASE = "mean"
CONFIRMED = (BASE, "gru")  # with three seeds, whatever the first one says
CHANGES = {  # by name of a run: (what the table says, key of modeling.HEADS, settings)
    BASE: ("base: mean pooling, binary cross-entropy", "mean", ()),
    "gru": ("pooling: GRU (bert_GRU.py), --head-lr 1e-3", "gru", ("--head-lr", "1e-3")),
    "cls": ("pooling: CLS", "cls", ()),
    "attention": ("pooling: attention", "attention", ()),
    "asymmetric": ("loss: asymmetric", "asymmetric", ()),
    "layer-decay": ("learning rate decays by layer, 0.9", "mean", ()),
    "r-drop": ("R-Drop, weight 2", "r-drop", ()),
}


def train(name, seed, corpus, model, directory):
    """Train one run, in one thread; one that was begun goes on from its last checkpoint, and one
    that is finished stays. Ends with code 2 where that was of another model, or of other settings.
    """
    import torch

    torch.set_num_threads(1)
    import variants

    import bert_plain
    from emotion import modeling

    modeling.HEADS.update(variants.HEADS)
    if name == "layer-decay":
        variants.decay_by_layer(0.9)
    _, head, settings = CHANGES[name]
    files = [f"--{split}-file={corpus / split}.jsonl" for split in data.SPLITS]
    where = ["--model", str(model), "--output-dir", str(directory), "--seed", str(seed)]
    resume = ["--resume"] * (directory / "run.json").exists()
    parser = bert_plain.argument_parser("bert_plain", "")
    recipe = functools.partial(bert_plain.train, head=head)
    with contextlib.redirect_stdout(io.StringIO()):
        cli.run_script(parser, recipe, [*where, *SETTINGS, *settings, *files, *resume])


def train_all(runs, options, jobs):
    """Train the runs, (corpus, name, seed) each, where they are not yet; returns directories."""
    directories = {run: options.output_dir / run[0] / f"{run[1]}-{run[2]}" for run in runs}
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        jobs, mp_context=spawn, max_tasks_per_child=1
    ) as pool:
        started = {}
        for (corpus, name, seed), directory in directories.items():
            files, model = getattr(options, corpus), getattr(options, f"{corpus}_model")
            if "seconds" in (outputs.read_json(directory / "run.json") or {}):
                published.check_lines(directory, files)
                train(name, seed, files, model, directory)  # looks whether it is the same, and ends
            else:
                started[pool.submit(train, name, seed, files, model, directory)] = directory
        for future in concurrent.futures.as_completed(started):
            future.result()
            print(f"finished {started[future]}", flush=True)
    return directories


def fit_at_least_one(labels, probabilities):
    """One threshold, and the most probable emotion where none reaches it."""
    return rules.fit(labels, probabilities, at_least_one=True)


def fit_half(labels, probabilities):
    """0.5, whatever the lines say."""
    return lambda others: utils.decide(others, 0.5)


RULES = {
    "threshold rule: 0.5": fit_half,
    "threshold rule: one for each emotion": rules.fit_each,
    "threshold rule: one, at least one emotion": fit_at_least_one,
}


class Results:
    """What the finished runs of one corpus reached."""

    def __init__(self, rows, directories):
        self.runs = {each: systems.read_run(path) for each, path in directories.items()}
        names = next(iter(self.runs.values()))["labels"]
        self.labels = {split: utils.encode_labels(each, names) for split, each in rows.items()}
        self.sentences = {split: data.sentences(each) for split, each in rows.items()}

    def decisions(self, name, seed, fit):
        """Cross-fitted decisions on dev, and those on test by the rule of all of dev."""
        scores = self.runs[name, seed]["scores"]
        dev = rules.cross_fitted_decisions(
            self.labels["dev"], scores["dev"], self.sentences["dev"], fit
        )
        return {"dev": dev, "test": fit(self.labels["dev"], scores["dev"])(scores["test"])}

    def f1(self, name, seeds, fit=rules.fit):
        """Micro-F1 by split, averaged over seeds: [1 + resamples], the lines as they are first."""
        of_seeds = [self.decisions(name, seed, fit) for seed in seeds]
        f1 = {}
        for split, labels in self.labels.items():
            decisions = np.stack([each[split] for each in of_seeds])
            micro, _ = statistics.bootstrap_f1(
                labels.astype(bool),
                decisions,
                self.sentences[split],
                statistics.RESAMPLES,
                statistics.SEED,
            )
            f1[split] = statistics.over_seeds(micro, [range(len(seeds))], statistics.SEED)[:, 0]
        return f1

    @functools.cached_property
    def of_base(self):
        """F1 of the base, averaged over all its seeds, as `f1` gives it."""
        return self.f1(BASE, SEEDS)

    def rows(self):
        """The rows of the table, as cells."""
        asked = [(label, name, rules.fit) for name, (label, *_) in CHANGES.items()]
        asked += [(label, BASE, fit) for label, fit in RULES.items()]
        seeds = [[each for each in SEEDS if (name, each) in self.runs] for _, name, _ in asked]
        found = [self.f1(name, n, fit) for (_, name, fit), n in zip(asked, seeds, strict=True)]
        gains = [
            statistics.paired_difference(each["dev"], self.of_base["dev"]) for each in found[1:]
        ]
        corrected = statistics.holm([gain["p_value"] for gain in gains])
        told = [
            (f"{gain['value']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]", f"{p:.4f}")
            for gain, p in zip(gains, corrected, strict=True)
        ]
        for row, (label, name, _) in enumerate(asked):
            dev, test = (found[row][split][0] for split in ("dev", "test"))
            gain, p = told[row - 1] if row else ("", "")
            seconds = np.mean([self.runs[name, seed]["seconds"] for seed in seeds[row]])
            cells = [label, len(seeds[row]), f"{dev:.3f}", gain, p, f"{test:.3f}"]
            yield [*cells, f"{test - self.of_base['test'][0]:+.3f}", f"{seconds:.0f}"]


def screen(corpora, rows):
    """The changes that are above the mean of the base on every corpus with the first seed."""
    results = [Results(rows[corpus], directories) for corpus, directories in corpora.items()]
    return [
        name
        for name in CHANGES
        if name not in CONFIRMED
        and all(each.f1(name, SEEDS[:1])["dev"][0] > each.of_base["dev"][0] for each in results)
    ]


def by_corpus(directories):
    corpora = {}
    for (corpus, name, seed), directory in directories.items():
        corpora.setdefault(corpus, {})[name, seed] = directory
    return corpora


def main(argv=None):
    """Train what the table asks for, and print it."""
    parser = cli.ArgumentParser("ablation.py", __doc__)
    for corpus in ("kote", "xed"):
        parser.add_argument(f"--{corpus}", metavar="DIR", type=Path, required=True)
        parser.add_argument(f"--{corpus}-model", metavar="DIR", type=Path, required=True)
    parser.add_argument("--output-dir", metavar="DIR", type=Path, required=True)
    cli.count(parser, "--jobs", 2, "runs side by side")
    cli.run_tool(parser, compare, argv)


def compare(options):
    """The table of each corpus, whose lines are read before anything is trained."""
    rows = {
        corpus: {
            split: utils.read_corpus(getattr(options, corpus) / f"{split}.jsonl", labelled=True)
            for split in ("dev", "test")
        }
        for corpus in ("kote", "xed")
    }
    seeds = {name: SEEDS if name in CONFIRMED else SEEDS[:1] for name in CHANGES}
    runs = [(corpus, name, seed) for name in CHANGES for seed in seeds[name] for corpus in rows]
    directories = train_all(runs, options, options.jobs)
    above = screen(by_corpus(directories), rows)
    print(
        f"above the base on both corpora with one seed: {', '.join(above) or 'nothing'}", flush=True
    )
    more = [(corpus, name, seed) for name in above for seed in SEEDS[1:] for corpus in rows]
    directories |= train_all(more, options, options.jobs)
    for corpus, finished in by_corpus(directories).items():
        results = Results(rows[corpus], finished)
        against = "against the base"
        print(f"\n| {corpus} | seeds | dev | {against} | p | test | {against} | seconds |")
        print("| --- | --- | --- | --- | --- | --- | --- | --- |")
        for cells in results.rows():
            print(f"| {' | '.join(map(str, cells))} |")


if __name__ == "__main__":
    main()
