"""Average finished runs into one, and tell which of them is really better.

    python ensemble.py RUN RUN ...                 average their probabilities, tune the threshold on dev, compare all
    python ensemble.py --no-ensemble RUN RUN ...   compare only

A RUN is the output directory of any script of this repository. The K runs of --folds K that differ in nothing but --fold count
as one: their dev scores together cover train and dev, each line scored by the run that was not trained on it, and their test
scores are averaged.
"""

from pathlib import Path

import utils

parser = utils.ArgumentParser(__doc__)
parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="output directory of a finished run")
parser.add_argument("--no-ensemble", action="store_true", help="compare the runs, average nothing")
parser.add_argument(
    "--weights",
    choices=("equal", "tuned"),
    default="equal",
    help="of the runs in the average; tuned: by ensemble selection on dev, cross-fitted; default: %(default)s",
)
utils.add_threshold_argument(parser)
for split, told in (("train", " that --folds pooled with dev"), ("dev", ""), ("test", "")):
    parser.add_argument(
        f"--{split}-file", metavar="FILE", type=Path, help=f"the {split} file{told}; default: where the runs say it is"
    )
parser.add_argument(
    "--resamples", metavar="N", type=utils.number(int, 100), default=10_000, help="of the bootstrap; default: %(default)s"
)
parser.add_argument("--seed", type=utils.number(int, 0, 2**32 - 1), default=42, help="of the bootstrap; default: %(default)s")
utils.add_output_argument(parser, "ensemble")

import itertools
import json
import os
from typing import NamedTuple

import numpy as np

ROUNDS = 20  # of ensemble selection; a weight is a multiple of one in so many
RESAMPLES_AT_ONCE = 250
KOREAN = ("기쁨", "기대", "신뢰", "놀람", "혐오", "공포", "분노", "슬픔")  # in the order of utils.EMOTIONS
KOREAN_FONTS = (
    *("Noto Sans CJK KR", "Noto Sans CJK JP", "Noto Sans KR", "NanumGothic", "NanumBarunGothic", "Malgun Gothic"),
    *("Apple SD Gothic Neo", "AppleGothic", "UnDotum", "Baekmuk Dotum"),
)


class System(NamedTuple):
    """What is compared: a run, the runs of all folds, or an average.

    `scores` and `decisions` are arrays [lines, 8] by split, in the order of the corpus; `history` is the log of its training.
    """

    name: str
    scores: dict
    decisions: dict
    history: list


# Reading runs


def read_run(directory):
    """`run.json` of a finished run, with its "ids", "scores" and "decisions" by split, and the "history" of its training.

    Raises:
        utils.InputError: the directory holds no finished run, or a file of it is broken.
    """
    try:
        run = json.loads((directory / "run.json").read_text(encoding="utf-8"))
        run["data"], run["arguments"], run["script"]
    except (OSError, ValueError, KeyError, TypeError):
        raise utils.InputError(f"{directory}: holds no run (run.json is missing or broken); name an --output-dir") from None
    if "seconds" not in run:
        raise utils.InputError(f"{directory}: the run is not finished; end it with --resume")
    run |= {"ids": {}, "scores": {}, "decisions": {}, "history": read_history(directory)}
    for split in ("dev", "test"):
        if (directory / f"{split}.scores.jsonl").exists():
            run["ids"][split], run["scores"][split] = read_scores(directory / f"{split}.scores.jsonl")
            predictions = utils.read_corpus(directory / f"{split}.jsonl", labelled=True)
            run["decisions"][split] = utils.encode_labels(predictions).astype(bool)
            if [row["id"] for row in predictions] != run["ids"][split]:
                raise utils.InputError(
                    f"{directory}: {split}.jsonl and {split}.scores.jsonl differ in their lines; predict again"
                )
    if not run["scores"]:
        raise utils.InputError(f"{directory}: has no scores (dev.scores.jsonl, test.scores.jsonl); predict with it")
    return run


