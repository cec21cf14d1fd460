"""Turn a public corpus, or a table, into the format of this repository.

    python data/convert.py kote SOURCE OUT    a clone of searle-j/KOTE (Korean comments, MIT) to
                                              train, dev and test.jsonl in the directory OUT
    python data/convert.py xed SOURCE OUT     a clone of Helsinki-NLP/XED (English subtitles,
                                              CC BY 4.0), likewise
    python data/convert.py table FILE.csv OUT.jsonl --text COLUMN --labels COLUMN [COLUMN ...]
                                              a spreadsheet's export (.csv, or .tsv): each label a
                                              column of 1 and 0; or --labels COLUMN --separator ,
                                              one column of the names of labels

KOTE keeps its own splits, its 44 labels folded to eight. XED is one file, split here by a fixed
seed: 1,500 lines to test, 1,000 to dev, the rest to train, and all lines of one sentence to the
same split.
"""

import csv
import json
import logging
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import utils
from emotion import cli, outputs, tables

KOTE_FILES = {"train": "train.tsv", "dev": "val.tsv", "test": "test.tsv"}
KOTE_LABELS = 44
KOTE_FOLDING = {  # numbers in the order that KOTE publishes its labels in; the others are dropped
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


YES, NO = {"1", "true", "yes", "y", "o"}, {"0", "false", "no", "n", "x", ""}  # in a table


def read_tsv(path, columns, numbers, quoting):
    """Yield (line number, fields) with the last field a set of label numbers.

    Args:
        numbers: the range that the label numbers are of.
        quoting: of the csv module: whether quotes stand around a text, or belong to it.

    Raises:
        utils.InputError: at the first line that is not of this form.
    """
    try:
        lines = path.read_bytes().decode("utf-8").removesuffix("\n").split("\n")
        table = csv.reader([f"{line}\n" for line in lines], delimiter="\t", quoting=quoting)
    except (OSError, UnicodeDecodeError) as error:
        told = f"cannot be read as UTF-8 ({error}); give a clone of the corpus"
        raise utils.InputError(f"{path}: {told}") from None
    for record in table:
        number = table.line_num
        *fields, labels = record or [""]
        try:
            labels = {int(label) for label in labels.split(",")}
        except ValueError:
            labels = None
        fits = len(fields) == columns - 1 and all(map(str.strip, fields))
        if not fits or labels is None or not labels <= set(numbers):
            last = f"numbers from {numbers[0]} to {numbers[-1]} parted by commas"
            told = f"is not {columns} columns parted by tabs, the last of {last}"
            mend = "give a clone of the corpus"
            raise utils.InputError(f"{path}: line {number}: {told}; {mend}")
        yield number, [field.strip() for field in fields], labels


def make_row(id, text, present, labels=EMOTIONS, target=None):
    """A row of this repository's format.

    Args:
        present: those of `labels` that the text shows.
    """
    begin = text.find(target) if target else -1
    span = {"begin": begin, "end": begin + len(target)} if begin >= 0 else {}
    place = {"form": target or None, "begin": None, "end": None} | span
    output = utils.decode_labels([name in present for name in labels], labels)
    return {"id": id, "input": {"form": text, "target": place}, "output": output}


def fold(numbers, folding):
    """The emotions that label numbers stand for."""
    return {name for name, each in folding.items() if numbers & set(each)}


def convert_kote(source):
    """Rows by split, of the splits that are there."""
    splits = {}
    for split, name in KOTE_FILES.items():
        if not (source / name).is_file():
            print(f"{source / name}: is not there, so {split}.jsonl is not written")
            continue
        splits[split] = [
            make_row(f"kote-{id}", text, fold(labels, KOTE_FOLDING))
            for _, (id, text), labels in read_tsv(
                source / name, 3, range(KOTE_LABELS), csv.QUOTE_MINIMAL
            )
        ]
    return splits


def convert_xed(source):
    """Rows by split."""
    by_sentence = {}
    for number, (text,), labels in read_tsv(source / XED_FILE, 2, range(1, 9), csv.QUOTE_NONE):
        row = make_row(f"xed-en-{number:05}", text, fold(labels, XED_FOLDING))
        by_sentence.setdefault(text, []).append(row)
    sentences = sorted(by_sentence)
    random.Random(SEED).shuffle(sentences)
    splits = {"train": [], "dev": [], "test": []}
    for sentence in sentences:
        split = next(
            (name for name, size in XED_SIZES.items() if len(splits[name]) < size), "train"
        )
        splits[split] += by_sentence[sentence]
    return splits


def convert_table(args):
    """The rows of a table.

    Raises:
        utils.InputError: a column is not there, or a cell of a label says neither yes nor no.
    """
    columns, table = tables.read_table(args.source)
    for name in (args.text, args.target, *args.labels):
        if name is not None and name not in columns:
            told = f"has no column {name!r}; it has {', '.join(columns)}"
            raise utils.InputError(f"{args.source}: {told}")
    if args.separator and len(args.labels) > 1:
        raise utils.InputError("--separator goes with one column of --labels; name that alone")
    rows, labels = [], {} if args.separator else dict.fromkeys(args.labels)
    for number, cells in table:
        if args.separator:
            names = map(str.strip, cells[args.labels[0]].split(args.separator))
            present = dict.fromkeys(filter(None, names))
            labels |= present
        else:
            said = {name: cells[name].strip().lower() for name in labels}
            if wrong := next((name for name in labels if said[name] not in YES | NO), None):
                told = f"{wrong}: is {cells[wrong]!r}; write 1 or 0"
                raise utils.InputError(f"{args.source}: line {number}: {told}")
            present = {name for name in labels if said[name] in YES}
        target = cells[args.target].strip() if args.target else None
        rows.append((f"{args.source.stem}-{number}", cells[args.text], present, target))
    return [make_row(id, text, present, list(labels), target) for id, text, present, target in rows]


def write_file(rows, path):
    """Write rows to a file that is not there yet, and check them as training does."""
    if path.exists():
        raise utils.InputError(f"{path}: is there, and nothing is overwritten; give another")
    with outputs.whole_file(path) as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    try:
        utils.read_corpus(path, labelled=True)
    except utils.InputError:
        path.unlink()
        raise
    print(f"{path}: {len(rows)} lines, of the labels {', '.join(rows[0]['output'])}")


def write(splits, out):
    """Write the rows of each split to a directory that holds nothing yet."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        is_empty = not any(out.iterdir())
    except OSError as error:
        raise utils.InputError(
            f"{out}: cannot be written ({error.strerror}); give another"
        ) from None
    if not is_empty:
        raise utils.InputError(f"{out}: is not empty, and nothing is overwritten; give another")
    for split, rows in splits.items():
        with outputs.whole_file(out / f"{split}.jsonl") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        print(f"{out / f'{split}.jsonl'}: {len(rows)} lines")


def main(argv=None):
    """Convert."""
    parser = cli.ArgumentParser("convert.py", __doc__)
    parser.add_argument("corpus", choices=("kote", "xed", "table"))
    parser.add_argument("source", type=Path, metavar="SOURCE")
    parser.add_argument("out", type=Path, metavar="OUT")
    of_table = parser.add_argument_group("of a table")
    of_table.add_argument("--text", metavar="COLUMN", help="of the sentences")
    of_table.add_argument("--target", metavar="COLUMN", help="of what each is about")
    told = "of the labels, or with --separator of their names"
    of_table.add_argument("--labels", metavar="COLUMN", nargs="+", help=told)
    of_table.add_argument("--separator", metavar="MARK", help="that parts the names of labels")
    args = parser.parse_args(argv)
    utils.log.handlers = [logging.StreamHandler()]
    try:
        if args.corpus == "table":
            if not args.text or not args.labels:
                raise utils.InputError("table: give --text COLUMN and --labels COLUMN ...")
            return write_file(convert_table(args), args.out)
        splits = {"kote": convert_kote, "xed": convert_xed}[args.corpus](args.source)
        if not splits:
            files = ", ".join(KOTE_FILES.values())
            mend = "give a clone of searle-j/KOTE"
            raise utils.InputError(f"{args.source}: has none of {files}; {mend}")
        write(splits, args.out)
    except utils.InputError as error:
        parser.error(str(error))
    except utils.RunError as error:
        parser.exit(1, f"{parser.prog}: error: {error}\n")


if __name__ == "__main__":
    main()
