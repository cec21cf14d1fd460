"""Turn a public corpus, or a table, into the format of this repository.

    python data/convert.py CORPUS SOURCE OUT  a corpus as it is published, in the directory SOURCE,
                                              to train, dev and test.jsonl in the directory OUT
    python data/convert.py table FILE.csv OUT.jsonl --text COLUMN --labels COLUMN [COLUMN ...]
                                              a spreadsheet's export (.csv, or .tsv): each label a
                                              column of 1 and 0; or --labels COLUMN --separator ,
                                              one column of the names of labels (of dev and test,
                                              with --like train.jsonl: rare ones may not be there)

    CORPUS         SOURCE
    kote           a clone of searle-j/KOTE (Korean comments, MIT); 44 labels folded to eight
    kote44         the same, with its 44 labels
    xed            a clone of Helsinki-NLP/XED (English subtitles, CC BY 4.0)
    goemotions     data/original of monologg/GoEmotions-pytorch, or goemotions/data of
                   google-research (English Reddit comments, 28 labels, Apache-2.0)
    goemotions-ko  data of monologg/GoEmotions-Korean (the same, translated by machine, Apache-2.0)
    mams           data/MAMS-ATSA/raw of siat-nlp/MAMS-for-ABSA (English restaurant reviews;
                   positive, negative or neutral towards each of several targets, Apache-2.0)

Splits stay as they are published. XED is one file, split here by a fixed seed: 1,500 lines to test,
1,000 to dev, the rest to train, and all lines of one sentence to the same split.
"""

import argparse
import contextlib
import csv
import functools
import itertools
import json
import os
import random
import sys
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Literal
from xml.parsers import expat

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import utils
from emotion import cli, data, outputs, process, tables

KOTE_FILES = {"train": "train.tsv", "dev": "val.tsv", "test": "test.tsv"}
KOTE_NAMES = (  # in the order that KOTE publishes its labels in, numbered from 0
    "불평/불만 환영/호의 감동/감탄 지긋지긋 고마움 슬픔 화남/분노 존경 기대감 우쭐댐/무시함 "
    "안타까움/실망 비장함 의심/불신 뿌듯함 편안/쾌적 신기함/관심 아껴주는 부끄러움 공포/무서움 "
    "절망 한심함 역겨움/징그러움 짜증 어이없음 없음 패배/자기혐오 귀찮음 힘듦/지침 즐거움/신남 "
    "깨달음 죄책감 증오/혐오 흐뭇함(귀여움/예쁨) 당황/난처 경악 부담/안_내킴 서러움 재미없음 "
    "불쌍함/연민 놀람 행복 불안/걱정 기쁨 안심/신뢰"
)
KOTE_LABELS = KOTE_NAMES.split()
KOTE_ALONE = {name: (number,) for number, name in enumerate(KOTE_LABELS)}
KOTE_FOLDING = {  # the others are dropped
    "joy": (28, 40, 42),  # 즐거움/신남, 행복, 기쁨
    "anticipation": (8,),  # 기대감
    "trust": (7, 43),  # 존경, 안심/신뢰
    "surprise": (34, 39),  # 경악, 놀람
    "disgust": (21, 31),  # 역겨움/징그러움, 증오/혐오
    "fear": (18, 41),  # 공포/무서움, 불안/걱정
    "anger": (6,),  # 화남/분노
    "sadness": (5, 19, 36),  # 슬픔, 절망, 서러움
}
EMOTIONS = tuple(KOTE_FOLDING)  # as the national corpus orders them
XED_FILE = "AnnotatedData/en-annotated.tsv"
XED_ORDER = sorted(EMOTIONS)  # numbered from 1
XED_FOLDING = {name: (number,) for number, name in enumerate(XED_ORDER, start=1)}
XED_SIZES = {"test": 1500, "dev": 1000}
SEED = 42
GOEMOTIONS_FILES = {split: f"{split}.tsv" for split in data.SPLITS}
GOEMOTIONS_LABELS = ("labels.txt", "label.txt", "emotions.txt")  # as its publishers call it
MAMS_FILES = {"train": "train.xml", "dev": "val.xml", "test": "test.xml"}
POLARITIES = ("positive", "negative", "neutral")
YES = {"1", "1.0", "true", "yes", "y", "o"}  # in a table
NO = {"0", "0.0", "false", "no", "n", "x", ""}
Quoting = Literal[0, 1, 2, 3]  # of the csv module
Folding = Mapping[str, Collection[int]]  # label numbers by emotion
Tag = tuple[int, str, Any, str]  # line number, name, attributes, the text behind it


