"""Tables as spreadsheets export them: .csv or .tsv, in UTF-8 or cp949."""

import csv
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


def read_table(path: Path) -> tuple[list[str], Iterator[tuple[int, dict[str, str]]]]:
    """The columns of a table, and its rows, each behind the number of its last line.

    Args:
        path: parted by tabs where its name ends in .tsv, else by commas.

    Raises:
        utils.InputError: as `read_text`; it has no header, or a row has other columns than that.
    """
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    reader = csv.reader(read_text(path).splitlines(keepends=True), delimiter=delimiter)
    columns = next(reader, [])
    if not any(map(str.strip, columns)) or len(set(columns)) < len(columns):
        mend = "name each column, in the first line"
        raise utils.InputError(f"{path}: has no header, or a column twice; {mend}")

    def rows() -> Iterator[tuple[int, dict[str, str]]]:
        for values in reader:
            if values and len(values) != len(columns):
                told = f"has {len(values)} columns, and the first line {len(columns)}"
                raise utils.InputError(f"{path}: line {reader.line_num}: {told}; mend it")
            if values:
                yield reader.line_num, dict(zip(columns, values, strict=True))

    return columns, rows()
