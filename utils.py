"""JSON Lines, labels, text, and micro-F1 with its threshold. Importing it is light."""

import functools
import json
import logging
import os
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import regex

ROOT = Path(__file__).resolve().parent
SAMPLE = ROOT / "data" / "sample"

Row = dict[str, Any]  # a line of a corpus file, see data/README.md
log = logging.getLogger("emotion")


class InputError(ValueError):
    """An argument or an input file is wrong; the message, one line, says how to mend it."""


class RunError(RuntimeError):
    """A run cannot go on, though nothing that it was given is wrong; the message is one line."""


# Corpus


def iter_corpus(
    path: Path | str, labelled: bool = False, labels: Sequence[str] | None = None, warn: bool = True
) -> Iterator[Row]:
    """Yield the rows of a corpus file, each checked, exactly as they stand in the file.

    What would change a text or a label is refused; of everything else that is not as the format
    has it, one warning tells at the end, with counts and the first line.

    Args:
        path: JSON Lines in UTF-8.
        labelled: refuse a row without labels, as in a file to train or tune on.
        labels: those that a labelled row must have; by default those of the first row.
        warn: whether to log the warning.

    Raises:
        InputError: at the first thing that is wrong, naming file, line, field and mend.
    """
    path = Path(path)
    odd: Counter[str] = Counter()
    first_odd = rows = 0
    for number, line in _lines(path):

        def refuse(what: str, mend: str, number: int = number) -> None:
            raise InputError(f"{path}: line {number}: {what}; {mend}")

        found = ["blank lines"]
        if line:
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                what = f"is not JSON ({getattr(error, 'msg', error)})"
                refuse(what, "write one JSON object on each line (of a table: data/convert.py)")
            found = _oddities(row, refuse)
            if labelled:
                labels = _check_labels(row, labels, refuse)
        odd.update(found)
        first_odd = first_odd or number * bool(found)
        if line:
            rows += 1
            yield row
    if not rows:
        raise InputError(f"{path}: is empty; put one JSON object on each line")
    if odd and warn:
        told = ", ".join(f"{kind} ({count})" for kind, count in odd.items())
        told += ' (write {"target": {"form": TEXT}})' * any("no text" in kind for kind in odd)
        log.warning("warning: %s: line %d first: %s; all lines are used", path, first_odd, told)


