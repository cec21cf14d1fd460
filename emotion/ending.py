"""How a run ends: scores, decision rule, predictions and metrics."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import utils
from emotion import card, data, outputs, process, report, rules, statistics
from emotion.checkpoint import Checkpoint
from emotion.data import Corpora
from emotion.process import AfterBatch, ScoreRows
from emotion.rules import Rule
from emotion.run import Run

NAME = "this run"  # among those compared, of which it is the only one


def choose_rule(
    run: Run,
    labels: Sequence[str],
    gold: np.ndarray | None,
    scores: np.ndarray | None,
    sentences: np.ndarray,
    constant_answer: Sequence[str],
    of_systems: np.ndarray | None = None,
) -> Rule:
    """The decision rule of a run: `--threshold`, or where that is "auto" tuned on dev; saved in
    `best/`.

    Tuned are the rules of `rules.tune_rules`; cross-fitting chooses.

    Args:
        gold, scores: of dev, shape [lines, labels]; needed where the rule is tuned.
        sentences: as of `data.sentences`.
        constant_answer: the best of train, noted too.
        of_systems: as of `rules.tune_rules`.
    """
    given, average = run.args.threshold, run.args.tune
    decision: dict[str, Any] = {"labels": list(labels)}
    if given == "auto" and gold is not None and scores is not None:
        tried = rules.tune_rules(gold, scores, sentences, average, of_systems)
        for each, figures in tried:
            utils.log.info(
                "%s: dev %s-F1 %.4f on the lines it was tuned on, %.4f cross-fitted, %.4f at 0.5",
                *(each, average, *figures.values()),
            )
        rule, figures = tried[0]
        utils.log.info("taken: %s", rule)
        if len(np.unique(rule(scores), axis=0)) == 1 < len(np.unique(gold, axis=0)):
            told = "all lines of dev get the same answer; train longer, or give a --threshold"
            utils.log.warning("warning: %s", told)
        decision |= rule._asdict() | {"tuned_on": "dev", "tuned_for": f"{average}_f1"} | figures
    else:
        rule = Rule(float(given))
        decision |= rule._asdict() | {"tuned_on": None}
    run.note(rule=str(rule))
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
    found = run.write_scores(scored, gold, labels, rule, constant_answer)
    if not run.writes_nothing:
        comparisons = write_report(run, labels, rule, rows, found, history)
        if "model" in run.args:
            card.write(run, labels, rule, comparisons)
    run.finish(history)


def write_report(
    run: Run,
    labels: Sequence[str],
    rule: Rule,
    rows: dict[str, list[utils.Row]],
    found: dict[str, tuple[np.ndarray, np.ndarray]],
    history: Sequence[dict[str, float]] = (),
) -> dict[str, dict[str, Any]]:
    """Write `report.html` of a run; returns its figures, as of `statistics.compare`.

    Args:
        rows, found: by labelled split, lines, and their labels and scores [lines, labels].
    """
    gold, scores = ({split: each[n] for split, each in found.items()} for n in (0, 1))
    decisions = {split: rule(values) for split, values in scores.items()}
    comparisons = {}
    for split, values in decisions.items():
        given = gold[split], {NAME: values}, [NAME], labels, data.sentences(rows[split])
        comparisons[split] = statistics.compare(*given, statistics.RESAMPLES, statistics.SEED)
    shown = report.Shown(NAME, scores, decisions, history)
    report.write(run.directory, run.record, [shown], rows, gold, comparisons, labels)
    return comparisons


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
    run.note(constant_answer=found.constant_answer, rule=str(found.rule))
    kept = run.write_scores(chunks, labelled, found.labels, found.rule, found.constant_answer)
    if kept:
        rows = {split: list(utils.iter_corpus(files[split][0], warn=False)) for split in kept}
        write_report(run, found.labels, found.rule, rows, kept)
    run.finish()
