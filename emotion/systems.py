"""Finished runs read back as systems to compare: alone, or the runs of all folds as one."""

import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import utils
from emotion import data, kinds, outputs, rules

Files = dict[str, Path | None]  # by split: where a user says that it is now


class System(NamedTuple):
    """What is compared: a run, the runs of all folds, or an average.

    `scores` and `decisions` are arrays [lines, labels] by split, in the order of the corpus;
    `runs` are the directories that were averaged, equally; `history` is the log of its training;
    `kind` tells it from others, but for its seed.
    """

    name: str
    kind: str
    runs: list[Path]
    scores: dict[str, np.ndarray]
    decisions: dict[str, np.ndarray]
    history: list[dict[str, float]]


def read_run(directory: Path) -> dict[str, Any]:
    """`run.json` of a finished run, with "labels", and by split "ids", "scores" and "decisions".

    Raises:
        utils.InputError: the directory holds no finished run, or a file of it is broken.
    """
    run: dict[str, Any] = outputs.read_json(directory / "run.json") or {}
    parts = {"data": dict, "arguments": dict, "script": str}
    if any(not isinstance(run.get(name), kind) for name, kind in parts.items()):
        told = "holds no run (run.json is missing or broken); name an --output-dir"
        raise utils.InputError(f"{directory}: {told}")
    if "seconds" not in run:
        trains = kinds.trains(run["arguments"])
        mend = "end it with --resume" if trains else "delete it, and make it anew"
        raise utils.InputError(f"{directory}: the run is not finished; {mend}")
    run |= {"ids": {}, "scores": {}, "decisions": {}}
    for split in ("dev", "test"):
        path = directory / f"{split}.scores.jsonl"
        if not path.exists():
            continue
        if split not in run["data"]:
            raise utils.InputError(f"{directory}: run.json names no {split} file; predict again")
        run["ids"][split], run["scores"][split], labels = read_scores(path)
        if run.setdefault("labels", labels) != labels:
            raise utils.InputError(f"{path}: has other labels than dev; predict again")
        written = utils.iter_corpus(directory / f"{split}.jsonl", True, labels, warn=False)
        predictions = list(written)  # what is odd in them was told when they were read
        run["decisions"][split] = utils.encode_labels(predictions, labels).astype(bool)
        if [row.get("id") for row in predictions] != run["ids"][split]:
            told = f"{split}.jsonl and {split}.scores.jsonl differ in their lines; predict again"
            raise utils.InputError(f"{directory}: {told}")
    if not run["scores"]:
        told = "has no scores (dev.scores.jsonl, test.scores.jsonl); predict with it"
        if run["arguments"].get("no_ensemble"):
            told = "is a comparison alone (--no-ensemble); name the runs that it compares"
        raise utils.InputError(f"{directory}: {told}")
    return run


def read_scores(path: Path) -> tuple[list[str], np.ndarray, list[str]]:
    """The ids, probabilities [lines, labels] and labels of a `.scores.jsonl` file.

    Raises:
        utils.InputError: the file is broken.
    """
    ids: list[str] = []
    scores: list[list[float]] = []
    labels: list[str] = []
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            try:
                record = json.loads(line)
                labels = labels or list(record["scores"])
                ids.append(record["id"])
                scores.append([float(record["scores"][name]) for name in labels])
            except (ValueError, KeyError, TypeError):
                told = f"line {number}: is no line of scores; predict again"
                raise utils.InputError(f"{path}: {told}") from None
    if not scores:
        raise utils.InputError(f"{path}: is empty; predict again")
    values = np.array(scores)
    if not ((values >= 0) & (values <= 1)).all():
        raise utils.InputError(f"{path}: holds scores that are no probabilities; predict again")
    return ids, values, labels


def read_systems(paths: Sequence[Path], files: Files) -> tuple[list[System], data.Rows, list[str]]:
    """The runs at `paths` as systems, what they scored as rows by split, and their labels.

    Args:
        files: where a split is now; those that are None are set to where the runs say it is.

    Raises:
        utils.InputError: the runs did not score the same lines, or the runs of some folds are
            missing.
    """
    resolved = [path.resolve() for path in paths]
    if repeated := next(
        (p for p, r in zip(paths, resolved, strict=True) if resolved.count(r) > 1), None
    ):
        raise utils.InputError(f"{repeated}: is named twice; name each run once")
    runs = {path: read_run(path) for path in paths}
    first = runs[paths[0]]
    splits, labels, pooled = first["scores"].keys(), first["labels"], kinds.is_pooled(first)
    for path, run in runs.items():
        if run["scores"].keys() != splits:
            told = f"scored {' and '.join(run['scores'])}, {paths[0]} {' and '.join(splits)}"
            raise utils.InputError(f"{path}: {told}; score the same")
        if kinds.is_pooled(run) != pooled:
            one, other = (paths[0], path) if pooled else (path, paths[0])
            told = f"{one} is of folds (its dev is train and dev together), {other} is not"
            raise utils.InputError(f"{told}; name runs of one kind")
        if run["labels"] != labels:
            told = f"has the labels {', '.join(run['labels'])}, {paths[0]} {', '.join(labels)}"
            told = f"{told}; name runs with the same, in the same order"
            raise utils.InputError(f"{path}: {told}")
    wanted = (["train"] if pooled else []) + list(splits)
    if unread := next((split for split in files if files[split] and split not in wanted), None):
        told = f"--{unread}-file: the {unread} lines of these runs are not read; leave it out"
        raise utils.InputError(told)
    corpora = {split: read_scored_file(files, split, runs) for split in wanted}
    if pooled:
        corpora["dev"] = corpora.pop("train") + corpora["dev"]
    whole = {path: run for path, run in runs.items() if "fold" not in kinds.comparable(run)}
    named = zip(whole.items(), kinds.kinds_of(list(whole.values())), strict=True)
    found = [to_system(*each, kind, corpora) for each, kind in named]
    groups = kinds.groups_of({path: run for path, run in runs.items() if path not in whole})
    of_groups = kinds.kinds_of([next(iter(group.values()))[1] for group in groups])
    named_groups = zip(groups, of_groups, strict=True)
    found += [join_folds(group, kind, corpora, labels) for group, kind in named_groups]
    return found, corpora, labels