def read_scores(path):
    """The ids and the probabilities [lines, 8] of a `.scores.jsonl` file. Raises utils.InputError where it is broken."""
    ids, scores = [], []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                record = json.loads(line)
                ids.append(record["id"])
                scores.append([float(record["scores"][name]) for name in utils.EMOTIONS])
            except (ValueError, KeyError, TypeError):
                raise utils.InputError(f"{path}: line {number}: is no line of scores; predict again") from None
    scores = np.array(scores).reshape(-1, len(utils.EMOTIONS))
    if not ((scores >= 0) & (scores <= 1)).all():
        raise utils.InputError(f"{path}: holds scores that are no probabilities; predict again")
    return ids, scores


def read_history(directory):
    """What Trainer logged, from the last checkpoint that is left; empty where none is."""
    files = (directory / "checkpoints").glob("checkpoint-*/trainer_state.json")
    states = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    return max(states, key=lambda state: state["global_step"])["log_history"] if states else []


def read_systems(args):
    """The runs that `args` names as systems, and what they scored as {"dev": rows, "test": rows}.

    Raises:
        utils.InputError: the runs did not score the same lines, or the runs of some folds are missing.
    """
    if repeated := next((path for path in args.runs if args.runs.count(path) > 1), None):
        raise utils.InputError(f"{repeated}: is named twice; name each run once")
    runs = {path: read_run(path) for path in args.runs}
    first = args.runs[0]
    splits, pooled = runs[first]["scores"].keys(), "fold" in comparable(runs[first])
    for path, run in runs.items():
        if run["scores"].keys() != splits:
            raise utils.InputError(
                f"{path}: scored {' and '.join(run['scores'])}, {first} {' and '.join(splits)}; score the same"
            )
        if ("fold" in comparable(run)) != pooled:
            raise utils.InputError(f"{path}: made with --folds, or {first} was, and the other not; name runs of one kind")
    corpora = {split: read_scored_file(args, split, runs) for split in (["train"] if pooled else []) + list(splits)}
    if pooled:
        corpora["dev"] = corpora.pop("train") + corpora["dev"]
    if not pooled:
        return [to_system(path, run, corpora) for path, run in runs.items()], corpora
    groups = {}
    for path, run in runs.items():
        key = comparable(run)
        groups.setdefault(json.dumps(key | {"fold": None}), {})[key["fold"]] = (path, run)
    return [join_folds(group, corpora) for group in groups.values()], corpora


def comparable(run):
    """The arguments of a run that tell it from others, with "fold" where it was made with --folds.

    Paths of corpus files, which are another machine's perhaps, do not: SHA-256 tells files apart.
    """
    left_out = ("output_dir", "resume", "train_file", "dev_file", "test_file")
    arguments = {name: value for name, value in run["arguments"].items() if name not in left_out}
    if arguments.get("folds") is None:
        arguments.pop("fold", None)
    return arguments | {"script": run["script"]}


def read_scored_file(args, split, runs):
    """The rows of the corpus file that all runs name for a split; `args` may say where it is now."""
    for path, run in runs.items():
        argument = f"{split}_file"
        if getattr(args, argument) is None:
            setattr(args, argument, Path(run["data"][split]["file"]))
        file = getattr(args, argument)
        if not os.path.isfile(file):
            raise utils.InputError(f"{file}: no such file; say with --{split}-file where the {split} file of {path} is")
        if utils.identify(file)["sha256"] != run["data"][split]["sha256"]:
            raise utils.InputError(f"{path}: scored another {split} file than {file} (SHA-256); compare runs of the same lines")
    return utils.read_corpus(file)


def in_order(ids, values, rows):
    """`values` [lines, ...] of the lines `ids`, in the order of `rows`. Raises utils.InputError where they do not match."""
    position = {id: index for index, id in enumerate(ids)}
    if len(ids) != len(rows) or any(row["id"] not in position for row in rows):
        raise utils.InputError("the scores are not of the lines of the corpus")
    return values[[position[row["id"]] for row in rows]]


def to_system(path, run, corpora):
    """A run as a System."""
    scores, decisions = (
        {split: in_order(run["ids"][split], run[what][split], rows) for split, rows in corpora.items()}
        for what in ("scores", "decisions")
    )
    return System(str(path), scores, decisions, run["history"])


