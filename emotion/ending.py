"""How a run ends: scores, decision rule, predictions and metrics."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import utils
from emotion import card, data, outputs, process, rules, statistics
from emotion.checkpoint import Checkpoint
from emotion.data import Corpora
from emotion.process import AfterBatch, ScoreRows
from emotion.rules import Rule
from emotion.run import Run


def choose_rule(
    run: Run,
    labels: Sequence[str],
    gold: np.ndarray,
    scores: np.ndarray,
    sentences: np.ndarray,
    constant_answer: Sequence[str],
) -> Rule:
    """The decision rule of a run: `--threshold`, or where that is "auto" tuned on dev; saved in
    `best/`.

    Tuned are one threshold, and one threshold with at least one label; the second is taken only
    where cross-fitting prefers it.

    Args:
        gold, scores: of dev, shape [lines, labels].
        sentences: as of `data.sentences`.
        constant_answer: the best of train, noted too.
    """
    given, average = run.args.threshold, run.args.tune
    decision: dict[str, Any] = {"labels": list(labels)}
    if given == "auto":
        tried = rules.tune_rules(gold, scores, sentences, average)
        for each, figures in tried:
            utils.log.info(
                "%s: dev %s-F1 %.4f on the lines it was tuned on, %.4f cross-fitted, %.4f at 0.5",
                *(each, average, *figures.values()),
            )
        rule, figures = tried[0]
        utils.log.info("taken: %s", rule)
        decision |= rule._asdict() | {"tuned_on": "dev", "tuned_for": f"{average}_f1"} | figures
    else:
        rule = Rule(float(given))
        decision |= rule._asdict() | {"tuned_on": None}
    if not run.writes_nothing:
        best = run.directory / "best"
        best.mkdir(exist_ok=True)  # where the run has no weights of its own
        decision["constant_answer"] = list(constant_answer)
        outputs.write_json(best / "decision.json", decision)
        if config := outputs.read_json(best / "config.json"):  # of an encoder
            outputs.write_json(best / "config.json", config | rule._asdict())
    return rule


def conclude(
    run: Run,
    corpora: Corpora,
    score_split: Callable[[str, AfterBatch], np.ndarray],
    history: Sequence[dict[str, float]],
) -> None:
    """End a training: scores of dev and test, decision rule, predictions, metrics."""
    rows = {split: lines for split, lines in corpora.rows.items() if split != "train"}
    scored = {}
    for split, lines in rows.items():
        with process.Progress(len(lines), "line", split) as progress:
            scored[split] = [(lines, score_split(split, progress.update))]
    [(_, dev)] = scored["dev"]
    labels, gold, sentences = corpora.labels, corpora.gold, data.sentences(rows["dev"])
    constant_answer = statistics.best_constant_answer(gold["train"], labels)
    run.note(constant_answer=constant_answer)
    rule = choose_rule(run, labels, gold["dev"], dev, sentences, constant_answer)
    run.write_scores(scored, gold, labels, rule, constant_answer)
    run.finish(history)
    if not run.writes_nothing and "model" in run.args:
        figures = {split: measure(*scored[split][0], corpora, split, rule) for split in rows}
        card.write(run, labels, rule, {s: f for s, f in figures.items() if f})


def measure(
    rows: list[utils.Row], scores: np.ndarray, corpora: Corpora, split: str, rule: Rule
) -> dict[str, dict[str, float]]:
    """Micro- and macro-F1 of a split with their intervals; empty where it is not labelled."""
    if split not in corpora.gold:
        return {}
    decisions = rule(scores)[None]
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
    run.note(constant_answer=found.constant_answer)
    run.write_scores(chunks, labelled, found.labels, found.rule, found.constant_answer)
    run.finish()
