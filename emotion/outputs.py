"""Files of a run: JSON, predictions in the corpus's own format and scores, whole; its log."""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import sys
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

import utils
from emotion import process, statistics
from emotion.rules import Rule

AS_TEXT: dict[str, Any] = {"encoding": "utf-8", "errors": "backslashreplace"}
Scored = Iterable[tuple[list[utils.Row], np.ndarray]]  # (rows, probabilities) in the file's order


def part_of(path: Path) -> Path:
    """What is not whole yet of a file or directory."""
    return path.parent / f"{path.name}.partial"  # a path without a name, as ".", has one too


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[IO[str]]:
    """Open a text file to write that appears, whole, when the block has ended without an error.

    Raises:
        OSError: it cannot be written; with the path that was given, not that of the part.
    """
    partial = part_of(path)
    try:
        # half of a surrogate pair, which UTF-8 cannot hold, is written as JSON escapes it
        with partial.open("w", newline="", **AS_TEXT) as file:
            yield file
        partial.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):  # as of a disk that takes nothing
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(partial)):
            error.filename = str(path)
        raise


def check_new(path: Path) -> None:
    """Raise utils.InputError if a path is taken, or cannot be written to through its part."""
    for taken in (path, part_of(path)):
        if os.path.lexists(taken):  # which no name is too long for
            raise utils.InputError(f"{taken}: is there, and nothing is overwritten; give another")
    if not os.path.isdir(path.absolute().parent):
        raise utils.InputError(f"{path}: its directory is not there; make it")


