"""data/convert.py, on files of the public corpora's form."""

import csv
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
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, delimiter="\t", lineterminator="\n")
        for row in rows:
            labels = [convert.KOTE_FOLDING[name][0] for name in names_of(row)] or [24]
            fields = row["id"].removeprefix("kote-"), row["input"]["form"]
            table.writerow([*fields, ",".join(map(str, labels))])


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


def test_quotes_around_a_comment_are_no_part_of_it(tmp_path):
    lines = [
        '1\t"사장님이 ""맛없으면 말씀하세요"" 하시더니 진짜 친절하다"\t42',
        "2\t사장님 최고\t42,40",
    ]
    (tmp_path / "val.tsv").write_text("\n".join(lines), encoding="utf-8")
    assert call("convert.py", "kote", tmp_path, tmp_path / "out").returncode == 0
    forms = [row["input"]["form"] for row in utils.read_corpus(tmp_path / "out" / "dev.jsonl")]
    assert forms == ['사장님이 "맛없으면 말씀하세요" 하시더니 진짜 친절하다', "사장님 최고"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp949"])
@pytest.mark.parametrize("ending", [".csv", ".tsv"])
def test_a_table_becomes_a_corpus(tmp_path, encoding, ending):
    mark, out = "\t" if ending == ".tsv" else ",", tmp_path / "out.jsonl"
    lines = [
        ["번호", "문장", "대상", "기쁨", "화남"],
        ["1", '"오늘, 급식 ""최고"""', "급식", "1", ""],
    ]
    lines += [["2", "'별로'", "", "FALSE", "O"]]
    table = tmp_path / f"table{ending}"
    table.write_text("\r\n".join(map(mark.join, lines)), encoding=encoding, newline="")
    flags = "--text", "문장", "--target", "대상", "--labels", "기쁨", "화남"
    outcome = call("convert.py", "table", table, out, *flags)
    assert outcome.returncode == 0, outcome.stderr
    assert ("read as cp949" in outcome.stderr) == (encoding == "cp949")
    assert "2 lines, of the labels 기쁨, 화남" in outcome.stdout
    one, two = utils.read_corpus(out, labelled=True)
    assert one["input"]["form"] == '오늘, 급식 "최고"'
    assert one["input"]["target"] == {"form": "급식", "begin": 4, "end": 6}
    assert one["output"] == {"기쁨": "True", "화남": "False"}
    assert two["output"] == {"기쁨": "False", "화남": "True"}
    assert two["input"]["target"]["form"] is None
    again = call("convert.py", "table", table, out, *flags)
    assert again.returncode == 2 and "nothing is overwritten" in again.stderr


def test_a_column_of_names_becomes_labels(tmp_path):
    table, out = tmp_path / "table.csv", tmp_path / "out.jsonl"
    table.write_text("text,emotion\n좋다,joy; trust\n모르겠다,\n싫다,anger\n", encoding="utf-8")
    flags = "--text", "text", "--labels", "emotion", "--separator", ";"
    assert call("convert.py", "table", table, out, *flags).returncode == 0
    rows = utils.read_corpus(out, labelled=True)
    assert utils.labels_of(rows) == ("joy", "trust", "anger")
    assert utils.encode_labels(rows, utils.labels_of(rows)).tolist() == [
        [1, 1, 0],
        [0] * 3,
        [0, 0, 1],
    ]


@pytest.mark.parametrize(
    ("content", "flags", "told"),
    [
        ("text,joy\n좋다,maybe\n", (), "line 2: joy: is 'maybe'; write 1 or 0"),
        ("text,joy\n좋다,1,1\n", (), "line 2: has 3 columns, and the first line 2"),
        ("text,joy\n\u200b,1\n", (), "line 1: input.form: is missing, blank"),
        ("text,anger\n좋다,1\n", (), "has no column 'joy'; it has text, anger"),
        ("text,text\n", (), "has no header, or a column twice"),
        ("", (), "has no header"),
        (b"text,joy\n\xff\xff,1\n", (), "neither UTF-8 nor cp949"),
        ("text,joy,fear\n좋다,1,0\n", ("--labels", "joy", "fear", "--separator", ","), "name that"),
        (None, (), "cannot be read"),
    ],
)
def test_what_is_no_table_of_labels_is_refused(tmp_path, content, flags, told):
    table, out = tmp_path / "table.csv", tmp_path / "out.jsonl"
    if content is not None:
        table.write_bytes(content if isinstance(content, bytes) else content.encode())
    flags = flags or ("--labels", "joy")
    outcome = call("convert.py", "table", table, out, "--text", "text", *flags)
    assert outcome.returncode == 2 and told in outcome.stderr.splitlines()[-1], outcome.stderr
    assert not out.exists()


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
