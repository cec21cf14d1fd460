"""Tables as spreadsheets export them: .csv or .tsv, in UTF-8 or cp949."""

import csv
import io
import itertools
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import utils


def read_text(path: Path) -> str:
    """The content of a file in UTF-8, or else in cp949 (Korean Windows), which is told.

    Raises:
        utils.InputError: it cannot be read, or is in neither.
    """
    try:
        raw = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise utils.InputError(f"{path}: cannot be read ({reason}); give a file") from None
    for encoding in ("utf-8-sig", "cp949"):
        try:
            text = raw.decode(encoding)
        except UnicodeDecodeError:
            continue
        if encoding != "utf-8-sig":
            utils.log.warning("%s: is not UTF-8, and was read as %s", path, encoding)
        return text
    raise utils.InputError(f"{path}: is neither UTF-8 nor cp949; save it as UTF-8")


def column(name: str) -> str:
    """The name of a column in NFC, whatever system wrote it; an argparse type."""
    return unicodedata.normalize("NFC", name)


def read_table(
    path: Path, delimiter: str | None = None
) -> tuple[list[str], Iterator[tuple[int, dict[str, str]]]]:
    """The columns of a table, as they are written, and its rows, by names of columns in NFC, each
    behind the number of its last line.

    Args:
        delimiter: None: a tab where the name of the file ends in .tsv, else a comma.

    Raises:
        utils.InputError: as `read_text`; it has no header, or a row has other columns than that.

    A blank line is an empty cell where there is one column, but at the end; else it is left out,
    which one warning tells.
    """
    delimiter = delimiter or ("\t" if path.suffix.lower() == ".tsv" else ",")
    text = read_text(path)
    records = read_records(path, text, delimiter)
    columns = next(records, (0, []))[1]
    names = list(map(column, columns))
    if not any(map(str.strip, columns)) or len(set(names)) < len(names):
        mend = "name each column, in the first line"
        raise utils.InputError(f"{path}: has no header, or a column twice; {mend}")
    is_empty, blank = True, []
    for number, values in records:  # all, before one is used
        if not values:
            blank.append(number)
        elif len(values) != len(columns):
            told = f"has {len(values)} columns, and the first line {len(columns)}"
            other = next((mark for mark in ";\t" if len(columns) == 1 and mark in columns[0]), None)
            mend = f"save it parted by {delimiter!r}, not {other!r}" if other else "mend it"
            raise utils.InputError(f"{path}: line {number}: {told}; {mend}")
        is_empty = is_empty and not values
    if is_empty:
        raise utils.InputError(f"{path}: has no rows; give some")
    if blank:
        told = "warning: %s: blank lines (%d): line %d first: they are left out"
        utils.log.warning(told, path, len(blank), blank[0])
    again = itertools.islice(read_records(path, text, delimiter), 1, None)
    return columns, ((n, dict(zip(names, each, strict=True))) for n, each in again if each)


def read_records(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The number of its last line, and the values, of each record of a table."""
    csv.field_size_limit(2**31 - 1)
    lines = io.StringIO(text.rstrip("\r\n"), newline="")
    reader, is_one = csv.reader(lines, delimiter=delimiter, strict=True), False
    try:
        for number, values in enumerate(reader):
            yield reader.line_num, values or [""] * is_one
            is_one = is_one if number else len(values) == 1
    except csv.Error as error:  # as of a quote that nothing closes
        told = f"line {reader.line_num}: is no table ({error}); mend it"
        raise utils.InputError(f"{path}: {told}") from None
