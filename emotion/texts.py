"""Texts in and emotions out: sentences, standard input, corpus files, tables, plain text."""

import argparse
import contextlib
import csv
import io
import itertools
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import utils
from emotion import data, outputs, tables

FORMATS = ("jsonl", "csv", "tsv", "txt")
TEXT_COLUMNS = ("text", "form", "sentence", "문장", "텍스트")
WINDOW = 1024  # texts that are read, scored and written before the next are read
BAR = 20  # characters of a probability of 1
Result = dict[str, Any]  # {"text", "target", "emotions", "scores"}


class Window(NamedTuple):
    """Texts in their order, their targets, and the rows of a table or corpus that they are of."""

    texts: list[str]
    targets: list[Any]  # strings, or as a corpus has them
    rows: list[dict[str, Any]]


class Source(NamedTuple):
    """Where texts come from: their format, the columns of a table, and what gives
    (text, target, row).
    """

    format: str
    columns: list[str]
    items: Iterable[tuple[str, Any, dict[str, Any]]]

    def windows(self) -> Iterator[Window]:
        """The texts, WINDOW at a time."""
        items = iter(self.items)
        while window := list(itertools.islice(items, WINDOW)):
            read, targets, rows = zip(*window, strict=True)
            yield Window(list(read), list(targets), list(rows))


def open_source(args: argparse.Namespace) -> Source:
    """What the arguments of predict.py name to read: sentences, a file, or standard input.

    Raises:
        utils.InputError: a file cannot be read, or its form is not known; what is to be written is
            there already.
    """
    target, path = args.target, args.input
    if args.texts and path:
        raise utils.InputError("sentences and --input: give one of them")
    if args.output and args.output.exists():
        told = "is there, and nothing is overwritten; give another --output"
        raise utils.InputError(f"{args.output}: {told}")
    if args.texts:
        return Source("screen", [], ((text, target, {}) for text in args.texts))
    if path is None:
        sys.stdin.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]
        return Source("lines", [], ((line.rstrip("\r\n"), target, {}) for line in sys.stdin))
    form = args.format or path.suffix.lower().removeprefix(".")
    if form not in FORMATS:
        raise utils.InputError(
            f"{path}: of what form is it? give --format, of {', '.join(FORMATS)}"
        )
    if form == "txt":
        lines = (line.rstrip("\n") for line in io.StringIO(tables.read_text(path)))
        return Source("lines", [], ((line, target, {}) for line in lines))
    if form == "jsonl":
        data.summarise(path, (), predicts=True)
        rows = utils.iter_corpus(path, warn=False)
        given = ((row["input"]["form"], row["input"].get("target"), row) for row in rows)
        return Source(form, [], given)
    return open_table(path, form, args)


def open_table(path: Path, form: str, args: argparse.Namespace) -> Source:
    """A table to read.

    Raises:
        utils.InputError: it cannot be read, or has no such columns.
    """
    columns, rows = tables.read_table(path, "\t" if form == "tsv" else ",")
    known = [name for name in TEXT_COLUMNS if name in columns]
    column = args.text_column or next(iter(known), None)
    for flag, name in (("--text-column", column), ("--target-column", args.target_column)):
        if name not in columns and (name or flag == "--text-column"):
            told = f"has no column {name or ' or '.join(TEXT_COLUMNS)!r}; it has"
            raise utils.InputError(f"{path}: {told} {', '.join(columns)}; give {flag}")
    named = args.target_column

    def items() -> Iterator[tuple[str, str | None, dict[str, Any]]]:
        for _, cells in rows:
            yield cells[column or ""], (cells[named] or None) if named else args.target, cells

    return Source(form, columns, items())


@contextlib.contextmanager
def open_sink(
    args: argparse.Namespace, source: Source
) -> Iterator[Callable[[Window, list[Result]], None]]:
    """What writes results: into a file that appears when it is whole, or to standard output."""
    path = args.output
    with contextlib.ExitStack() as stack:
        file: Any = sys.stdout if path is None else stack.enter_context(outputs.whole_file(path))
        is_table = source.format in ("csv", "tsv")
        mark = "\t" if source.format == "tsv" else ","
        table = csv.writer(file, delimiter=mark, lineterminator="\n")
        begun = False

        def write(window: Window, results: list[Result]) -> None:
            nonlocal begun
            labels = list(results[0]["scores"])
            if is_table and not begun:
                table.writerow([*source.columns, *new_columns(labels, source.columns)])
            begun = True
            for row, result in zip(window.rows, results, strict=True):
                scores = result["scores"]
                if is_table:
                    found = ["" if scores[name] is None else scores[name] for name in labels]
                    table.writerow([*row.values(), ",".join(result["emotions"]), *found])
                elif source.format == "jsonl":
                    present = [name in result["emotions"] for name in labels]
                    filled = row | {"output": utils.decode_labels(present, labels)}
                    print(json.dumps(filled | {"scores": scores}, ensure_ascii=False), file=file)
                elif source.format == "screen" and file is sys.stdout and file.isatty():
                    print(drawn(result), file=file)
                else:
                    print(json.dumps(result, ensure_ascii=False), file=file)
            file.flush()

        yield write


def new_columns(labels: list[str], columns: list[str]) -> list[str]:
    """The names of the columns that a prediction adds, none of which is there already."""
    return [f"{name} (predicted)" if name in columns else name for name in ("emotions", *labels)]


def drawn(result: Result) -> str:
    """A result as a table for the screen: each label, its probability, whether it is present."""
    target = f"  [{result['target']}]" if result["target"] else ""
    lines = [f"{result['text']}{target}"]
    width = max(map(len, result["scores"]))
    for name, score in result["scores"].items():
        mark = "*" if name in result["emotions"] else " "
        bar = "█" * round(BAR * (score or 0))
        lines.append(f"  {mark} {name:<{width}}  {score or 0:.3f}  {bar}")
    return "\n".join(lines)