def read_corpus(
    path: Path | str, labelled: bool = False, labels: Sequence[str] | None = None
) -> list[Row]:
    """The rows of `iter_corpus` as a list."""
    return list(iter_corpus(path, labelled, labels))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (number from 1, stripped text) of the lines, but for blank ones at the end."""
    if not os.path.isfile(path):  # unlike the method, False for a name that no file can have
        kind = "is not a file" if os.path.exists(path) else "no such file"
        raise InputError(f"{path}: {kind}; give a .jsonl file")
    last = 0  # with a text; blank ones behind it are told only where another follows
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                if text:
                    yield from ((each, "") for each in range(last + 1, number))
                    yield number, text
                    last = number
    except UnicodeDecodeError as error:
        what = f"line {number}: byte {error.start + 1} is not UTF-8"
        raise InputError(f"{path}: {what}; save the file as UTF-8") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give another file") from None


def _oddities(row: Any, refuse: Callable) -> list[str]:
    """What of a row is not as the format has it and changes nothing; the rest is refused."""
    if not isinstance(row, dict):
        refuse(f"is a JSON {type(row).__name__}, not an object", "write one object on each line")
    given = row["input"] if isinstance(row.get("input"), dict) else {}
    form, target = given.get("form"), given.get("target")
    if not isinstance(form, str) or not _visible(form):
        refuse("input.form: is missing, blank or not a string", "put the sentence there")
    place: dict[str, Any] = target if isinstance(target, dict) else {}
    named, begin, end = place.get("form"), place.get("begin"), place.get("end")
    is_text = isinstance(named, str) or (named is None and (target is None or place is target))
    named = named if isinstance(named, str) else None
    id, output = row.get("id"), row.get("output") or {}
    is_span = type(begin) is type(end) is int and str(form)[max(begin, 0) : max(end, 0)] == named
    found = {
        "targets that are no text, read as none": not is_text,
        "blank targets, read as none": named and not named.strip(),
        "begin and end that do not fit the text": not is_span
        and (bool(named) or (begin, end) != (None, None)),
        "lines without an id": not isinstance(id, str) or not id.strip(),
        "outputs that are no object, read as none": not isinstance(output, dict),
        "broken characters": BROKEN.search(f"{id}{form}{named or ''}"),
    }
    return [kind for kind, is_there in found.items() if is_there]


def has_labels(row: Row) -> bool:
    """Whether a row is labelled: its `output` is an object that says something of some label."""
    output = row.get("output")
    return isinstance(output, dict) and any(value is not None for value in output.values())


def _check_labels(row: Row, labels: Sequence[str] | None, refuse: Callable) -> tuple[str, ...]:
    output: dict[str, Any] = row["output"] if has_labels(row) else {}
    if not output or "" in map(str.strip, output):
        what = "has a label without a name" if output else "has no labels"
        refuse(f"output: {what}", 'write {"joy": "True", ...} on every line')
    if name := next((name for name in output if name not in (labels or output)), None):
        refuse(f"output: {name!r} is no label of this corpus", f"use {', '.join(labels or ())}")
    for name in labels or output:
        if output.get(name) not in ("True", "False") and type(output.get(name)) is not bool:
            what = f"is {output[name]!r}" if name in output else "is missing"
            mend = 'write "True" or "False" for every label (of a table: data/convert.py --like)'
            refuse(f"output.{name}: {what}", mend)
    return tuple(labels or output)


def labels_of(rows: Sequence[Row]) -> tuple[str, ...]:
    """The labels of a labelled corpus, in the order of its first row."""
    return tuple(rows[0]["output"])


def encode_labels(rows: Sequence[Row], labels: Sequence[str]) -> np.ndarray:
    """Labels of the rows as zeros and ones, float32 [rows, labels], in the order of `labels`."""
    present = [[row["output"][name] in ("True", True) for name in labels] for row in rows]
    return np.array(present, dtype=np.float32).reshape(len(rows), len(labels))


def decode_labels(decision: Sequence[bool] | np.ndarray, labels: Sequence[str]) -> dict[str, str]:
    """One row of decisions, shape [labels], as the corpus writes it: {"joy": "True", ...}."""
    return {name: str(bool(value)) for name, value in zip(labels, decision, strict=True)}


# Text

# Names that the National Institute of Korean Language made anonymous: &name1&, &company-name&. A
# word that it does not use counts only with a hyphen or a number: "삼성&kt&엘지" names a company.
ANONYMISED = re.compile(
    r"&(?:(?:name|account|address|affiliation|company|location|others?)\d*"
    r"|[a-z]+(?:-[a-z]+)+\d*|[a-z]{3,}\d+)&"
)
REPEATED = re.compile(r"([^\w\s]|_|[\u3131-\u3163])\1{2,}")
BROKEN = re.compile("[\0\ud800-\udfff]")
BLANK = re.compile("[\0\ud800-\udfff\u2800\u3164\uffa0]")  # broken, or looks like a blank
# A control character or one that is not seen, but inside an emoji (Unicode TR 51)
UNSEEN = regex.compile(
    r"(?:\U0001F3F4[\U000E0020-\U000E007F]+|[0-9#*]\uFE0F(?=\u20E3)|\p{Extended_Pictographic}"
    r"[\uFE0E\uFE0F]?\p{EMod}?(?:\u200D\p{Extended_Pictographic}[\uFE0E\uFE0F]?\p{EMod}?)*)"
    r"(*SKIP)(*FAIL)|\p{Default_Ignorable_Code_Point}|[^\P{Cc}\s]"
)
LONE_JAMO = re.compile("[\u1100-\u11ff\ua960-\ua97f\ud7b0-\ud7ff\uffa1-\uffdc]")
BLOCKS = ((0x340, 0x345), (0x958, 0xFBA), (0x2ADC, 0x2ADD), (0xFB1D, 0xFB4F), (0x1D15E, 0x1D1C1))
CODES = (code for block in BLOCKS for code in range(*block))  # here NFC takes characters apart
APART = {unicodedata.normalize("NFC", chr(code)): chr(code) for code in CODES}
TAKEN_APART = re.compile("|".join(sorted((c for c in APART if len(c) > 1), key=len, reverse=True)))


def _letter(jamo: re.Match[str]) -> str:
    """The letter that a Hangul letter of another block stands for: ㅋ for U+110F and U+FFBB."""
    name = unicodedata.name(jamo[0], "").rpartition(" ")[2]
    try:
        return unicodedata.lookup(f"HANGUL LETTER {name}")
    except KeyError:
        return jamo[0]


def _visible(text: str) -> str:
    """Text without what is not seen, each character in its one spelling; not longer."""
    text = UNSEEN.sub("", BLANK.sub(" ", text))
    if not unicodedata.is_normalized("NFC", text) or TAKEN_APART.search(text):
        composed = unicodedata.normalize("NFC", text)
        composed = TAKEN_APART.sub(lambda found: APART[found[0]], composed)
        text = composed if len(composed) <= len(text) else text
    return " ".join(LONE_JAMO.sub(_letter, text).split())


def normalise_text(text: str) -> str:
    """Text as the models read it.

    What is not seen goes, but inside an emoji; what looks like a blank is one, and blanks are
    folded to single spaces; Unicode is NFC, lone Hangul letters are those of U+3131 to U+3163.
    Anonymised names (`&name1&`) go; a run of one punctuation mark or of one Korean emoticon letter
    (ㅋ, ㅎ, ㅠ) becomes two. Applying it again changes nothing, and it never lengthens. A text of
    anonymised names alone keeps them.
    """

    def shorten(run: re.Match[str]) -> str:
        mark = run[1]
        is_letter = mark.isalpha()  # the pattern admits no letters but the Korean ones
        is_mark = mark in string.punctuation or unicodedata.category(mark).startswith("P")
        return mark * 2 if is_letter or is_mark else run[0]

    after = seen = _visible(text)
    while (shorter := REPEATED.sub(shorten, ANONYMISED.sub("", after))) != after:
        after = _visible(shorter)  # removing a name can join what stood around it
    return after or seen


def text_and_target(row: Row, normalise: bool = True) -> tuple[str, str | None]:
    """The sentence of a row as models read it, and its target or None; normalised, or as it is."""
    target = row["input"].get("target")
    named = target.get("form") if isinstance(target, dict) else None
    read = normalise_text if normalise else functools.partial(BROKEN.sub, " ")
    named = read(named).strip() if isinstance(named, str) else None
    return read(row["input"]["form"]), named or None


# Decision rule and metrics


def tune_threshold(labels: np.ndarray, probabilities: np.ndarray, average: str = "micro") -> float:
    """The one threshold that maximises F1 on these lines.

    One value serves all labels: the threshold that maximises the expected micro-F1 is the same for
    every label (Lipton et al. 2014, arXiv:1402.1892), and one for each overfits where a label has
    few lines.

    Args:
        labels: zeros and ones, shape [lines, labels].
        probabilities: shape [lines, labels].
        average: of F1, "micro" or "macro".

    Returns:
        The threshold, midway between the two probabilities that it parts; 0.5 without positives.
    """
    if not labels.sum():
        return 0.5
    descending = np.argsort(-probabilities, axis=None, kind="stable")
    cuts = probabilities.ravel()[descending].astype(np.float64)
    present = labels.ravel()[descending]
    label = descending % labels.shape[1] if average == "macro" else 0 * descending
    rises = np.zeros(len(cuts))  # of F1, from one cut to the next
    for own in (label == each for each in np.unique(label)):
        sizes = np.arange(1, own.sum() + 1) + present[own].sum()
        rises[own] = np.diff(2 * present[own].cumsum(dtype=np.float64) / sizes, prepend=0)
    reached = rises.cumsum().round(12)
    following = np.append(cuts[1:], -1.0)
    reached[cuts == following] = -1.0  # a cut cannot part equal probabilities
    best = reached.argmax()
    return max(0.0, float(cuts[best] + following[best]) / 2)


def decide(probabilities: np.ndarray, threshold: Any, at_least_one: bool = False) -> np.ndarray:
    """Which labels are present, boolean [.., labels]; the most probable one, if `at_least_one`."""
    decisions = probabilities >= np.asarray(threshold)  # one, or one for each label
    if at_least_one:
        np.put_along_axis(decisions, probabilities.argmax(-1, keepdims=True), True, axis=-1)
    return decisions


def micro_f1(labels: np.ndarray, decisions: np.ndarray) -> float:
    """2 TP / (2 TP + FP + FN) over all lines and labels; 0 where none is present or predicted."""
    both = np.logical_and(labels, decisions).sum()
    return float(2 * both / max(labels.sum() + decisions.sum(), 1))


def macro_f1(labels: np.ndarray, decisions: np.ndarray) -> float:
    """The mean of the labels' F1; 0 of one that is neither present nor predicted."""
    return float(np.mean([micro_f1(*each) for each in zip(labels.T, decisions.T, strict=True)]))