def join_folds(group, corpora):
    """The runs of all folds as one System: its threshold is tuned on the scores of all lines of train and dev.

    Args:
        group: {fold: (path, run)}
    """
    paths, runs = zip(*(group[fold] for fold in sorted(group)), strict=True)
    folds = runs[0]["arguments"]["folds"]
    if missing := [str(fold) for fold in range(folds) if fold not in group]:
        raise utils.InputError(f"{paths[0]}: of its {folds} folds, {', '.join(missing)} are not named; train and name them too")
    ids = list(itertools.chain.from_iterable(run["ids"]["dev"] for run in runs))
    scores = {"dev": in_order(ids, np.concatenate([run["scores"]["dev"] for run in runs]), corpora["dev"])}
    if "test" in corpora:
        scores["test"] = np.mean([in_order(run["ids"]["test"], run["scores"]["test"], corpora["test"]) for run in runs], axis=0)
    rule = utils.fit_threshold(utils.encode_labels(corpora["dev"]), scores["dev"])
    decisions = {split: rule(values) for split, values in scores.items()}
    return System(f"{paths[0]} and its other folds", scores, decisions, [])


# Averaging


def select_weights(labels, scores):
    """Weights of the systems by ensemble selection (Caruana et al. 2004): the one is added, again and again, that raises the
    micro-F1 of the average, at its best threshold, most.

    Args:
        labels: [lines, 8]; scores: [lines, systems, 8].

    Returns:
        [systems], summing to one.
    """
    counts = np.zeros(scores.shape[1])
    for _ in range(ROUNDS):
        reached = []
        for candidate in np.eye(len(counts)):
            averages = np.average(scores, axis=1, weights=counts + candidate)
            reached.append(utils.micro_f1(labels, utils.fit_threshold(labels, averages)(averages)))
        counts[np.argmax(reached)] += 1
    return counts / ROUNDS


def choose_weights(labels, scores):
    """`select_weights` on each four fifths of the lines, averaged; logs what they are worth on the fifths left out."""
    found = []

    def fit(labels, scores):
        found.append(select_weights(labels, scores))
        rule = utils.fit_threshold(labels, np.average(scores, axis=1, weights=found[-1]))
        return lambda others: rule(np.average(others, axis=1, weights=found[-1]))

    tuned = utils.micro_f1(labels, utils.cross_fitted_decisions(labels, scores, fit))
    equal = utils.micro_f1(labels, utils.cross_fitted_decisions(labels, scores.mean(1)))
    utils.log.info("cross-fitted micro-F1 on dev: %.4f with tuned weights, %.4f with equal ones", tuned, equal)
    return np.mean(found, axis=0)


def average(args, systems, corpora):
    """The average of the systems as a System; writes predictions, metrics and the decision rule to the output directory."""
    stacked = {split: np.stack([system.scores[split] for system in systems], axis=1) for split in corpora}
    labels = utils.encode_labels(corpora["dev"]) if is_labelled(corpora, "dev") else None
    weights = choose_weights(labels, stacked["dev"]) if args.weights == "tuned" else np.ones(len(systems)) / len(systems)
    utils.log.info("average of\n%s", "\n".join(f"{w:>6.3f}  {each.name}" for w, each in zip(weights, systems, strict=True)))
    scores = {split: np.average(values, axis=1, weights=weights).round(6) for split, values in stacked.items()}
    threshold = args.threshold if labels is None else utils.choose_threshold(args, labels, scores["dev"])
    utils.evaluate_and_write(args, {split: [(corpora[split], values)] for split, values in scores.items()}, threshold)
    decisions = {split: utils.decide(values, threshold) for split, values in scores.items()}
    return System("the average", scores, decisions, [])


def is_labelled(corpora, split):
    return split in corpora and bool(corpora[split][0].get("output"))


# Comparing


def bootstrap_f1(labels, decisions, resamples, seed):
    """F1 of each system on the lines drawn with replacement, `resamples` times, the same lines for every system.

    Args:
        labels: boolean [lines, 8]; decisions: boolean [systems, lines, 8].

    Returns:
        (micro, per_emotion): [1 + resamples, systems] and [1 + resamples, systems, 8], the lines as they are in front.
    """
    lines, systems = len(labels), len(decisions)
    hits = (decisions & labels).transpose(1, 0, 2)
    either = decisions.transpose(1, 0, 2).astype(np.float32) + labels[:, None]  # TP + FP and TP + FN of a line
    counts = np.stack([hits, either], axis=1).reshape(lines, -1).astype(np.float32)
    totals = [counts.sum(0, keepdims=True)]
    rng = np.random.default_rng(seed)
    for start in range(0, resamples, RESAMPLES_AT_ONCE):
        size = min(RESAMPLES_AT_ONCE, resamples - start)
        drawn = rng.integers(lines, size=(size, lines)) + lines * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * lines).reshape(size, lines)
        totals.append(times.astype(np.float32) @ counts)
    true_positives, sizes = np.concatenate(totals).reshape(-1, 2, systems, len(utils.EMOTIONS)).transpose(1, 0, 2, 3)
    per_emotion = 2 * true_positives / np.maximum(sizes, 1)
    return 2 * true_positives.sum(-1) / np.maximum(sizes.sum(-1), 1), per_emotion


