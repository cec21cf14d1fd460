"""The decision rule: which labels are present, from scores or from averages of them; tuned."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import utils

ROUNDS = 20  # of ensemble selection; a weight is a multiple of one in so many
FOLDS = 5  # of cross-fitting
RESAMPLES = 20  # of lines, for a threshold of each label
F1 = {"micro": utils.micro_f1, "macro": utils.macro_f1}  # what a rule is tuned for
Fit = Callable[..., Any]  # from labels and scores to what makes decisions of scores


class Rule(NamedTuple):
    """From scores [lines, labels] to decisions.

    Attributes:
        threshold: a label is present from this score on; or one for each label.
        at_least_one: whether the label with the highest score is present whatever that is.
    """

    threshold: float | list[float]
    at_least_one: bool = False

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """Which labels are present, a boolean array of the shape of `scores`."""
        return utils.decide(scores, self.threshold, self.at_least_one)

    def __str__(self) -> str:
        several = self.threshold if isinstance(self.threshold, list) else [self.threshold]
        told = f"threshold {several[0]:.3f}"
        if len(several) > 1:
            told = f"thresholds from {min(several):.3f} to {max(several):.3f}"
        return f"{told}{', at least one label' * self.at_least_one}"


def fit(
    labels: np.ndarray, scores: np.ndarray, average: str = "micro", at_least_one: bool = False
) -> Rule:
    """The rule that serves these lines best.

    Args:
        labels: zeros and ones, [lines, labels].
        average: "micro" or "macro", of F1.
        at_least_one: as of a `Rule`.
    """
    if at_least_one:  # what is highest in its line is above every threshold
        scores = np.where(utils.decide(scores, np.inf, True), 1.0, scores)
    return Rule(utils.tune_threshold(labels, scores, average), at_least_one)


def fit_each(labels: np.ndarray, scores: np.ndarray) -> Rule:
    """A threshold for each label; arguments as of `fit`.

    It is the mean of those that serve resamples of the lines best (bagging, Breiman 1996): of few
    positives, each one moves the best threshold far. A resample without any has no say.
    """
    lines = len(labels)
    found: list[list[float]] = [[] for _ in range(labels.shape[1])]
    for drawn in np.random.default_rng(0).integers(lines, size=(RESAMPLES, lines)):
        for own, gold, score in zip(found, labels[drawn].T, scores[drawn].T, strict=True):
            if gold.any():
                own.append(utils.tune_threshold(gold[:, None], score[:, None]))
    return Rule([float(np.mean(own or [0.5])) for own in found])


def best_f1(labels: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """Micro- and macro-F1, each at the threshold that serves these lines best, and micro at 0.5."""
    found = {f"{each}_f1": f1(labels, fit(labels, scores, each)(scores)) for each, f1 in F1.items()}
    return found | {"micro_f1_at_0.5": utils.micro_f1(labels, Rule(0.5)(scores))}


def cross_fitted_decisions(
    labels: np.ndarray, probabilities: np.ndarray, sentences: np.ndarray, fit: Fit = fit
) -> np.ndarray:
    """Decisions on lines that were tuned on, each part of them by the rule of the others.

    Args:
        labels: shape [lines, labels].
        probabilities: shape [lines, ..., labels].
        sentences: which each line is about, from 0; all lines of one are in the same part.

    Returns:
        Booleans, [lines, labels]; their micro-F1 is what the rule is worth on other lines.
    """
    order = np.random.default_rng(0).permutation(sentences.max(initial=-1) + 1)
    fold = order[sentences] % FOLDS
    decisions = np.zeros(labels.shape, dtype=bool)
    for held_out in range(FOLDS):
        inside = fold == held_out
        rule = fit(labels[~inside], probabilities[~inside])
        decisions[inside] = rule(probabilities[inside])
    return decisions


class Average(NamedTuple):
    """From scores of systems, [lines, systems, labels], to decisions."""

    weights: np.ndarray  # [systems]
    rule: Rule

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """Which labels are present, [lines, labels]."""
        return self.rule(np.average(scores, axis=1, weights=self.weights))


def tune_rules(
    gold: np.ndarray,
    scores: np.ndarray,
    sentences: np.ndarray,
    average: str = "micro",
    of_systems: np.ndarray | None = None,
) -> list[tuple[Rule, dict[str, float]]]:
    """One threshold, and one with at least one label, tuned, and for macro-F1 a threshold for each
    label too; the one that cross-fitting prefers comes first.

    Args:
        average: "micro" or "macro", of F1.
        of_systems: [lines, systems, labels], where `scores` are their average with weights tuned
            on these lines: cross-fitting tunes these too.

    Returns:
        Of each the rule, and its F1 tuned, cross-fitted, and with the threshold 0.5.
    """
    f1, name, tried = F1[average], f"{average}_f1", []
    one = functools.partial(fit, average=average)
    kinds: list[Fit] = [one, functools.partial(one, at_least_one=True)]
    for kind in [*kinds, fit_each] if average == "macro" else kinds:
        rule = kind(gold, scores)
        given = (scores, sentences, kind)
        if of_systems is not None:
            given = (of_systems, sentences, functools.partial(fit_average, average, kind))
        cross_fitted = cross_fitted_decisions(gold, *given)
        figures = {name: f1(gold, rule(scores)), f"{name}_cross_fitted": f1(gold, cross_fitted)}
        tried.append((rule, figures | {f"{name}_at_0.5": f1(gold, Rule(0.5)(scores))}))
    return sorted(tried, key=lambda each: -each[1][f"{name}_cross_fitted"])  # level: the first


def select_weights(labels: np.ndarray, scores: np.ndarray, average: str) -> np.ndarray:
    """Weights of the systems by ensemble selection (Caruana et al. 2004).

    The one is added, again and again, that raises the F1 of the average, at its best threshold,
    most.

    Args:
        labels: [lines, labels].
        scores: [lines, systems, labels].
        average: "micro" or "macro", of F1.

    Returns:
        [systems], summing to one.
    """
    counts = np.zeros(scores.shape[1])
    for _ in range(ROUNDS):
        reached = []
        for candidate in np.eye(len(counts)):
            averages = np.average(scores, axis=1, weights=counts + candidate)
            reached.append(F1[average](labels, fit(labels, averages, average)(averages)))
        counts[np.argmax(reached)] += 1
    return counts / ROUNDS


def fit_average(average: str, fit: Fit, labels: np.ndarray, scores: np.ndarray) -> Average:
    """Weights by `select_weights`, and a rule for what they make of the scores; arguments as of
    that.
    """
    weights = select_weights(labels, scores, average)
    return Average(weights, fit(labels, np.average(scores, axis=1, weights=weights)))


def choose_weights(
    labels: np.ndarray, scores: np.ndarray, sentences: np.ndarray, average: str
) -> np.ndarray:
    """`select_weights` on each four fifths of the lines, averaged.

    Logs what they are worth on the fifths left out.
    """
    found: list[np.ndarray] = []
    one = functools.partial(fit, average=average)

    def fit_part(labels: np.ndarray, scores: np.ndarray) -> Average:
        fitted = fit_average(average, one, labels, scores)
        found.append(fitted.weights)
        return fitted

    tuned = cross_fitted_decisions(labels, scores, sentences, fit_part)
    equal = cross_fitted_decisions(labels, scores.mean(1), sentences, one)
    told = "cross-fitted %s-F1 on dev: %.4f with tuned weights, %.4f with equal ones"
    utils.log.info(told, average, *(F1[average](labels, each) for each in (tuned, equal)))
    return np.mean(found, axis=0)
