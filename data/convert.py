"""Turn a copy of a public corpus into train, dev and test.jsonl in the format of this repository.

    python data/convert.py kote SOURCE OUT    a clone of searle-j/KOTE (Korean comments, MIT)
    python data/convert.py xed SOURCE OUT     a clone of Helsinki-NLP/XED (English subtitles,
                                              CC BY 4.0)

KOTE keeps its own splits, its 44 labels folded to eight. XED is one file, split here by a fixed
seed: 1,500 lines to test, 1,000 to dev, the rest to train, and all lines of one sentence to the
same split.
"""

import json
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import utils
from emotion import cli, outputs

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


def read_tsv(path, columns, numbers):
    """Yield (line number, fields) with the last field a set of label numbers.

    Args:
        numbers: the range that the label numbers are of.

    Raises:
        utils.InputError: at the first line that is not of this form.
    """
    try:
        lines = path.read_bytes().decode("utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        told = f"cannot be read as UTF-8 ({error}); give a clone of the corpus"
        raise utils.InputError(f"{path}: {told}") from None
    for number, line in enumerate(lines, start=1):
        *fields, labels = line.split("\t")
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


def make_row(id, text, labels, folding):
    """A row of this repository's format, the labels folded."""
    decision = [bool(labels & set(folding[name])) for name in EMOTIONS]
    target = {"form": None, "begin": None, "end": None}
    output = utils.decode_labels(decision, EMOTIONS)
    return {"id": id, "input": {"form": text, "target": target}, "output": output}


def convert_kote(source):
    """Rows by split, of the splits that are there."""
    splits = {}
    for split, name in KOTE_FILES.items():
        if not (source / name).is_file():
            print(f"{source / name}: is not there, so {split}.jsonl is not written")
            continue
        splits[split] = [
            make_row(f"kote-{id}", text, labels, KOTE_FOLDING)
            for _, (id, text), labels in read_tsv(source / name, 3, range(KOTE_LABELS))
        ]
    return splits


def convert_xed(source):
    """Rows by split."""
    by_sentence = {}
    for number, (text,), labels in read_tsv(source / XED_FILE, 2, range(1, 9)):
        row = make_row(f"xed-en-{number:05}", text, labels, XED_FOLDING)
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
    parser.add_argument("corpus", choices=("kote", "xed"))
    parser.add_argument("source", type=Path, metavar="SOURCE")
    parser.add_argument("out", type=Path, metavar="OUT")
    args = parser.parse_args(argv)
    try:
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
