"""Metrics, the trivial baseline, the bootstrap, and paired differences, over seeds too."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

import utils

RESAMPLES, SEED = 10_000, 42  # of the bootstrap, where nobody says otherwise
RESAMPLES_AT_ONCE, NUMBERS_AT_ONCE = 250, 10_000_000


def best_constant_answer(labels: np.ndarray, names: Sequence[str]) -> list[str]:
    """The trivial baseline: the labels that, given to every line, have the highest micro-F1.

    Args:
        labels: zeros and ones, [lines, labels].
    """
    support = labels.sum(0)
    descending = np.argsort(-support, kind="stable")
    sizes = np.arange(1, len(names) + 1) * len(labels) + support.sum()
    best = (support[descending].cumsum() / sizes).argmax()
    return [names[column] for column in sorted(descending[: best + 1])]


def constant_decisions(lines: int, names: Sequence[str], answer: Sequence[str]) -> np.ndarray:
    """The same answer for every line, as decisions [lines, labels]."""
    return np.tile([name in answer for name in names], (lines, 1))


def show_constant(labels: np.ndarray, names: Sequence[str], answer: Sequence[str]) -> str:
    """What a constant answer reaches, as text; nothing where there is none."""
    if not answer:
        return ""
    reached = utils.micro_f1(labels, constant_decisions(len(labels), names, answer))
    return f"always {', '.join(answer)}: micro-F1 {reached:.4f}"


def compute_metrics(
    labels: np.ndarray, probabilities: np.ndarray, decisions: np.ndarray, names: Sequence[str]
) -> dict[str, Any]:
    """The metrics of a run.

    Args:
        labels, probabilities, decisions: shape [lines, labels].
        names: of the labels.

    Returns:
        A dictionary for JSON: `micro_f1`, `micro_f1_at_0.5`, `macro_f1`, `exact_match`,
        `micro_roc_auc` (None where the labels are all alike) and `per_emotion`.
    """
    from sklearn.metrics import precision_recall_fscore_support, roc_auc_score

    labels, decisions = labels.astype(int), decisions.astype(int)
    per_emotion = {}
    for name, *given in zip(names, labels.T, decisions.T, strict=True):
        p, r, f, _ = precision_recall_fscore_support(*given, average="binary", zero_division=0)
        figures = {"precision": float(p), "recall": float(r), "f1": float(f)}
        per_emotion[name] = figures | {"support": int(given[0].sum())}
    both = 0 < labels.mean() < 1
    return {
        "micro_f1": utils.micro_f1(labels, decisions),
        "micro_f1_at_0.5": utils.micro_f1(labels, utils.decide(probabilities, 0.5)),
        "macro_f1": float(np.mean([scores["f1"] for scores in per_emotion.values()])),
        "exact_match": float((labels == decisions).all(-1).mean()),
        "micro_roc_auc": float(roc_auc_score(labels.ravel(), probabilities.ravel()))
        if both
        else None,
        "per_emotion": per_emotion,
    }


def bootstrap_f1(
    labels: np.ndarray, decisions: np.ndarray, sentences: np.ndarray, resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """F1 of each system on sentences drawn with replacement, the same ones for every system.

    Args:
        labels: boolean [lines, labels].
        decisions: boolean [systems, lines, labels].
        sentences: which each line is about, from 0: lines of one are drawn together.

    Returns:
        (micro, per label): [1 + resamples, systems] and [1 + resamples, systems, labels], the
        lines as they are in front.
    """
    systems, drawn_from = len(decisions), int(sentences.max()) + 1
    hits = (decisions & labels).transpose(1, 0, 2)
    either = decisions.transpose(1, 0, 2).astype(np.float32) + labels[:, None]  # TP + FP, TP + FN
    of_lines = np.stack([hits, either], axis=1).reshape(len(labels), -1).astype(np.float32)
    counts = np.zeros((drawn_from, of_lines.shape[1]), dtype=np.float32)
    np.add.at(counts, sentences, of_lines)
    totals = [counts.sum(0, keepdims=True)]
    rng = np.random.default_rng(seed)
    at_once = max(1, min(RESAMPLES_AT_ONCE, NUMBERS_AT_ONCE // drawn_from))
    for start in range(0, resamples, at_once):
        size = min(at_once, resamples - start)
        drawn = rng.integers(drawn_from, size=(size, drawn_from))
        drawn += drawn_from * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * drawn_from).reshape(size, drawn_from)
        totals.append(times.astype(np.float32) @ counts)
    summed = np.concatenate(totals).reshape(-1, 2, systems, labels.shape[1])
    true_positives, sizes = summed.transpose(1, 0, 2, 3)
    per_label = 2 * true_positives / np.maximum(sizes, 1)
    return 2 * true_positives.sum(-1) / np.maximum(sizes.sum(-1), 1), per_label


def interval(values: np.ndarray) -> dict[str, float]:
    """{"value", "low", "high"} of a figure and its 95 % interval: [1 + resamples], it in front."""
    low, high = np.percentile(values[1:], (2.5, 97.5))
    return {"value": float(values[0]), "low": float(low), "high": float(high)}


def show_interval(figure: dict[str, float]) -> str:
    """A value of `interval` as text."""
    return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"


def paired_difference(values: np.ndarray, others: np.ndarray) -> dict[str, float]:
    """The difference of two figures with its interval and a two-sided p-value.

    The p-value is the share of draws whose difference lies as far from the observed one as that
    lies from none (paired bootstrap, Berg-Kirkpatrick et al. 2012).

    Args:
        values, others: [1 + resamples], of the same draws.
    """
    difference = values - others
    as_far = abs(difference[1:] - difference[0]) >= abs(difference[0])
    return interval(difference) | {"p_value": float((1 + as_far.sum()) / (1 + len(as_far)))}


def over_seeds(values: np.ndarray, groups: Sequence[Sequence[int]], seed: int) -> np.ndarray:
    """Means over runs that differ in their seeds alone, drawn with replacement as the lines are.

    As with every such draw, the variance that n seeds add is (n - 1)/n of the unbiased estimate.

    Args:
        values: of runs, [1 + resamples, runs, ...].
        groups: which runs are averaged.

    Returns:
        [1 + resamples, groups, ...], the means of all their runs in front.
    """
    rng, means = np.random.default_rng((seed, 1)), []  # not that of the lines
    for group in groups:
        drawn = rng.integers(len(group), size=(len(values), len(group)))
        drawn[0] = range(len(group))
        chosen = np.asarray(group)[drawn]
        means.append(values[np.arange(len(values))[:, None], chosen].mean(1))
    return np.stack(means, axis=1)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number (Holm 1979): of n, each at most n times as large."""
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(p_values), 0, -1)
    corrected = np.empty(len(p_values))
    corrected[order] = np.maximum.accumulate(np.asarray(p_values)[order] * factors)
    return np.minimum(corrected, 1).tolist()


