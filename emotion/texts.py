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
DELIMITERS = {"csv": ",", "tsv": "\t"}  # of tables
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
            there already, or has an ending of another form.
    """
    target, path = args.target, args.input
    if args.texts and path:
        raise utils.InputError("sentences and --input: give one of them")
    form = path and (args.format or path.suffix.lower().removeprefix("."))
    if form not in (None, *FORMATS):
        told = f"of what form is it? give --format, of {', '.join(FORMATS)}"
        raise utils.InputError(f"{path}: {told}")
    if target and args.target_column:
        raise utils.InputError("--target and --target-column: give one of them")
    if args.output:
        check_output(args.output, form)
    for flag in ("format", "text_column", "target_column", "target"):
        is_misplaced = form == "jsonl" if flag == "target" else form not in DELIMITERS
        is_misplaced = path is None if flag == "format" else is_misplaced
        if getattr(args, flag) and is_misplaced:
            told = f"is not for {'sentences' if path is None else form}; leave it out"
            told += ", and give a table by --input" * (path is None and not args.texts)
            raise utils.InputError(f"--{flag.replace('_', '-')}: {told}")
    if args.texts:
        return Source("screen", [], ((text, target, {}) for text in args.texts))
    if path is None:
        return Source("lines", [], ((line, target, {}) for line in lines_of_stdin()))
    if form == "txt":
        text = tables.read_text(path)
        if not text:
            raise utils.InputError(f"{path}: has no lines; give some")
        lines = (line.rstrip("\r\n") for line in io.StringIO(text))
        return Source("lines", [], ((line, target, {}) for line in lines))
    if form == "jsonl":
        data.summarise(path, (), predicts=True)
        rows = utils.iter_corpus(path, warn=False)
        return Source(form, [], ((row["input"]["form"], place_of(row), row) for row in rows))
    return open_table(path, form, args)


def check_output(path: Path, form: str | None) -> None:
    """Raise utils.InputError if predictions on what has this form cannot be written to a path."""
    outputs.check_new(path)
    written = f".{form}" if form in DELIMITERS else ".jsonl"
    known = (".csv", ".tsv", ".jsonl", ".xlsx", ".xls")
    if path.suffix.lower() in known and path.suffix.lower() != written:
        told = "predictions come in the form of what is read, those on plain lines as JSON Lines"
        raise utils.InputError(f"{path}: {told}; here that is {written}; name it so")


def check_nothing_to_read(args: argparse.Namespace) -> None:
    """Raise utils.InputError if predict.py is to read something, beside what its page is given."""
    files = ("target", "input", "output", "format", "text_column", "target_column")
    given = [f"--{name.replace('_', '-')}" for name in files if getattr(args, name)]
    if args.texts or given:
        what = given[0] if given else "a sentence"
        raise utils.InputError(f"--serve: {what} is not for a page; leave it out")


def place_of(row: utils.Row) -> dict[str, Any] | None:
    """The target of a row of a corpus and its place; None where that is no text."""
    target = row["input"].get("target")
    return target if isinstance(target, dict) and isinstance(target.get("form"), str) else None


def open_table(path: Path, form: str, args: argparse.Namespace) -> Source:
    """A table to read.

    Raises:
        utils.InputError: it cannot be read, or has no such columns.
    """
    columns, rows = tables.read_table(path, DELIMITERS[form])
    names = list(map(tables.column, columns))
    known = [name for name in TEXT_COLUMNS if name in names]
    column = args.text_column or next(iter(known), None)
    for flag, name in (("--text-column", column), ("--target-column", args.target_column)):
        if name not in names and (name or flag == "--text-column"):
            told = f"has no column {name or ' or '.join(TEXT_COLUMNS)!r}; its columns are"
            mend = f"give {flag}, if the first line names columns, parted by {DELIMITERS[form]!r}"
            raise utils.InputError(f"{path}: {told} {', '.join(map(repr, columns))}; {mend}")
    named = args.target_column

    def items() -> Iterator[tuple[str, str | None, dict[str, Any]]]:
        for _, cells in rows:
            yield cells[column or ""], (cells[named] or None) if named else args.target, cells

    return Source(form, columns, items())


def lines_of_stdin() -> Iterator[str]:
    """The lines of standard input, as they come.

    Raises:
        utils.InputError: it is closed, or not in UTF-8.
    """
    if sys.stdin is None:
        raise utils.InputError("nothing to read: give a sentence, --input, or standard input")
    if sys.stdin.isatty():
        print("write a text a line; an end of file (Ctrl-D) ends it", file=sys.stderr)
    for number, raw in enumerate(sys.stdin.buffer, start=1):
        try:
            yield raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError:
            told = f"standard input: line {number}: is not UTF-8; convert it, or give --input FILE"
            raise utils.InputError(told) from None


@contextlib.contextmanager
def open_sink(
    args: argparse.Namespace, source: Source
) -> Iterator[Callable[[Window, list[Result]], None]]:
    """What writes results: into a file that appears when it is whole, or to standard output."""
    with contextlib.ExitStack() as stack:
        file: Any = sys.stdout
        if args.output:
            file = stack.enter_context(outputs.whole_file(args.output))
        if file is None:
            raise utils.RunError("standard output is closed; give --output FILE")
        is_table = source.format in DELIMITERS
        delimiter = DELIMITERS.get(source.format, ",")
        table = csv.writer(file, delimiter=delimiter, lineterminator="\r\n")  # RFC 4180
        begun = False

        def write(window: Window, results: list[Result]) -> None:
            nonlocal begun
            labels = list(results[0]["scores"])
            if is_table and not begun:
                names = list(map(tables.column, source.columns))
                table.writerow([*source.columns, *new_columns(labels, names)])
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
    names = list(columns)
    for name in ("emotions", *labels):
        tried = itertools.chain(
            [name, f"{name} (predicted)"], (f"{name} (predicted {n})" for n in itertools.count(2))
        )
        names.append(next(each for each in tried if each not in names))
    return names[len(columns) :]


def drawn(result: Result) -> str:
    """A result as a table for the screen: each label, its probability, whether it is present."""
    target = f"  [{result['target']}]" if result["target"] else ""
    lines = [f"{result['text']}{target}"]
    width = max(map(len, result["scores"]))
    for name, score in result["scores"].items():
        mark = "*" if name in result["emotions"] else " "
        bar = "█" * round(BAR * (score or 0))
        told = "    -" if score is None else f"{score:.3f}"  # of a text that shows nothing
        lines.append(f"  {mark} {name:<{width}}  {told}  {bar}")
    return "\n".join(lines)