def interval(values):
    """{"value", "low", "high"} of a figure and its 95 % interval: [1 + resamples], the figure in front."""
    low, high = np.percentile(values[1:], (2.5, 97.5))
    return {"value": float(values[0]), "low": float(low), "high": float(high)}


def show_interval(figure):
    """A value of `interval` as text."""
    return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"


def paired_difference(values, others):
    """The difference of two figures with its interval and a two-sided p-value; both [1 + resamples], of the same draws.

    The p-value is the share of draws whose difference lies as far from the observed one as that lies from none (paired
    bootstrap, Berg-Kirkpatrick et al. 2012).
    """
    difference = values - others
    as_far = abs(difference[1:] - difference[0]) >= abs(difference[0])
    return interval(difference) | {"p_value": float((1 + as_far.sum()) / (1 + len(as_far)))}


def compare(labels, systems, split, resamples, seed):
    """What `comparison.json` holds of a labelled split: figures with intervals of each system, differences of each pair."""
    decisions = np.stack([system.decisions[split] for system in systems])
    micro, per_emotion = bootstrap_f1(labels.astype(bool), decisions, resamples, seed)
    macro = per_emotion.mean(-1)
    figures = {
        system.name: {
            "micro_f1": interval(micro[:, index]),
            "macro_f1": interval(macro[:, index]),
            "per_emotion": {name: interval(per_emotion[:, index, k]) for k, name in enumerate(utils.EMOTIONS)},
        }
        for index, system in enumerate(systems)
    }
    pairs = [
        {"a": systems[a].name, "b": systems[b].name} | paired_difference(micro[:, a], micro[:, b])
        for a, b in itertools.combinations(range(len(systems)), 2)
    ]
    return {"lines": len(labels), "resamples": resamples, "seed": seed, "systems": figures, "pairs": pairs}


def comparison_table(split, labels, comparison):
    """The comparison of one split as text for the screen."""
    baseline, emotion = utils.majority_micro_f1(labels)
    systems, resamples = comparison["systems"], comparison["resamples"]
    width = max(map(len, systems)) + 2
    lines = [f"{split}, {len(labels)} lines, 95 % intervals from {resamples} resamples of them:"]
    lines.append(f"{'':<{width}}{'micro-F1':<24}{'macro-F1':<24}" + "".join(f"{name[:9]:>10}" for name in utils.EMOTIONS))
    for name, figures in systems.items():
        emotions = "".join(f"{figures['per_emotion'][emotion]['value']:>10.3f}" for emotion in utils.EMOTIONS)
        lines.append(
            f"{name:<{width}}{show_interval(figures['micro_f1']):<24}{show_interval(figures['macro_f1']):<24}{emotions}"
        )
    lines.append(f"always {emotion!r}: micro-F1 {baseline:.3f}")
    if comparison["pairs"]:
        lines.append("difference of micro-F1, and p-value (paired bootstrap, two-sided, not corrected for their number):")
    lines += [f"  {show_interval(pair)}  p {pair['p_value']:.4f}  {pair['a']} - {pair['b']}" for pair in comparison["pairs"]]
    return "\n".join(lines)


# Picture


