"""How a run ends: scores, decision rule, predictions and metrics."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import utils
from emotion import card, data, outputs, process, statistics
from emotion.checkpoint import Checkpoint
from emotion.data import Corpora
from emotion.process import AfterBatch, ScoreRows
from emotion.run import Run


def choose_threshold(
    run: Run,
    labels: Sequence[str],
    gold: np.ndarray,
    scores: np.ndarray,
    sentences: np.ndarray,
    given: str | float,
) -> float:
    """The threshold of a run: `given`, or where it is "auto" tuned on dev; saved in `best/`.

    Args:
        gold, scores: of dev, shape [lines, labels].
        sentences: as of `data.sentences`.
    """
    tuned = given == "auto"
    threshold = utils.tune_threshold(gold, scores) if tuned else float(given)
    decision: dict[str, Any] = {"labels": list(labels), "threshold": threshold}
    decision["tuned_on"] = "dev" if tuned else None
    if tuned:
        cross_fitted = statistics.cross_fitted_decisions(gold, scores, sentences)
        decision |= {
            "micro_f1": utils.micro_f1(gold, utils.decide(scores, threshold)),
            "micro_f1_cross_fitted": utils.micro_f1(gold, cross_fitted),
            "micro_f1_at_0.5": utils.micro_f1(gold, utils.decide(scores, 0.5)),
        }
        utils.log.info(
            "threshold %.3f, tuned on dev: micro-F1 %.4f on the lines it was tuned on, "
            "%.4f cross-fitted, %.4f at 0.5",
            threshold,
            *(decision[f"micro_f1{rule}"] for rule in ("", "_cross_fitted", "_at_0.5")),
        )
    if not run.writes_nothing:
        best = run.directory / "best"
        best.mkdir(exist_ok=True)  # where the run has no weights of its own
        outputs.write_json(best / "decision.json", decision)
        if config := outputs.read_json(best / "config.json"):  # of an encoder
            outputs.write_json(best / "config.json", config | {"threshold": threshold})
    return threshold


def conclude(
    run: Run,
    corpora: Corpora,
    score_split: Callable[[str, AfterBatch], np.ndarray],
    threshold: str | float,
    history: Sequence[dict[str, float]],
) -> None:
    """End a training: scores of dev and test, decision rule, predictions, metrics."""
    rows = {split: lines for split, lines in corpora.rows.items() if split != "train"}
    scored = {}
    for split, lines in rows.items():
        with process.Progress(len(lines), "line", split) as progress:
            scored[split] = [(lines, score_split(split, progress.update))]
    [(_, dev)] = scored["dev"]
    sentences = data.sentences(rows["dev"])
    rule = choose_threshold(run, corpora.labels, corpora.gold["dev"], dev, sentences, threshold)
    run.write_scores(scored, corpora.gold, corpora.labels, rule)
    run.finish(history)
    if not run.writes_nothing and "model" in run.args:
        figures = {split: measure(*scored[split][0], corpora, split, rule) for split in rows}
        card.write(run, corpora.labels, rule, {s: f for s, f in figures.items() if f})


def measure(
    rows: list[utils.Row], scores: np.ndarray, corpora: Corpora, split: str, threshold: float
) -> dict[str, dict[str, float]]:
    """Micro- and macro-F1 of a split with their intervals; empty where it is not labelled."""
    if split not in corpora.gold:
        return {}
    decisions = utils.decide(scores, threshold)[None]
    gold, sentences = corpora.gold[split].astype(bool), data.sentences(rows)
    micro, per_label = statistics.bootstrap_f1(gold, decisions, sentences, card.RESAMPLES, 0)
    found = {"micro-F1": micro[:, 0], "macro-F1": per_label[:, 0].mean(-1)}
    return {name: statistics.interval(values) for name, values in found.items()}


def predict_files(
    run: Run, found: Checkpoint, files: dict[str, tuple[Path, int, bool]], score_rows: ScoreRows
) -> None:
    """Predict corpus files window by window: predictions, and metrics of those labelled.

    Args:
        files: by split, a file, its number of lines, and whether they are labelled.
    """

    def score_windows(path: Path, lines: int) -> Iterator[tuple[list[utils.Row], np.ndarray]]:
        with process.Progress(lines, "line", path.name) as progress:
            for rows in data.windows(path):
                yield rows, score_rows(rows, progress.update)

    chunks = {split: score_windows(path, lines) for split, (path, lines, _) in files.items()}
    labelled = {split for split, (_, _, is_labelled) in files.items() if is_labelled}
    run.write_scores(chunks, labelled, found.labels, found.threshold)
    run.finish()
