"""Sentence and target of a row as models read them; the target marked where its place is known."""

import argparse
import re
from collections.abc import Sequence
from typing import Any

import utils
from emotion.vocabulary import as_text

MARKS = ("<<", ">>")  # before a target and behind it
BEGIN, END = "\ufdd0", "\ufdd1"  # characters of no text, which stand for the marks
NO_MARKS = str.maketrans({BEGIN: " ", END: " "})
NOTHING = re.compile(rf"{BEGIN}\s*{END}")


def reading(args: argparse.Namespace) -> tuple[bool, tuple[str, str] | None]:
    """How `--normalise` and `--target` have lines read: `normalises` and `marks` of `read`."""
    return args.normalise == "on", MARKS if args.target == "marked" else None


def read(
    rows: Sequence[utils.Row], tokenizer: Any, normalises: bool, marks: Sequence[str] | None
) -> list[tuple[str, str | None]]:
    """Sentence and target of each row as a model reads them; nothing in them is a special token.

    Args:
        normalises: whether as of `utils.normalise_text`.
        marks: what stands before and behind a target in its sentence; None: nothing.
    """
    pairs = [utils.text_and_target(mark(row) if marks else row, normalises) for row in rows]
    texts = [put_marks(marks, text, target or "") if marks else text for text, target in pairs]
    named = as_text([target or "" for _, target in pairs], tokenizer)
    return list(zip(as_text(texts, tokenizer), (each or None for each in named), strict=True))


def tell_of_long(rows: Sequence[utils.Row], told: str, mend: str, predicts: bool) -> None:
    """Warn of rows whose targets are too long for a model, if there are any.

    Args:
        told: how long the first is, and what the model takes.
        predicts: whether they are used, cut.

    Raises:
        utils.InputError: they are not.
    """
    if not rows:
        return
    id, form = rows[0].get("id"), rows[0]["input"]["form"]
    first = f"the line {form[:20]!r}" if id is None else f"id {id!r}"
    told = f"{first}: input.target.form: {told}"
    if not predicts:
        raise utils.InputError(f"{told}; {mend}")
    more = f", as of {len(rows) - 1} more" if len(rows) > 1 else ""
    utils.log.warning("warning: %s; a part is read of it%s", told, more)


def put_marks(marks: Sequence[str], text: str, target: str) -> str:
    """A text with the marks in the place of BEGIN and END; between them the target, where that is
    an anonymised name, and gone.
    """
    text = NOTHING.sub(lambda _: f"{BEGIN}{target}{END}", text)
    return text.replace(BEGIN, marks[0]).replace(END, marks[1])


def unplace_some(rows: dict[str, list[utils.Row]]) -> dict[str, list[utils.Row]]:
    """Rows by split; of every fourth of train the target is without its place, since a model that
    has seen marked targets alone is lost where the place of one is not known.
    """
    read = enumerate(rows["train"], start=1)
    train = [row if number % 4 else unplaced(row) for number, row in read]
    return rows | {"train": train}


def unplaced(row: utils.Row) -> utils.Row:
    """A row whose target has no place."""
    target = row["input"].get("target")
    named = {"form": target.get("form")} if isinstance(target, dict) else target
    return row | {"input": row["input"] | {"target": named}}


def mark(row: utils.Row) -> utils.Row:
    """A row whose sentence has BEGIN and END around its target, if that stands in its place."""
    form, target = row["input"]["form"], row["input"].get("target")
    named, begin, end = (
        target.get(key) if isinstance(target, dict) else None for key in ("form", "begin", "end")
    )
    is_place = type(begin) is type(end) is int and begin >= 0
    parts = [form]
    if is_place and named and form[begin:end] == named and utils.normalise_text(named):
        parts = [form[:begin], named, form[end:]]
    before, *more = (each.translate(NO_MARKS) for each in parts)
    marked = f"{before}{BEGIN}{more[0]}{END}{more[1]}" if more else before
    return row | {"input": row["input"] | {"form": marked}}
