"""Average finished runs into one, and tell which of them is really better.

    python ensemble.py RUN RUN ...                 average their probabilities, tune the threshold
                                                   on dev, compare all
    python ensemble.py --no-ensemble RUN RUN ...   compare only

A RUN is the output directory of any script of this repository. The K runs of --folds K that differ
in nothing but --fold count as one: their dev scores together cover train and dev, each line scored
by the run that was not trained on it, and their test scores are averaged.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import utils
from emotion import cli, data, ending, outputs, report, rules, statistics, systems
from emotion.run import Run


def argument_parser() -> cli.ArgumentParser:
    """The command line."""
    parser = cli.ArgumentParser("ensemble.py", __doc__)
    told = "output directory of a finished run"
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help=told)
    told = "compare the runs, average nothing"
    parser.add_argument("--no-ensemble", action="store_true", help=told)
    told = "of the runs in the average; tuned: by ensemble selection on dev, cross-fitted; "
    told += "default: %(default)s"
    parser.add_argument("--weights", choices=("equal", "tuned"), default="equal", help=told)
    for split, what in (("train", " that --folds pooled with dev"), ("dev", ""), ("test", "")):
        told = f"the {split} file{what}; default: where the runs say it is"
        parser.add_argument(f"--{split}-file", metavar="FILE", type=Path, help=told)
    cli.add_tune(parser)
    cli.count(parser, "--resamples", statistics.RESAMPLES, "of the bootstrap", low=100)
    told = "of the bootstrap; default: %(default)s"
    whole = cli.number(int, 0, 2**32 - 1)
    parser.add_argument("--seed", type=whole, default=statistics.SEED, help=told)
    cli.add_run_arguments(parser, "ensemble")
    return parser


def average(
    args: argparse.Namespace,
    run: Run,
    members: Sequence[systems.System],
    corpora: data.Rows,
    gold: dict[str, np.ndarray],
    labels: Sequence[str],
    constant: Sequence[str],
) -> systems.System:
    """The average of the members as a System; writes predictions, metrics, decision rule."""
    stacked = {
        split: np.stack([member.scores[split] for member in members], axis=1) for split in corpora
    }
    weights = np.ones(len(members)) / len(members)
    if args.weights == "tuned":
        lines = gold["dev"], stacked["dev"], data.sentences(corpora["dev"])
        weights = rules.choose_weights(*lines, args.tune)
    told = [f"{weight:>6.3f}  {each.name}" for weight, each in zip(weights, members, strict=True)]
    utils.log.info("average of\n%s", "\n".join(told))
    averaged = [
        {"run": systems.checkpoint_of(path, run.directory), "weight": weight / len(each.runs)}
        for each, weight in zip(members, weights.tolist(), strict=True)
        for path in each.runs
        if weight
    ]
    run.note(members=averaged)  # for predict.py
    scores = {
        split: np.average(values, axis=1, weights=weights).round(6)
        for split, values in stacked.items()
    }
    dev = gold.get("dev"), scores.get("dev"), data.sentences(corpora.get("dev", []))
    weighed = stacked["dev"] if args.weights == "tuned" else None
    rule = ending.choose_rule(run, labels, *dev, constant, weighed)
    chunks = {split: [(corpora[split], values)] for split, values in scores.items()}
    run.write_scores(chunks, set(gold), labels, rule, constant)
    decisions = {split: rule(values) for split, values in scores.items()}
    return systems.System("the average", "the average", args.runs, scores, decisions, [])


def combine(args: argparse.Namespace, run: Run) -> None:
    """Average, comparison, report."""
    files: systems.Files = {split: getattr(args, f"{split}_file") for split in data.SPLITS}
    members, corpora, labels = systems.read_systems(args.runs, files)
    is_out_of_fold = files["train"] is not None  # is read where runs are of folds, and only there
    gold = {}
    for split, rows in corpora.items():
        parts = ("train", "dev") if is_out_of_fold and split == "dev" else (split,)
        if all(data.summarise(str(files[part]), labels, True)[1] for part in parts):
            gold[split] = utils.encode_labels(rows, labels)
    constant = systems.constant_answer(args.runs)
    if is_out_of_fold:  # its dev is all of train and dev, of which each run knows a part
        constant = statistics.best_constant_answer(gold["dev"], labels)
    run.note(constant_answer=constant)
    tunes = args.threshold == "auto" or args.weights == "tuned"
    if tunes and "dev" not in gold and not args.no_ensemble:
        told = "no labelled dev lines were scored, to tune on"
        mend = "give --threshold, as --threshold 0.3, and equal weights"
        raise utils.InputError(f"{told}; {mend}")
    if args.no_ensemble and not gold:
        told = "no labelled lines were scored, to compare on"
        raise utils.InputError(f"{told}; let the runs predict some (--model-ckpt-path)")
    run.note_files({split: path for split, path in files.items() if path})
    run.note(device="cpu", out_of_fold=is_out_of_fold)
    if not args.no_ensemble:
        averaged = average(args, run, members, corpora, gold, labels, constant)
        members = [*members, averaged] if len(members) > 1 else [averaged]  # one is its average
    comparisons, of_kind = {}, [member.kind for member in members]
    for split, values in gold.items():
        decisions = {member.name: member.decisions[split] for member in members}
        sentences = data.sentences(corpora[split])
        comparisons[split] = statistics.compare(
            values, decisions, of_kind, labels, sentences, args.resamples, args.seed
        )
        utils.log.info(
            "\n%s", outputs.comparison_table(split, values, comparisons[split], constant)
        )
    outputs.write_json(run.directory / "comparison.json", comparisons)
    if gold:
        of_splits = corpora, gold, comparisons
        report.write(run.directory, run.record, members, *of_splits, labels, is_out_of_fold)
    run.finish()


def main(argv: Sequence[str] | None = None) -> None:
    """Average and compare."""
    cli.run_script(argument_parser(), combine, argv)


if __name__ == "__main__":
    main()