def read_json(path: Path) -> Any:
    """The object of a JSON file; None where it is missing, broken or anything else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))  # a hand may have edited it
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def write_json(path: Path, value: Any) -> None:
    """Write an object as indented JSON; Korean stays readable."""
    with whole_file(path) as file:
        file.write(json.dumps(value, ensure_ascii=False, indent=2, default=str) + "\n")


def make_readable(directory: Path) -> None:
    """Let who may read a directory read the files below it: safetensors lets their owner alone."""
    mode = directory.stat().st_mode & 0o666
    for path in directory.rglob("*"):
        if path.is_file():
            path.chmod(mode)


def move_files(source: Path, directory: Path) -> None:
    """Move the files below a directory, each of them whole, to another, and remove the first."""
    make_readable(source)
    for file in [path for path in source.rglob("*") if path.is_file()]:
        place = directory / file.relative_to(source)  # chat templates may have a directory
        place.parent.mkdir(parents=True, exist_ok=True)
        file.replace(place)
    shutil.rmtree(source)


def check_sums(directory: Path) -> None:
    """Raise ValueError if a file below a directory, of torch.save, is not what was written; its
    checksums are in it, and torch.load leaves them alone.
    """
    for path in filter(zipfile.is_zipfile, directory.rglob("*")):
        with zipfile.ZipFile(path) as file:
            if part := file.testzip():
                raise ValueError(f"{path.name}: {part} is not what was written")


@contextlib.contextmanager
def resuming(path: Path) -> Iterator[None]:
    """Inside, what a library raises over a checkpoint that does not fit is a utils.InputError."""
    try:
        yield
    except Exception as error:  # each library has its own
        reason = str(error).rpartition("; ")[0] if isinstance(error, utils.InputError) else ""
        reason = reason.removeprefix(f"{path}: ") or process.cause(error)
        told = f"--resume: {path} is damaged, or of another version ({reason})"
        raise utils.InputError(f"{told}; give another --output-dir") from error


@contextlib.contextmanager
def saving(path: Path, partial: Path) -> Iterator[None]:
    """Inside, what a library raises where the disk is full, or takes no files any more, is a
    utils.RunError, and nothing is left of what was begun.

    Args:
        partial: where it is begun.
    """
    try:
        yield
    except Exception as error:  # each library has its own
        shutil.rmtree(partial, ignore_errors=True)
        if process.is_out_of_memory(error) or process.is_lost_peer(error):
            raise
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        free = shutil.disk_usage(next(each for each in path.parents if each.exists())).free
        reason += f"; {free / 2**20:,.0f} MiB are free"
        mend = "what was saved before is whole; mend that, and go on with --resume"
        raise utils.RunError(f"{path}: cannot be saved ({reason}); {mend}") from error


def tell_of_disk(directory: Path, trained: int) -> None:
    """Log what a training will write to the disk, and what is free.

    Args:
        trained: bytes of the parameters that are trained; AdamW holds twice as many beside them.
    """
    free, unit = shutil.disk_usage(directory).free, 2**20
    needed = 7 * trained  # best/, and two checkpoints while one takes the place of the other
    told = f"on the disk: {needed / unit:,.0f} MiB while this trains, {trained / unit:,.0f} MiB in "
    told += f"{directory / 'best'} in the end; {free / unit:,.0f} MiB are free"
    utils.log.log(logging.WARNING if free < needed else logging.INFO, told)


def write_predictions(
    directory: Path, split: str, chunks: Scored, labels: Sequence[str], rule: Rule, labelled: bool
) -> tuple[np.ndarray, np.ndarray] | None:
    """Write `<split>.jsonl`, the corpus with its `output` filled, and `<split>.scores.jsonl`.

    Args:
        chunks: in the order of the corpus; written as they come.

    Returns:
        (labels, probabilities) of all lines, [lines, labels]; None where they have no labels.
    """
    kept = []
    with (
        whole_file(directory / f"{split}.jsonl") as predictions,
        whole_file(directory / f"{split}.scores.jsonl") as scores,
    ):
        for rows, probabilities in chunks:
            decisions = rule(probabilities)
            for row, line, decision in zip(rows, probabilities, decisions, strict=True):
                filled = row | {"output": utils.decode_labels(decision, labels)}
                print(json.dumps(filled, ensure_ascii=False), file=predictions)
                named = dict(zip(labels, map(float, line), strict=True))
                scored = {"id": row.get("id"), "scores": named}
                print(json.dumps(scored, ensure_ascii=False), file=scores)
            if labelled:
                kept.append((utils.encode_labels(rows, labels), probabilities))
    if not kept:
        return None
    gold, found = zip(*kept, strict=True)
    return np.concatenate(gold), np.concatenate(found)


def metrics_table(
    split: str,
    labels: np.ndarray,
    metrics: dict[str, Any],
    rule: Rule,
    constant_answer: Sequence[str],
) -> str:
    """The metrics of one split as text for the screen.

    Args:
        constant_answer: the labels of the trivial baseline, where it is known.
    """
    per_emotion = metrics["per_emotion"]
    width = max(14, *(len(name) + 2 for name in per_emotion))
    lines = [f"{split:<{width}}{'precision':>10}{'recall':>10}{'F1':>10}{'support':>10}"]
    for name, scores in per_emotion.items():
        values = "".join(f"{scores[key]:>10.3f}" for key in ("precision", "recall", "f1"))
        lines.append(f"{name:<{width}}{values}{scores['support']:>10}")
    tuned, half = metrics["micro_f1"], metrics["micro_f1_at_0.5"]
    lines.append(f"micro-F1 {tuned:.4f} at {rule}, {half:.4f} at 0.5;")
    always = statistics.show_constant(labels, list(per_emotion), constant_answer)
    lines.append(f"macro-F1 {metrics['macro_f1']:.4f}{'; ' * bool(always)}{always}")
    return "\n".join(lines)


def comparison_table(
    split: str, gold: np.ndarray, comparison: dict[str, Any], constant_answer: Sequence[str]
) -> str:
    """The comparison of one split, of `statistics.compare`, as text for the screen.

    Pairs are those of kinds of systems, where some differ in their seeds alone.
    """
    labels = list(next(iter(comparison["systems"].values()))["per_emotion"])
    kinds = comparison.get("kinds")
    shown = comparison["systems"] | (kinds["systems"] if kinds else {})
    width = max(map(len, shown)) + 2
    count = f"{len(gold)} lines of {comparison['sentences']} sentences"
    drawn = "these, and of seeds where several are averaged" if kinds else "these"
    lines = [
        f"{split}, {count}, 95 % intervals from {comparison['resamples']} resamples of {drawn}:"
    ]
    named = "".join(f"{name[:9]:>10}" for name in labels)
    lines.append(f"{'':<{width}}{'micro-F1':<24}{'macro-F1':<24}{named}")
    for name, figures in shown.items():
        each = "".join(f"{figures['per_emotion'][label]['value']:>10.3f}" for label in labels)
        micro, macro = (statistics.show_interval(figures[f"{m}_f1"]) for m in ("micro", "macro"))
        lines.append(f"{name:<{width}}{micro:<24}{macro:<24}{each}")
    lines += filter(None, [statistics.show_constant(gold, labels, constant_answer)])
    pairs = (kinds or comparison)["pairs"]
    if pairs:
        told = "paired bootstrap, two-sided; by Holm's correction for their number"
        lines.append(f"difference of micro-F1, and p-values ({told}):")
    lines += [
        f"  {statistics.show_interval(pair)}  p {pair['p_value']:.4f}, corrected "
        f"{pair['p_holm']:.4f}  {pair['a']} - {pair['b']}"
        for pair in pairs
    ]
    return "\n".join(lines)


def open_log(directory: Path) -> None:
    """Tell on standard output and in `train.log`, which no other process may have open so.

    Raises:
        utils.InputError: one has.
    """
    log_file = logging.FileHandler(directory / "train.log", **AS_TEXT)
    if not process.lock(log_file.stream):
        log_file.close()
        told = "another process is at work there; let it end, or give another --output-dir"
        raise utils.InputError(f"{directory}: {told}")
    utils.log.handlers = [logging.StreamHandler(sys.stdout), log_file]
    utils.log.setLevel(logging.INFO)


def close_log() -> None:
    """Tell no more, and let other processes go on with the run."""
    for handler in utils.log.handlers:
        with contextlib.suppress(OSError):  # what is on the disk is all that there was room for
            handler.close()
    utils.log.handlers = []


def identify(path: Path) -> dict[str, Any]:
    """What tells a corpus file from another: {"file", "lines", "sha256" (hexadecimal)}."""
    digest, lines = hashlib.sha256(), 0
    with open(path, "rb") as file:
        for line in file:
            digest.update(line)
            lines += bool(line.strip())
    return {"file": path, "lines": lines, "sha256": digest.hexdigest()}
