"""Metrics, cross-fitting, the bootstrap, paired differences, and the weights of an average."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import utils
from emotion import rules

ROUNDS = 20  # of ensemble selection; a weight is a multiple of one in so many
RESAMPLES_AT_ONCE = 250


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
    columns = precision_recall_fscore_support(labels, decisions, average=None, zero_division=0)
    per_emotion = {
        name: {"precision": float(p), "recall": float(r), "f1": float(f), "support": int(n)}
        for name, p, r, f, n in zip(names, *columns, strict=True)
    }
    both = 0 < labels.mean() < 1
    return {
        "micro_f1": utils.micro_f1(labels, decisions),
        "micro_f1_at_0.5": utils.micro_f1(labels, utils.decide(probabilities, 0.5)),
        "macro_f1": float(np.mean([scores["f1"] for scores in per_emotion.values()])),
        "exact_match": float((labels == decisions).all(-1).mean()),
        "micro_roc_auc": float(roc_auc_score(labels, probabilities, average="micro"))
        if both
        else None,
        "per_emotion": per_emotion,
    }


def cross_fitted_decisions(
    labels: np.ndarray,
    probabilities: np.ndarray,
    sentences: np.ndarray,
    fit: rules.Fit = rules.fit,
    folds: int = 5,
    seed: int = 0,
) -> np.ndarray:
    """Decisions on lines that were tuned on, each part of them by the rule of the others.

    Args:
        labels: shape [lines, labels].
        probabilities: shape [lines, ..., labels].
        sentences: which each line is about, from 0; all lines of one are in the same part.

    Returns:
        Booleans, [lines, labels]; their micro-F1 is what the rule is worth on other lines.
    """
    order = np.random.default_rng(seed).permutation(sentences.max(initial=-1) + 1)
    fold = order[sentences] % folds
    decisions = np.zeros(labels.shape, dtype=bool)
    for held_out in range(folds):
        inside = fold == held_out
        rule = fit(labels[~inside], probabilities[~inside])
        decisions[inside] = rule(probabilities[inside])
    return decisions


def tune_rules(
    gold: np.ndarray, scores: np.ndarray, sentences: np.ndarray, average: str = "micro"
) -> list[tuple[rules.Rule, dict[str, float]]]:
    """One threshold, and one with at least one label, tuned, and for macro-F1 a threshold for each
    label too; the one that cross-fitting prefers comes first.

    Args:
        average: "micro" or "macro", of F1.

    Returns:
        Of each the rule, and its F1 tuned, cross-fitted, and with the threshold 0.5.
    """
    f1, name, tried = rules.F1[average], f"{average}_f1", []
    one = functools.partial(rules.fit, average=average)
    kinds: list[rules.Fit] = [one, functools.partial(one, at_least_one=True)]
    for fit in [*kinds, rules.fit_each] if average == "macro" else kinds:
        rule = fit(gold, scores)
        half = rule._replace(threshold=0.5)
        cross_fitted = cross_fitted_decisions(gold, scores, sentences, fit)
        figures = {name: f1(gold, rule(scores)), f"{name}_cross_fitted": f1(gold, cross_fitted)}
        tried.append((rule, figures | {f"{name}_at_0.5": f1(gold, half(scores))}))
    return sorted(tried, key=lambda each: -each[1][f"{name}_cross_fitted"])  # level: the first


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
    for start in range(0, resamples, RESAMPLES_AT_ONCE):
        size = min(RESAMPLES_AT_ONCE, resamples - start)
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


def compare(
    gold: np.ndarray,
    decisions: dict[str, np.ndarray],
    labels: Sequence[str],
    sentences: np.ndarray,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Figures with intervals of each system, and the differences of each pair, for JSON.

    Args:
        gold: [lines, labels].
        decisions: of each system, boolean [lines, labels].
        sentences: which each line is about, from 0; the bootstrap draws these.
    """
    names, stacked = list(decisions), np.stack(list(decisions.values()))
    micro, per_label = bootstrap_f1(gold.astype(bool), stacked, sentences, resamples, seed)
    macro = per_label.mean(-1)
    figures = {
        name: {
            "micro_f1": interval(micro[:, index]),
            "macro_f1": interval(macro[:, index]),
            "per_emotion": {
                label: interval(per_label[:, index, k]) for k, label in enumerate(labels)
            },
        }
        for index, name in enumerate(names)
    }
    pairs = [
        {"a": names[a], "b": names[b]} | paired_difference(micro[:, a], micro[:, b])
        for a, b in itertools.combinations(range(len(names)), 2)
    ]
    return {
        "lines": len(gold),
        "sentences": int(sentences.max()) + 1,
        "resamples": resamples,
        "seed": seed,
        "systems": figures,
        "pairs": pairs,
    }


def select_weights(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Weights of the systems by ensemble selection (Caruana et al. 2004).

    The one is added, again and again, that raises the micro-F1 of the average, at its best
    threshold, most.

    Args:
        labels: [lines, labels].
        scores: [lines, systems, labels].

    Returns:
        [systems], summing to one.
    """
    counts = np.zeros(scores.shape[1])
    for _ in range(ROUNDS):
        reached = []
        for candidate in np.eye(len(counts)):
            averages = np.average(scores, axis=1, weights=counts + candidate)
            rule = rules.fit(labels, averages)
            reached.append(utils.micro_f1(labels, rule(averages)))
        counts[np.argmax(reached)] += 1
    return counts / ROUNDS


def choose_weights(labels: np.ndarray, scores: np.ndarray, sentences: np.ndarray) -> np.ndarray:
    """`select_weights` on each four fifths of the lines, averaged.

    Logs what they are worth on the fifths left out.
    """
    found = []

    def fit(labels: np.ndarray, scores: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        weights = select_weights(labels, scores)
        found.append(weights)
        rule = rules.fit(labels, np.average(scores, axis=1, weights=weights))
        return lambda others: rule(np.average(others, axis=1, weights=weights))

    tuned = utils.micro_f1(labels, cross_fitted_decisions(labels, scores, sentences, fit))
    equal = utils.micro_f1(labels, cross_fitted_decisions(labels, scores.mean(1), sentences))
    utils.log.info(
        "cross-fitted micro-F1 on dev: %.4f with tuned weights, %.4f with equal ones", tuned, equal
    )
    return np.mean(found, axis=0)