def read_tsv(
    path: Path, columns: Sequence[str], numbers: range, quoting: Quoting
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, fields by column) with those of "labels" a set of label numbers.

    Args:
        columns: their names, in their order; one is "labels".
        numbers: the range that the label numbers are of.
        quoting: of the csv module: whether quotes stand around a text, or belong to it.

    Raises:
        utils.InputError: at the first line that is not of this form.
    """
    mend = "give the corpus as it is published"
    try:
        lines = path.read_bytes().decode("utf-8-sig").removesuffix("\n").split("\n")
        table = csv.reader([f"{line}\n" for line in lines], delimiter="\t", quoting=quoting)
        records = [(table.line_num, record or [""]) for record in table]
    except (OSError, UnicodeDecodeError) as error:
        raise utils.InputError(f"{path}: cannot be read as UTF-8 ({error}); {mend}") from None
    except csv.Error as error:
        raise utils.InputError(f"{path}: line {table.line_num}: {error}; {mend}") from None
    for number, record in records:
        fields: dict[str, Any] = dict(zip(columns, map(str.strip, record), strict=False))
        try:
            labels = {int(label) for label in fields.get("labels", "").split(",")}
        except ValueError:
            labels = set()
        fits = len(record) == len(columns) and all(fields.values())
        if not fits or not labels or not labels <= set(numbers):
            told = f"is not {len(columns)} columns parted by tabs ({', '.join(columns)}), "
            told += f"labels as numbers from {numbers[0]} to {numbers[-1]} parted by commas"
            raise utils.InputError(f"{path}: line {number}: {told}; {mend}")
        yield number, fields | {"labels": labels}


def read_names(directory: Path) -> list[str]:
    """The names of the labels of GoEmotions, in the order of their numbers.

    Raises:
        utils.InputError: there is no list, or one that leaves it open which number a name has.
    """
    path = next(filter(os.path.isfile, (directory / name for name in GOEMOTIONS_LABELS)), None)
    if not path:
        told = f"has no list of labels ({', '.join(GOEMOTIONS_LABELS)})"
        raise utils.InputError(f"{directory}: {told}; put one there")
    names = [line.strip() for line in tables.read_text(path).rstrip().splitlines()]
    for number, name in enumerate(names or [""], start=1):
        if not name or name in names[: number - 1]:
            told = "is blank, or a name that stood before"
            raise utils.InputError(f"{path}: line {number}: {told}; write a label on each line")
    return names


def read_tags(path: Path) -> list[Tag]:
    """The tags of an XML file in order.

    Raises:
        utils.InputError: it cannot be read, or is not XML.
    """
    parser, mend = expat.ParserCreate(), "give the corpus as it is published"
    tags: list[tuple[int, str, Any, list[str]]] = []

    def note(name: str, attributes: dict[str, str] | None = None) -> None:
        tags.append((parser.CurrentLineNumber, name, attributes, []))

    parser.StartElementHandler = note
    parser.EndElementHandler = lambda name: note(f"/{name}")
    parser.CharacterDataHandler = lambda text: tags[-1][-1].append(text)
    try:
        parser.Parse(path.read_bytes(), True)
    except OSError as error:
        raise utils.InputError(f"{path}: cannot be read ({error.strerror}); {mend}") from None
    except (expat.ExpatError, LookupError, ValueError) as error:
        told = f"line {parser.ErrorLineNumber}: is not XML ({error})"
        raise utils.InputError(f"{path}: {told}; {mend}") from None
    return [(line, name, given, "".join(texts)) for line, name, given, texts in tags]


def make_row(
    id: str,
    text: str,
    present: Collection[str],
    labels: Sequence[str] = EMOTIONS,
    target: str | None = None,
    begin: int | None = None,
) -> utils.Row:
    """A row of this repository's format.

    Args:
        present: those of `labels` that the text shows.
        begin: where the target stands; by default, where it stands first.
    """
    if begin is None:
        begin = text.find(target) if target else -1
    span = {"begin": begin, "end": begin + len(target)} if target and begin >= 0 else {}
    place = {"form": target or None, "begin": None, "end": None} | span
    output = utils.decode_labels([name in present for name in labels], labels)
    return {"id": id, "input": {"form": text, "target": place}, "output": output}


def fold(numbers: set[int], folding: Folding) -> set[str]:
    """The emotions that label numbers stand for."""
    return {name for name, each in folding.items() if numbers & set(each)}


def kote_rows(path: Path, split: str, folding: Folding = KOTE_FOLDING) -> Iterator[utils.Row]:
    """Yield the rows of a split of KOTE."""
    columns, numbers = ("id", "text", "labels"), range(len(KOTE_LABELS))
    for _, fields in read_tsv(path, columns, numbers, csv.QUOTE_MINIMAL):
        present = fold(fields["labels"], folding)
        yield make_row(f"kote-{fields['id']}", fields["text"], present, tuple(folding))


def goemotions_rows(
    path: Path, split: str, name: str, columns: Sequence[str], quoting: Quoting
) -> Iterator[utils.Row]:
    """Yield the rows of a split of GoEmotions, with its own ids where it has any."""
    names = read_names(path.parent)
    for number, fields in read_tsv(path, columns, range(len(names)), quoting):
        id = f"{name}-{split}-{fields.get('id') or f'{number:05}'}"
        yield make_row(id, fields["text"], {names[each] for each in fields["labels"]}, names)


def wrong_in_target(text: str, given: dict[str, str]) -> str | None:
    """What is wrong with the attributes of a target of MAMS in its sentence, or None."""
    if missing := {"term", "polarity", "from", "to"} - given.keys():
        return f"has no {' and no '.join(sorted(missing))}"
    if given["polarity"] not in POLARITIES:
        return f"polarity is {given['polarity']!r}, none of {', '.join(POLARITIES)}"
    term, begin = given["term"], given["from"]
    is_number = begin.isdecimal() and given["to"] == str(int(begin) + len(term))
    if not term.strip() or not is_number or not text.startswith(term, int(begin)):
        return f"from {begin!r} to {given['to']!r} is not where the text has {term!r}"
    return None


def mams_rows(path: Path, split: str) -> Iterator[utils.Row]:
    """Yield the rows of a split of MAMS, one for each target of a sentence.

    Raises:
        utils.InputError: a target does not fit its sentence, or a sentence has none.
    """
    sentence, targets, text = 0, 0, ""
    for line, tag, given, behind in read_tags(path):
        wrong = None
        if tag == "sentence":
            sentence, targets, text = sentence + 1, 0, ""
        elif tag == "text":
            text = behind
        elif tag == "aspectTerm":
            targets += 1
            wrong = wrong_in_target(text, given) if sentence else "aspectTerm outside a sentence"
        elif tag == "/sentence" and not targets:
            wrong = "a sentence without aspectTerm"
        if wrong:
            mend = "mend it, or give MAMS-ATSA as it is published"
            raise utils.InputError(f"{path}: line {line}: {wrong}; {mend}")
        if tag == "aspectTerm":
            id, begin = f"mams-{split}-{sentence:04}-{targets}", int(given["from"])
            yield make_row(id, text, {given["polarity"]}, POLARITIES, given["term"], begin)


def convert_splits(
    source: Path,
    files: Mapping[str, str],
    origin: str,
    rows_of: Callable[[Path, str], Iterable[utils.Row]],
) -> data.Rows:
    """Rows by split, of the splits that are there; an id that stood before gets a number.

    Args:
        files: the name of each split's file.
        origin: what to give for `source`.
        rows_of: a function from the path and the name of a split to its rows.
    """
    splits: data.Rows = {}
    seen: set[str] = set()
    for split, name in files.items():
        if os.path.isfile(source / name):  # which no name is too long for
            splits[split] = list(rows_of(source / name, split))
            if not splits[split]:
                raise utils.InputError(f"{source / name}: has no line; give {origin}")
        else:
            process.tell(f"{source / name}: is not there, so {split}.jsonl is not written")
    if not splits:
        raise utils.InputError(f"{source}: has none of {', '.join(files.values())}; give {origin}")
    for row in itertools.chain(*splits.values()):
        ids = itertools.chain([row["id"]], (f"{row['id']}-{n}" for n in itertools.count(2)))
        row["id"] = next(id for id in ids if id not in seen)
        seen.add(row["id"])
    return splits


def convert_xed(source: Path) -> data.Rows:
    """Rows by split."""
    by_sentence: dict[str, list[utils.Row]] = {}
    columns, numbers = ("text", "labels"), range(1, 9)
    for number, fields in read_tsv(source / XED_FILE, columns, numbers, csv.QUOTE_NONE):
        text, present = fields["text"], fold(fields["labels"], XED_FOLDING)
        row = make_row(f"xed-en-{number:05}", text, present)
        by_sentence.setdefault(text, []).append(row)
    sentences = sorted(by_sentence)
    random.Random(SEED).shuffle(sentences)
    splits: data.Rows = {split: [] for split in data.SPLITS}
    for sentence in sentences:
        split = next(
            (name for name, size in XED_SIZES.items() if len(splits[name]) < size), "train"
        )
        splits[split] += by_sentence[sentence]
    if not splits["train"]:
        told = "has too few sentences for a split; give a clone of Helsinki-NLP/XED"
        raise utils.InputError(f"{source / XED_FILE}: {told}")
    return splits


def convert_table(args: argparse.Namespace) -> list[utils.Row]:
    """The rows of a table.

    Raises:
        utils.InputError: a column is not there, or a cell of a label says neither yes nor no.
    """
    columns, table = tables.read_table(args.source)
    for name in (args.text, args.target, *args.labels):
        if name is not None and name not in map(tables.column, columns):
            told = f"has no column {name!r}; it has {', '.join(columns)}; give one of these"
            told += ", or part columns by commas, in .tsv by tabs" * (len(columns) == 1)
            raise utils.InputError(f"{args.source}: {told}")
    if args.separator and len(args.labels) > 1:
        raise utils.InputError("--separator goes with one column of --labels; name that alone")
    if args.like and not args.separator:
        raise utils.InputError("--like goes with --separator; --labels names them already")
    rows: list[tuple[str, str, Collection[str], str | None]] = []
    labels: dict[str, None] = {} if args.separator else dict.fromkeys(args.labels)
    if args.like:
        labels = dict.fromkeys(utils.labels_of(utils.read_corpus(args.like, labelled=True)))
    for number, cells in table:
        if not cells[args.text].strip():
            told = f"line {number}: {args.text}: is blank; write a text, or delete the line"
            raise utils.InputError(f"{args.source}: {told}")
        if args.separator:
            present = dict.fromkeys(names_in(cells[args.labels[0]], args.separator))
            if wrong := args.like and next((name for name in present if name not in labels), None):
                told = f"{wrong!r} is no label of {args.like}; correct it, or convert that anew"
                raise utils.InputError(f"{args.source}: line {number}: {told}")
            labels |= present
        else:
            said = {name: cells[name].strip().lower() for name in labels}
            if wrong := next((name for name in labels if said[name] not in YES | NO), None):
                told = f"{wrong}: is {cells[wrong]!r}; write 1 or 0"
                told += ", or give --separator , if it names labels" * (len(labels) == 1)
                raise utils.InputError(f"{args.source}: line {number}: {told}")
            present = dict.fromkeys(name for name in labels if said[name] in YES)
        target = cells[args.target].strip() if args.target else None
        rows.append((f"{args.source.stem}-{number}", cells[args.text], present, target))
    if not labels:
        told = "names no label in any line; name the column that does"
        raise utils.InputError(f"{args.source}: {args.labels[0]}: {told}")
    marks = set(",;|\n、，")
    if args.separator and (odd := next((name for name in labels if set(name) & marks), None)):
        told = "warning: %s: %r is read as one label; if it is several, convert anew, with another"
        utils.log.warning(f"{told} --separator", args.source, odd)
    return [make_row(id, text, present, list(labels), target) for id, text, present, target in rows]


def names_in(cell: str, separator: str) -> Iterator[str]:
    """The labels that a cell names, in NFC; also one that holds a list, as pandas writes it."""
    cell = utils.UNSEEN.sub("", unicodedata.normalize("NFC", cell)).strip()
    is_list = cell.startswith("[") and cell.endswith("]")
    names = (cell[1:-1] if is_list else cell).split(separator)
    return filter(None, (name.strip().strip("\"'" * is_list).strip() for name in names))


def write_rows(rows: Iterable[utils.Row], file: IO[str]) -> None:
    """Write rows as JSONL, all of them: where there is no room, it is found out here."""
    file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    file.flush()


def write_file(rows: list[utils.Row], path: Path) -> None:
    """Write rows to a file that is not there yet, and check them as training does."""
    outputs.check_new(path)
    with outputs.whole_file(path) as file:
        write_rows(rows, file)
    try:
        utils.read_corpus(path, labelled=True)
    except utils.InputError as error:
        path.unlink()
        raise utils.InputError(f"what came of the table is no corpus: {error}") from None
    none = sum("True" not in row["output"].values() for row in rows)
    told = f"{path}: {len(rows)} lines, of the labels {', '.join(rows[0]['output'])}"
    process.tell(told + f"; {none} of them without any" * bool(none))


def write(splits: data.Rows, out: Path) -> None:
    """Write the rows of each split to a directory that holds nothing yet: of all, or of none."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        is_empty = not any(out.iterdir())
    except OSError as error:
        raise utils.InputError(
            f"{out}: cannot be written ({error.strerror}); give another"
        ) from None
    if not is_empty:
        raise utils.InputError(f"{out}: is not empty, and nothing is overwritten; give another")
    files = {split: out / f"{split}.jsonl" for split in splits}
    with contextlib.ExitStack() as stack:
        for split, rows in splits.items():
            write_rows(rows, stack.enter_context(outputs.whole_file(files[split])))
    process.tell("\n".join(f"{files[split]}: {len(rows)} lines" for split, rows in splits.items()))