def soft_labels(directory: Path, corpora: data.Corpora, train: str) -> np.ndarray:
    """What an average of the runs of all folds makes of train, none of its lines scored by a run
    that had learnt it: scores [lines, labels] in float32.

    Args:
        train: the SHA-256 of the training file.

    Raises:
        utils.InputError: it is no such average, or one of other lines or labels.
    """
    run, rows = read_run(directory), corpora.rows["train"]
    told = ""
    if not run.get("out_of_fold"):
        told = "is no average of the runs of all folds; make one (ensemble.py)"
    elif run["data"]["train"]["sha256"] != train:
        told = "is of another training file (SHA-256); average runs of this one"
    elif run["labels"] != corpora.labels:
        told = f"has the labels {', '.join(run['labels'])}, not those of train; average anew"
    if told:
        raise utils.InputError(f"{directory}: {told}")
    number = {id: index for index, id in enumerate(run["ids"]["dev"])}
    return run["scores"]["dev"][[number[row["id"]] for row in rows]].astype(np.float32)


def constant_answer(paths: Sequence[Path]) -> list[str]:
    """The constant answer that the first of the runs notes; empty where none does."""
    noted = ((outputs.read_json(path / "run.json") or {}).get("constant_answer") for path in paths)
    return next(filter(None, noted), [])


def checkpoint_of(path: Path, directory: Path) -> str:
    """What predicts as the run at `path` did, seen from a directory: the run, or what it was given
    to predict with.
    """
    record = outputs.read_json(path / "run.json") or {}
    given = record.get("checkpoint") or record["arguments"].get("model_ckpt_path")
    return os.path.relpath(Path(given or path).resolve(), directory.resolve())


def read_scored_file(files: Files, split: str, runs: dict[Path, dict[str, Any]]) -> list[utils.Row]:
    """The rows of the corpus file that all runs name for a split; `files` may say where it is."""
    for path, run in runs.items():
        file = files.get(split) or Path(run["data"][split]["file"])
        if not os.path.isfile(file):
            mend = f"put the {split} file of {path} there again"
            mend += f", or say with --{split}-file where it is" if split in files else ""
            raise utils.InputError(f"{file}: no such file; {mend}")
        files[split] = file
        if outputs.identify(file)["sha256"] != run["data"][split]["sha256"]:
            told = f"scored another {split} file than {file} (SHA-256)"
            raise utils.InputError(f"{path}: {told}; compare runs of the same lines")
    rows = list(utils.iter_corpus(file, warn=False))
    try:
        data.check_ids(rows, file)
    except utils.InputError as error:
        mend = "and let each run predict it again (--model-ckpt-path)"
        raise utils.InputError(f"{error}, {mend}") from None
    return rows


def in_order(ids: Sequence[str], values: np.ndarray, rows: Sequence[utils.Row]) -> np.ndarray:
    """`values` [lines, ...] of the lines `ids`, in the order of `rows`.

    Raises:
        utils.InputError: they do not match.
    """
    position = {id: index for index, id in enumerate(ids)}
    if len(ids) != len(rows) or any(row["id"] not in position for row in rows):
        raise utils.InputError("the scores are not of the lines of the corpus; predict again")
    return values[[position[row["id"]] for row in rows]]


def to_system(path: Path, run: dict[str, Any], kind: str, corpora: data.Rows) -> System:
    """A run as a System."""
    scores, decisions = (
        {
            split: in_order(run["ids"][split], run[what][split], rows)
            for split, rows in corpora.items()
        }
        for what in ("scores", "decisions")
    )
    return System(str(path), kind, [path], scores, decisions, run.get("history", []))


def join_folds(group: kinds.Group, kind: str, corpora: data.Rows, labels: Sequence[str]) -> System:
    """The runs of all folds, by fold, as one System.

    Its decision rule is their `--threshold`, or tuned on the scores of all lines of train and dev.
    """
    paths, runs = zip(*(group[fold] for fold in sorted(group)), strict=True)
    ids = list(itertools.chain.from_iterable(run["ids"]["dev"] for run in runs))
    dev = np.concatenate([run["scores"]["dev"] for run in runs])
    scores = {"dev": in_order(ids, dev, corpora["dev"])}
    if "test" in corpora:
        rows = corpora["test"]
        tests = [in_order(run["ids"]["test"], run["scores"]["test"], rows) for run in runs]
        scores["test"] = np.mean(tests, axis=0)
    gold, sentences = utils.encode_labels(corpora["dev"], labels), data.sentences(corpora["dev"])
    threshold, average = (runs[0]["arguments"].get(each) for each in ("threshold", "tune"))
    if threshold in (None, "auto"):
        rule, _ = rules.tune_rules(gold, scores["dev"], sentences, average or "micro")[0]
    else:
        rule = rules.Rule(float(threshold))
    decisions = {split: rule(values) for split, values in scores.items()}
    return System(f"{paths[0]} and its other folds", kind, list(paths), scores, decisions, [])
