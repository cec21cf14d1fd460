"""The corpus files that a run reads: where they are looked for, folds, and lines seen twice."""

import argparse
import itertools
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

import utils
from emotion.run import Run

SPLITS = ("train", "dev", "test")
CORPUS_PAGE = "https://kli.korean.go.kr/benchmark"
WINDOW = 4096  # lines that are read, sorted by length and scored before the next are read
CORPUS_FILE = "data/nikluge-ea-2023-{}.jsonl"  # beside the scripts, by split


Rows = dict[str, list[utils.Row]]  # by split


class Corpora(NamedTuple):
    """What a run trains and is measured with.

    Attributes:
        rows: by split: train, dev and, where there is one, test.
        labels: those of train.
        gold: zeros and ones [lines, labels], by labelled split.
    """

    rows: Rows
    labels: list[str]
    gold: dict[str, np.ndarray]


def find_files(args: argparse.Namespace, splits: Sequence[str]) -> dict[str, Path]:
    """The corpus files that `args` name, by split, or those that lie where they are looked for.

    Raises:
        utils.InputError: train or dev is wanted to train with, or all to predict, and not there.
    """
    files = {}
    for split in splits:
        given = getattr(args, f"{split}_file")
        path = given or utils.ROOT / CORPUS_FILE.format(split)
        if given or path.exists():
            next(utils.iter_corpus(path, warn=False))  # raises where it cannot be read
            files[split] = path
        elif "train" in splits and split != "test":
            raise utils.InputError(
                f"{path}: no such file; apply for the corpus at {CORPUS_PAGE} and put it there, "
                f"name another with --{split}-file, or try --sample"
            )
    if not files:
        raise utils.InputError("nothing to predict: give --dev-file or --test-file")
    return files


def read_to_train(args: argparse.Namespace, run: Run) -> Corpora | None:
    """Read train, dev and, where there is one, test; None where the run is complete already.

    Raises:
        utils.InputError: a file is not as it should be, or `--folds` and `--fold` do not fit.
    """
    folds, fold = args.folds, args.fold
    if (folds is None) != (fold is None):
        message = "--folds and --fold belong together; give both, as --folds 5 --fold 0"
        raise utils.InputError(message)
    if folds is not None and fold >= folds:
        message = f"--fold {fold}: with --folds {folds}, the parts are 0 to {folds - 1}"
        raise utils.InputError(f"{message}; give one of them")
    files = find_files(args, SPLITS)
    teacher = getattr(args, "soft_labels", None)
    if teacher and folds:
        told = "its teachers have learnt every fold; leave --folds out"
        raise utils.InputError(f"--soft-labels: {told}")
    if teacher:
        scores = teacher / "dev.scores.jsonl"
        if not scores.is_file():
            told = "holds no run that scored lines; give --soft-labels an average (ensemble.py)"
            raise utils.InputError(f"{teacher}: {told}")
        files = files | {"soft_labels": scores}
    answers = getattr(args, "answers", None)
    if answers and os.path.isfile(answers):  # else it is refused when it is read
        files = files | {"answers": answers}
    run.note_files(files)
    if run.is_complete():
        return None
    rows = {"train": utils.read_corpus(files["train"], labelled=True)}
    labels = utils.labels_of(rows["train"])
    rows["dev"] = utils.read_corpus(files["dev"], labelled=True, labels=labels)
    labelled = {"train", "dev"}
    if "test" in files:
        _, is_labelled = summarise(files["test"], labels)
        rows["test"] = list(utils.iter_corpus(files["test"], is_labelled, labels, warn=False))
        labelled |= {"test"} if is_labelled else set()
    if folds is not None:
        pooled = rows["train"] + rows["dev"]
        for split in ("train", "dev"):
            check_ids(rows[split], files[split])
        check_ids(pooled, f"{files['train']} and {files['dev']}, which --folds pools")
        rows |= split_fold(pooled, labels, folds, fold)
    warn_of_repeats(rows)
    gold = {split: utils.encode_labels(rows[split], labels) for split in labelled}
    in_train, in_dev = (gold[split].sum(axis=0) > 0 for split in ("train", "dev"))
    warn_of_unseen("train", labels, ~in_train)
    warn_of_unseen("dev", labels, in_train & ~in_dev)
    return Corpora(rows, list(labels), gold)


def check_to_predict(
    args: argparse.Namespace, run: Run, labels: Sequence[str]
) -> dict[str, tuple[Path, int, bool]]:
    """By split, the files to predict, their number of lines, and whether they are labelled.

    Raises:
        utils.InputError: as `find_files` and `summarise`.
    """
    files = find_files(args, ("dev", "test"))
    checked = {split: (path, *summarise(path, labels, True)) for split, path in files.items()}
    run.note_files(files)
    return checked