def compare(
    gold: np.ndarray,
    decisions: dict[str, np.ndarray],
    kinds: Sequence[str],
    labels: Sequence[str],
    sentences: np.ndarray,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Figures with intervals of each system, and the differences of each pair, for JSON.

    Where systems differ in their seeds alone, the same of the means over these, under "kinds":
    their intervals and p-values are over seeds and lines together.

    Args:
        gold: [lines, labels].
        decisions: of each system, boolean [lines, labels].
        kinds: what each system is but for its seed.
        sentences: which each line is about, from 0; the bootstrap draws these.
    """
    names, stacked = list(decisions), np.stack(list(decisions.values()))
    micro, per_label = bootstrap_f1(gold.astype(bool), stacked, sentences, resamples, seed)
    found = {"lines": len(gold), "sentences": int(sentences.max()) + 1}
    found |= {"resamples": resamples, "seed": seed} | figures_of(names, micro, per_label, labels)
    groups = grouped(kinds)
    if len(groups) == len(names):
        return found
    more = {1: "", 2: " and 1 other seed"}
    named = [names[g[0]] + more.get(len(g), f" and {len(g) - 1} other seeds") for g in groups]
    micro, per_label = (over_seeds(each, groups, seed) for each in (micro, per_label))
    return found | {"kinds": figures_of(named, micro, per_label, labels)}


def grouped(kinds: Sequence[str]) -> list[list[int]]:
    """The indices of each kind, in the order of the first of them."""
    return [[n for n, each in enumerate(kinds) if each == kind] for kind in dict.fromkeys(kinds)]


def figures_of(
    names: Sequence[str], micro: np.ndarray, per_label: np.ndarray, labels: Sequence[str]
) -> dict[str, Any]:
    """ "systems", the figures of each, and "pairs", their differences, for JSON.

    Args:
        micro, per_label: F1, [1 + resamples, systems] and [1 + resamples, systems, labels].
    """
    systems = {
        name: {
            "micro_f1": interval(micro[:, index]),
            "macro_f1": interval(per_label[:, index].mean(-1)),
            "per_emotion": {
                label: interval(per_label[:, index, k]) for k, label in enumerate(labels)
            },
        }
        for index, name in enumerate(names)
    }
    pairs: list[dict[str, Any]] = [
        {"a": names[a], "b": names[b]} | paired_difference(micro[:, a], micro[:, b])
        for a, b in itertools.combinations(range(len(names)), 2)
    ]
    corrected = holm([pair["p_value"] for pair in pairs])
    told = [pair | {"p_holm": p} for pair, p in zip(pairs, corrected, strict=True)]
    return {"systems": systems, "pairs": told}