def draw_report(path, systems, labels, comparisons):
    """Draw `report.png`: F1 of each emotion with intervals, micro-F1 against the threshold, and the training curves.

    Emotions are named in English, and in Korean too where a font for it is installed.

    Args:
        labels, comparisons: by labelled split.
    """
    import matplotlib
    from matplotlib.figure import Figure

    font = korean_font()
    emotions = [f"{name}\n{korean}" for name, korean in zip(utils.EMOTIONS, KOREAN, strict=True)] if font else utils.EMOTIONS
    names = [each.name if font or each.name.isascii() else f"run {n}" for n, each in enumerate(systems, start=1)]
    curves = any(system.history for system in systems)
    with matplotlib.rc_context({"font.family": [font, "DejaVu Sans"] if font else ["DejaVu Sans"]}):
        rows = len(labels) + curves
        figure = Figure(figsize=(14, 4.5 * rows), layout="constrained")
        panels = figure.subplots(rows, 2, squeeze=False, width_ratios=(3, 2))
        for (bars, curve), (split, gold) in zip(panels, labels.items(), strict=False):
            draw_emotions(bars, split, emotions, comparisons[split])
            draw_thresholds(curve, split, systems, gold)
        if curves:
            draw_history(*panels[-1], systems)
        handles = panels[0][0].get_legend_handles_labels()[0]
        figure.legend(handles, names, loc="outside lower center", ncols=min(3, len(names)))
        figure.savefig(path, dpi=120, format="png")


def korean_font():
    """The name of an installed font that has Hangul, or None."""
    from matplotlib.font_manager import fontManager

    installed = {font.name for font in fontManager.ttflist}
    return next((name for name in KOREAN_FONTS if name in installed), None)


def draw_emotions(axes, split, emotions, comparison):
    systems = comparison["systems"].values()
    for index, figures in enumerate(systems):
        values, low, high = np.array([list(figure.values()) for figure in figures["per_emotion"].values()]).T
        place = np.arange(len(emotions)) + 0.7 * ((index + 0.5) / len(systems) - 0.5)
        axes.errorbar(place, values, (values - low, high - values), fmt="o", markersize=4, label=str(index))
    axes.set_xticks(range(len(emotions)), emotions)
    axes.set(title=f"{split}: F1 of each emotion, 95 % intervals", ylabel="F1", ylim=(0, 1))
    axes.grid(axis="y", alpha=0.3)


def draw_thresholds(axes, split, systems, labels):
    thresholds = np.linspace(0.02, 0.98, 49)
    for system in systems:
        axes.plot(thresholds, [utils.micro_f1(labels, utils.decide(system.scores[split], value)) for value in thresholds])
    axes.set(title=f"{split}: micro-F1 against the threshold", xlabel="threshold", ylabel="micro-F1")
    axes.grid(alpha=0.3)


def draw_history(losses, scores, systems):
    for system in systems:
        for axes, name, mark in ((losses, "loss", "-"), (scores, "eval_micro_f1", "o-")):
            logged = [(record["epoch"], record[name]) for record in system.history if name in record]
            axes.plot(*zip(*logged, strict=True) if logged else ([], []), mark)  # an empty line keeps the colours in step
    losses.set(title="training loss", xlabel="epoch", yscale="log")
    scores.set(title="dev: micro-F1 at the threshold that serves the epoch best", xlabel="epoch")
    for axes in (losses, scores):
        axes.grid(alpha=0.3)


def main(args, systems, corpora):
    """Average, comparison, picture."""
    run = utils.start_run(args, [split for split in ("train", "dev", "test") if getattr(args, f"{split}_file")], "cpu")
    if not args.no_ensemble:
        systems.append(average(args, systems, corpora))
    labels = {split: utils.encode_labels(rows) for split, rows in corpora.items() if is_labelled(corpora, split)}
    comparisons = {split: compare(gold, systems, split, args.resamples, args.seed) for split, gold in labels.items()}
    for split, comparison in comparisons.items():
        utils.log.info("\n%s", comparison_table(split, labels[split], comparison))
    utils.write_json(args.output_dir / "comparison.json", comparisons)
    if labels:
        draw_report(args.output_dir / "report.png", systems, labels, comparisons)
    utils.finish_run(args, run)


if __name__ == "__main__":
    args = parser.parse_args()
    with utils.errors_for_people(parser, args):
        utils.check_output_dir(args.output_dir, resume=False)
        systems, corpora = read_systems(args)
        if args.threshold == "auto" and not is_labelled(corpora, "dev") and not args.no_ensemble:
            raise utils.InputError("no labelled dev lines were scored, to tune on; give --threshold, as --threshold 0.3")
        main(args, systems, corpora)
