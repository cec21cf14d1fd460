"""data/convert.py, on files of the public corpora's form."""

from pathlib import Path

import convert
import pytest
from conftest import EMOTIONS, ROOT, call, run_script

import utils

CORPORA = ROOT.parent / "shared" / "corpora"


def names_of(row):
    """The emotions of a row."""
    return [name for name in EMOTIONS if row["output"][name] == "True"]


def write_kote(path, rows):
    """Rows as KOTE writes them, each emotion as the first of the labels that are folded into it."""
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            labels = [convert.KOTE_FOLDING[name][0] for name in names_of(row)] or [24]
            fields = row["id"].removeprefix("kote-"), row["input"]["form"]
            print(*fields, ",".join(map(str, labels)), sep="\t", file=file)


def test_kote_is_folded_and_a_missing_split_is_said(tmp_path):
    (tmp_path / "val.tsv").write_text(
        '7\t "정말" 좋네요\u2028ㅎㅎ \t28,42,0\n8\t별로\t24\n9\t무섭고 놀랍다\t18,34,41\n',
        encoding="utf-8",
    )
    process = run_script("data/convert.py", "kote", tmp_path, tmp_path / "out")
    assert process.returncode == 0 and process.stderr == "", process.stderr
    assert (
        "train.tsv: is not there" in process.stdout and "test.tsv: is not there" in process.stdout
    )
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["dev.jsonl"]
    rows = utils.read_corpus(tmp_path / "out" / "dev.jsonl", labelled=True)
    assert [row["id"] for row in rows] == ["kote-7", "kote-8", "kote-9"]
    target = {"form": None, "begin": None, "end": None}
    assert rows[0]["input"] == {"form": '"정말" 좋네요\u2028ㅎㅎ', "target": target}
    assert list(map(names_of, rows)) == [["joy"], [], ["surprise", "fear"]]
    assert utils.labels_of(rows) == EMOTIONS  # in the order of the national corpus


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("8\t별로", "3 columns"),
        ("8\t별로\t44", "from 0 to 43"),
        ("8\t별로\t1,x", "numbers"),
        ("8\t \t1", "3 columns"),
    ],
)
def test_what_is_not_kote_is_refused(tmp_path, line, told):
    (tmp_path / "val.tsv").write_text(f"7\t좋네요\t28\n{line}\n", encoding="utf-8")
    process = call("convert.py", "kote", tmp_path, tmp_path / "out")
    assert process.returncode == 2 and process.stderr.count("\n") == 1
    assert "val.tsv: line 2" in process.stderr and told in process.stderr
    assert not (tmp_path / "out").exists()


def test_nothing_to_convert_and_nothing_overwritten(tmp_path):
    process = call("convert.py", "kote", tmp_path, tmp_path / "out")
    assert process.returncode == 2 and "has none of" in process.stderr
    process = call("convert.py", "xed", tmp_path, tmp_path / "out")
    assert process.returncode == 2 and "en-annotated.tsv" in process.stderr
    assert not (tmp_path / "out").exists()
    (tmp_path / "val.tsv").write_text("7\t좋네요\t28\n", encoding="utf-8")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "train.jsonl").write_text("mine")
    for out, told in (("out", "is not empty"), ("val.tsv", "cannot be written")):
        process = call("convert.py", "kote", tmp_path, tmp_path / out)
        assert process.returncode == 2 and told in process.stderr
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["train.jsonl"]
    assert (tmp_path / "out" / "train.jsonl").read_text() == "mine"


def test_xed_is_split_with_no_sentence_in_two_splits(tmp_path):
    (tmp_path / "AnnotatedData").mkdir()
    lines = [f"sentence {n % 3000}\t{1 + n % 8}" for n in range(4000)]
    file = tmp_path / "AnnotatedData" / "en-annotated.tsv"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    for out in ("one", "two"):
        assert call("convert.py", "xed", tmp_path, tmp_path / out).returncode == 0
    splits = {}
    for split in ("train", "dev", "test"):
        file = tmp_path / "one" / f"{split}.jsonl"
        assert file.read_bytes() == (tmp_path / "two" / f"{split}.jsonl").read_bytes()
        splits[split] = utils.read_corpus(file, labelled=True)
    sentences = [{row["input"]["form"] for row in rows} for rows in splits.values()]
    assert sum(map(len, sentences)) == len(set.union(*sentences)) == 3000
    assert sum(map(len, splits.values())) == 4000
    assert len(splits["test"]) in (1500, 1501) and len(splits["dev"]) in (1000, 1001)
    by_id = {row["id"]: row for rows in splits.values() for row in rows}
    found = [names_of(by_id[f"xed-en-{number:05}"]) for number in range(1, 9)]
    assert [name for [name] in found] == sorted(EMOTIONS)


@pytest.mark.skipif(
    not CORPORA.is_dir(), reason="the public corpora are not beside this repository"
)
def test_kote_made_from_its_lines_gives_these_lines(tmp_path):
    for split, name in convert.KOTE_FILES.items():
        write_kote(tmp_path / name, utils.read_corpus(CORPORA / "kote" / f"{split}.jsonl"))
    assert call("convert.py", "kote", tmp_path, tmp_path / "out").returncode == 0
    for split in convert.KOTE_FILES:
        made, given = (
            Path(where) / f"{split}.jsonl" for where in (tmp_path / "out", CORPORA / "kote")
        )
        assert made.read_bytes() == given.read_bytes()
