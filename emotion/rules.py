"""The decision rule: which labels are present, from their scores."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import utils

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
        if isinstance(self.threshold, list):
            return f"thresholds from {min(self.threshold):.3f} to {max(self.threshold):.3f}"
        return f"threshold {self.threshold:.3f}{', at least one label' * self.at_least_one}"


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
        scores = np.where(utils.decide(scores, np.inf, True), 1.0, np.minimum(scores, 1 - 1e-9))
    return Rule(utils.tune_threshold(labels, scores, average), at_least_one)


def fit_each(labels: np.ndarray, scores: np.ndarray) -> Rule:
    """A threshold for each label, the one that serves it best; arguments as of `fit`."""
    columns = range(labels.shape[1])
    return Rule([utils.tune_threshold(labels[:, [k]], scores[:, [k]]) for k in columns])


def best_f1(labels: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """Micro- and macro-F1, each at the threshold that serves these lines best, and micro at 0.5."""
    found = {f"{each}_f1": f1(labels, fit(labels, scores, each)(scores)) for each, f1 in F1.items()}
    return found | {"micro_f1_at_0.5": utils.micro_f1(labels, Rule(0.5)(scores))}
