"""Turn a copy of a public corpus into train.jsonl, dev.jsonl and test.jsonl in the format of this repository.

    python data/convert.py kote SOURCE OUT    SOURCE: a clone of searle-j/KOTE (Korean comments, MIT)
    python data/convert.py xed SOURCE OUT     SOURCE: a clone of Helsinki-NLP/XED (English subtitles, CC BY 4.0)

KOTE keeps its own splits, its 44 labels folded to eight. XED is one file, split here by a fixed seed: 1,500 lines to test,
1,000 to dev, the rest to train, and all lines of one sentence to the same split.
"""

import json
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import utils

KOTE_FILES = {"train": "train.tsv", "dev": "val.tsv", "test": "test.tsv"}
KOTE_LABELS = 44
KOTE_FOLDING = {  # numbers in the order that KOTE publishes its labels in; one that is not named is dropped
    "joy": (28, 40, 42),  # 즐거움/신남, 행복, 기쁨
    "anticipation": (8,),  # 기대감
    "trust": (7, 43),  # 존경, 안심/신뢰
    "surprise": (34, 39),  # 경악, 놀람
    "disgust": (21, 31),  # 역겨움/징그러움, 증오/혐오
    "fear": (18, 41),  # 공포/무서움, 불안/걱정
    "anger": (6,),  # 화남/분노
    "sadness": (5, 19, 36),  # 슬픔, 절망, 서러움
}
XED_FILE = "AnnotatedData/en-annotated.tsv"
XED_ORDER = ("anger", "anticipation", "disgust", "fear", "joy", "sadness", "surprise", "trust")  # numbered from 1
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
        raise utils.InputError(f"{path}: cannot be read as UTF-8 ({error}); give a clone of the corpus") from None
    for number, line in enumerate(lines, start=1):
        *fields, labels = line.split("\t")
        try:
            labels = {int(label) for label in labels.split(",")}
        except ValueError:
            labels = None
        if len(fields) != columns - 1 or labels is None or not labels <= set(numbers) or not all(map(str.strip, fields)):
            form = f"{columns} columns parted by tabs, the last of numbers from {numbers[0]} to {numbers[-1]} parted by commas"
            raise utils.InputError(f"{path}: line {number}: is not {form}; give a clone of the corpus")
        yield number, [field.strip() for field in fields], labels


def make_row(id, text, labels, folding):
    decision = [bool(labels & set(folding[name])) for name in utils.EMOTIONS]
    target = {"form": None, "begin": None, "end": None}
    return {"id": id, "input": {"form": text, "target": target}, "output": utils.decode_labels(decision)}


def convert_kote(source):
    """Rows by split, of the splits that are there."""
    splits = {}
    for split, name in KOTE_FILES.items():
        if not (source / name).is_file():
            print(f"{source / name}: is not there, so {split}.jsonl is not written")
            continue
        lines = read_tsv(source / name, 3, range(KOTE_LABELS))
        splits[split] = [make_row(f"kote-{id}", text, labels, KOTE_FOLDING) for _, (id, text), labels in lines]
    return splits


def convert_xed(source):
    """Rows by split."""
    by_sentence = {}
    for number, (text,), labels in read_tsv(source / XED_FILE, 2, range(1, 9)):
        by_sentence.setdefault(text, []).append(make_row(f"xed-en-{number:05}", text, labels, XED_FOLDING))
    sentences = sorted(by_sentence)
    random.Random(SEED).shuffle(sentences)
    splits = {"train": [], "dev": [], "test": []}
    for sentence in sentences:
        split = next((name for name, size in XED_SIZES.items() if len(splits[name]) < size), "train")
        splits[split] += by_sentence[sentence]
    return splits


def main():
    parser = utils.ArgumentParser(__doc__)
    parser.add_argument("corpus", choices=("kote", "xed"))
    parser.add_argument("source", type=Path, metavar="SOURCE")
    parser.add_argument("out", type=Path, metavar="OUT")
    args = parser.parse_args()
    try:
        utils.check_output_dir(args.out, resume=False)
        splits = {"kote": convert_kote, "xed": convert_xed}[args.corpus](args.source)
        if not splits:
            raise utils.InputError(
                f"{args.source}: has none of {', '.join(KOTE_FILES.values())}; give a clone of searle-j/KOTE"
            )
    except utils.InputError as error:
        parser.error(str(error))
    args.out.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        with utils.whole_file(args.out / f"{split}.jsonl") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        print(f"{args.out / f'{split}.jsonl'}: {len(rows)} lines")


if __name__ == "__main__":
    main()