def converter(
    files: Mapping[str, str], origin: str, rows_of: Callable[..., Iterator[utils.Row]], **given: Any
) -> Callable[[Path], data.Rows]:
    """A function from the directory of a corpus to its rows by split."""
    rows_of = functools.partial(rows_of, **given)
    return functools.partial(convert_splits, files=files, origin=origin, rows_of=rows_of)


CONVERTERS: dict[str, Callable[[Path], data.Rows]] = {
    "kote": converter(KOTE_FILES, "a clone of searle-j/KOTE", kote_rows),
    "kote44": converter(KOTE_FILES, "a clone of searle-j/KOTE", kote_rows, folding=KOTE_ALONE),
    "xed": convert_xed,
    "goemotions": converter(
        GOEMOTIONS_FILES,
        "data/original of monologg/GoEmotions-pytorch",
        goemotions_rows,
        name="goemotions",
        columns=("text", "labels", "id"),
        quoting=csv.QUOTE_MINIMAL,
    ),
    "goemotions-ko": converter(
        GOEMOTIONS_FILES,
        "data of monologg/GoEmotions-Korean",
        goemotions_rows,
        name="goemotions-ko",
        columns=("text", "labels"),
        quoting=csv.QUOTE_NONE,  # the translation broke them
    ),
    "mams": converter(MAMS_FILES, "data/MAMS-ATSA/raw of siat-nlp/MAMS-for-ABSA", mams_rows),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Convert."""
    parser = cli.ArgumentParser("convert.py", __doc__)
    parser.add_argument("corpus", choices=(*CONVERTERS, "table"))
    parser.add_argument("source", type=Path, metavar="SOURCE")
    parser.add_argument("out", type=Path, metavar="OUT")
    of_table = parser.add_argument_group("of a table")
    of_table.add_argument("--text", metavar="COLUMN", type=tables.column, help="the sentences")
    of_table.add_argument(
        "--target", metavar="COLUMN", type=tables.column, help="what each is about"
    )
    told = "one for each label, or with --separator one that names them"
    given: Any = {"metavar": "COLUMN", "type": tables.column, "nargs": "+", "action": "extend"}
    of_table.add_argument("--labels", **given, help=told)
    of_table.add_argument("--separator", metavar="MARK", help="between the labels of a cell")
    told = "a converted file (train.jsonl) whose labels to use; default: those found in this table"
    of_table.add_argument("--like", metavar="FILE", type=Path, help=told)
    cli.run_tool(parser, convert, argv)


def convert(args: argparse.Namespace) -> None:
    """Convert what the command line names."""
    if args.corpus == "table":
        if not args.text or not args.labels:
            raise utils.InputError("table: give --text COLUMN and --labels COLUMN ...")
        return write_file(convert_table(args), args.out)
    write(CONVERTERS[args.corpus](args.source), args.out)


if __name__ == "__main__":
    main()