def split_fold(rows: list[utils.Row], labels: Sequence[str], folds: int, fold: int) -> Rows:
    """One of the ways to part labelled rows in `folds`: part `fold` is "dev", the others "train".

    Each combination of labels is spread evenly, and all lines of a sentence go to the same part.
    The same rows are parted alike on every machine, whatever `--seed` is.

    Raises:
        utils.InputError: there are too few sentences.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    encoded = utils.encode_labels(rows, labels)
    combinations, about = np.unique(encoded, axis=0, return_inverse=True)[1], sentences(rows)
    if np.bincount(combinations).max() < folds:  # as of many labels: nothing can be spread
        combinations[:] = 0
    if about.max() + 1 < folds:
        few = f"{len(rows)} lines" if len(rows) < folds else f"{about.max() + 1} sentences"
        told = f"--folds {folds}: {few} are too few for so many parts; give a smaller K"
        raise utils.InputError(told)
    parted = StratifiedGroupKFold(folds, shuffle=True, random_state=0)
    with warnings.catch_warnings():  # rare combinations are spread as can be
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        every = list(parted.split(rows, combinations, about))
    if not all(len(dev) for _, dev in every):  # as may be of hardly more sentences than parts
        told = f"--folds {folds}: a part would have no line; give a smaller K"
        raise utils.InputError(told)
    return {
        split: [rows[index] for index in part]
        for split, part in zip(("train", "dev"), every[fold], strict=True)
    }


def sentences(rows: Sequence[utils.Row]) -> np.ndarray:
    """Which sentence each row is about, by number from 0, as they come: one with several targets
    has several rows.
    """
    numbers: dict[str, int] = {}
    read = (utils.normalise_text(row["input"]["form"]) for row in rows)
    return np.array([numbers.setdefault(text, len(numbers)) for text in read], dtype=np.int64)


def warn_of_repeats(corpora: Rows) -> None:
    """Warn where lines of train stand in dev or test too, by normalised text and target."""
    trained_on = set(map(utils.text_and_target, corpora["train"]))
    for split in [each for each in corpora if each != "train"]:
        repeated = sum(utils.text_and_target(row) in trained_on for row in corpora[split])
        if repeated:
            lines = len(corpora[split])
            share = f"all {lines}" if repeated == lines else f"{repeated} of the {lines}"
            utils.log.warning(
                "warning: %s lines of %s stand in train too; "
                "scores on them say nothing about other lines",
                share,
                split,
            )


def warn_of_unseen(split: str, labels: Sequence[str], unseen: np.ndarray) -> None:
    """Warn of the labels that no line of a split has, where `unseen` says so."""
    if unseen.any():
        named = ", ".join(itertools.compress(labels, unseen))
        utils.log.warning("warning: no line of %s is labelled %s", split, named)


def windows(path: Path | str) -> Iterator[list[utils.Row]]:
    """Yield the rows of a file in lists of WINDOW lines: one of any size can be predicted."""
    rows = utils.iter_corpus(path, warn=False)
    while window := list(itertools.islice(rows, WINDOW)):
        yield window


def summarise(path: Path | str, labels: Sequence[str], predicts: bool = False) -> tuple[int, bool]:
    """Check a file to predict, keeping nothing of it: its number of lines, whether all have labels.

    Args:
        predicts: whether other labels than `labels` are warned of, and not used.

    Raises:
        utils.InputError: as `utils.iter_corpus`, or all lines have labels, and others than these.
    """
    lines = labelled = first = 0
    for lines, row in enumerate(utils.iter_corpus(path), start=1):
        if utils.has_labels(row):
            labelled, first = labelled + 1, first or lines
    if 0 < labelled < lines:
        told = "warning: %s: %d of %d lines have labels; none is used (row %d is the first)"
        utils.log.warning(told, path, labelled, lines, first)
    if labelled < lines:
        return lines, False
    try:
        for _ in utils.iter_corpus(path, True, labels, warn=False):
            pass
    except utils.InputError as error:
        if not predicts:
            raise
        utils.log.warning("warning: %s; its labels are not used", error)
        return lines, False
    return lines, True


def check_ids(rows: Sequence[utils.Row], where: Path | str) -> None:
    """Raise utils.InputError where rows have no ids, or one twice, that are told apart by them."""
    seen: dict[str, int] = {}
    for number, row in enumerate(rows, start=1):
        id = row.get("id")
        if not isinstance(id, str) or not id.strip():
            told = "id: is missing; give every line an id, a text"
            raise utils.InputError(f"{where}: row {number}: {told}")
        if id in seen:
            message = f"id: {id!r} stands in row {seen[id]} too; make every id unique"
            raise utils.InputError(f"{where}: row {number}: {message}")
        seen[id] = number
