"""Any checkpoint, or an average of runs, as a function from rows to scores."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import utils
from emotion import checkpoint, cli, kinds, outputs
from emotion.process import AfterBatch, ScoreRows
from emotion.rules import Rule

LINES = 48  # of a batch of an encoder


class Classifier(NamedTuple):
    """What a checkpoint is to one who predicts with it.

    Attributes:
        labels: in the order of the scores.
        rule: from scores to the labels that are present.
        score_rows: from rows to scores [rows, labels].
    """

    labels: list[str]
    rule: Rule
    score_rows: ScoreRows


def find(name: str | Path) -> Path:
    """The directory that a name stands for: a checkpoint, a run that has one, or a hub id.

    Raises:
        utils.InputError: there is none.
    """
    path = Path(name)
    path = path.resolve() if path.name in ("", "..") else path  # what lies beside it is looked at
    if os.path.isdir(path):  # which no name is too long for
        if not (path / "run.json").is_file() or (path / "config.json").exists():
            return path
        if not (path / "best").exists():
            record = outputs.read_json(path / "run.json") or {}
            arguments = record.get("arguments") or {}
            mend = "give one that trained"
            if kinds.trains(arguments):
                mend = "put it there again" if "seconds" in record else "let it end (--resume)"
            raise utils.InputError(f"{path}: is a run that has no checkpoint (best/); {mend}")
        return path / "best"
    checkpoint.describe_model(str(name), "")  # raises where the hub has no such model
    from huggingface_hub import snapshot_download

    with checkpoint.loading(name):
        return Path(snapshot_download(str(name), ignore_patterns=checkpoint.LEFT_ON_THE_HUB))


def load(
    name: str | Path,
    threshold: str | float = "auto",
    precision: str = "auto",
    lines: int | None = None,
) -> Classifier:
    """Load a checkpoint of any training script, the run that it is of, or an average of runs.

    Args:
        name: a directory, or a hub id.
        threshold: "auto" for that of the checkpoint.
        precision: as of `--precision`.
        lines: of a batch; None: as the scripts have it.

    Raises:
        utils.InputError: it is no checkpoint, or cannot be loaded.
    """
    if precision not in cli.PRECISIONS:
        raise utils.InputError(f"precision: is {precision!r}; give {', '.join(cli.PRECISIONS)}")
    try:
        threshold = cli.threshold(str(threshold))
    except ValueError:
        told = f'threshold: is {threshold!r}; give "auto", or a number from 0 to 1'
        raise utils.InputError(told) from None
    path = find(name)
    members = (outputs.read_json(path.parent / "run.json") or {}).get("members")
    if members and not (path / "config.json").exists():
        return load_average(path, members, threshold, precision, lines)
    if (path / "prompt.json").exists():
        from emotion import causal

        found, base = checkpoint.check_adapter(path, threshold)
        score_rows, _ = causal.load_scorer(path, base, found, precision, lines)
        return Classifier(found.labels, found.rule, score_rows)
    found = checkpoint.check_encoder(path, checkpoint.CLASSIFIERS, threshold)
    from emotion import inputs

    score_rows, _ = inputs.load_scorer(path, precision, lines or LINES)
    return Classifier(found.labels, found.rule, score_rows)


def load_average(
    path: Path,
    members: list[dict[str, Any]],
    threshold: str | float,
    precision: str,
    lines: int | None,
) -> Classifier:
    """The weighted average of runs, as `ensemble.py` made it.

    Args:
        path: `best/` of the average.
        members: {"run", a directory seen from that of the average, and "weight"} of each.

    Raises:
        utils.InputError: one cannot be loaded, or has other labels than the first.
    """
    runs = [path.parent.resolve() / member["run"] for member in members]
    for run in runs:
        if not run.is_dir():
            told = "was averaged, and is not there any more; put it back, or average anew"
            raise utils.InputError(f"{run}: {told}")
    loaded = [load(run, 0.5, precision, lines) for run in runs]
    labels = loaded[0].labels
    for run, each in zip(runs, loaded, strict=True):
        if each.labels != labels:
            raise utils.InputError(f"{run}: has other labels than {runs[0]}; average anew")

    def score_rows(rows: Sequence[utils.Row], after_batch: AfterBatch) -> np.ndarray:
        scores = [each.score_rows(rows, after_batch) for each in loaded]
        return np.average(scores, axis=0, weights=[each["weight"] for each in members]).round(6)

    rule, _ = checkpoint.read_decision(path, labels, threshold)
    return Classifier(labels, rule, score_rows)
