"""data/convert.py, on files of the public corpora's form."""

import csv
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import convert
import pytest
from conftest import EMOTIONS, ROOT, assert_refused, call, run_script

import utils

CORPORA = ROOT.parent / "shared" / "corpora"


needs_corpora = pytest.mark.skipif(
    not CORPORA.is_dir(), reason="the public corpora are not beside this repository"
)
REDDIT_LABELS = "joy\nanger\nneutral\n"
MAMS = """<?xml version="1.0" encoding="utf-8"?>
<sentences>
  <sentence>
    <text> Fish &amp; chips: fine\u2028chips, slow waiter.</text>
    <aspectTerms>
      <aspectTerm from="20" polarity="positive" term="chips" to="25"/>
      <aspectTerm from="32" polarity="negative" term="waiter" to="38"/>
    </aspectTerms>
  </sentence>
  <sentence>
    <text>A table.</text>
    <aspectTerms><aspectTerm from="2" polarity="neutral" term="table" to="7"/></aspectTerms>
  </sentence>
</sentences>
"""


def names_of(row, labels=EMOTIONS):
    """The labels of a row."""
    return [name for name in labels if row["output"][name] == "True"]


def converted(corpus, source, out):
    """The rows of each split that a corpus was converted to."""
    outcome = call("convert.py", corpus, source, out)
    assert outcome.returncode == 0 and outcome.stderr == "", outcome.stderr
    return {file.stem: utils.read_corpus(file, labelled=True) for file in out.iterdir()}


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


@pytest.mark.skipif(sys.platform == "win32", reason="there is no limit of a file's size here")
def test_all_splits_are_written_or_none(tmp_path):
    import resource

    (tmp_path / "train.tsv").write_text("7\t좋네요\t28\n", encoding="utf-8")
    lines = "".join(f"{n}\t좋네요\t28\n" for n in range(100))
    (tmp_path / "val.tsv").write_text(lines, encoding="utf-8")
    command = [sys.executable, ROOT / "data" / "convert.py", "kote", tmp_path, tmp_path / "out"]
    limits = (8192, resource.RLIM_INFINITY)
    full = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits)  # noqa: E731
    outcome = subprocess.run(command, capture_output=True, text=True, preexec_fn=full)
    assert outcome.returncode == 1, outcome.stderr
    assert "dev.jsonl: File too large; mend that; start again" in outcome.stderr
    assert list((tmp_path / "out").iterdir()) == []
    assert {name: len(rows) for name, rows in converted(*command[2:]).items()} == {
        "train": 1,
        "dev": 100,
    }


def test_what_was_converted_stays_where_nobody_reads_what_is_told(tmp_path):
    (tmp_path / "val.tsv").write_text("7\t좋네요\t28\n", encoding="utf-8")
    command = [sys.executable, ROOT / "data" / "convert.py", "kote", tmp_path, tmp_path / "out"]
    reads, writes = os.pipe()
    os.close(reads)
    with open(writes, "w") as gone:
        settings = {"stdout": gone, "stderr": subprocess.PIPE, "text": True}
        settings["env"] = os.environ | {"PYTHONUNBUFFERED": "1"}
        outcome = subprocess.run(command, **settings)
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["dev.jsonl"]


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
    flags = "--text", "문장", "--target", "대상", "--labels", "기쁨", "--labels", "화남"
    outcome = call("convert.py", "table", table, out, *flags)
    assert outcome.returncode == 0, outcome.stderr
    assert ("read as cp949" in outcome.stderr) == (encoding == "cp949")
    assert outcome.stdout.endswith(": 2 lines, of the labels 기쁨, 화남\n")
    one, two = utils.read_corpus(out, labelled=True)
    assert one["input"]["form"] == '오늘, 급식 "최고"'
    assert one["input"]["target"] == {"form": "급식", "begin": 4, "end": 6}
    assert one["output"] == {"기쁨": "True", "화남": "False"}
    assert two["output"] == {"기쁨": "False", "화남": "True"}
    assert two["input"]["target"]["form"] is None
    part = tmp_path / "other.jsonl.partial"
    part.write_text("mine")
    taken = call("convert.py", "table", table, tmp_path / "other.jsonl", *flags)
    assert taken.returncode == 2 and f"{part}: is there" in taken.stderr
    assert part.read_text() == "mine"
    again = call("convert.py", "table", table, out, *flags)
    assert again.returncode == 2 and "nothing is overwritten" in again.stderr
    nowhere = call("convert.py", "table", table, tmp_path / "no" / "out.jsonl", *flags)
    assert nowhere.returncode == 2 and "its directory is not there" in nowhere.stderr
    assert nowhere.stderr.count("\n") == 1 + ("read as cp949" in nowhere.stderr)


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
    dev, made = tmp_path / "dev.csv", tmp_path / "dev.jsonl"
    dev.write_text("text,emotion\n싫다,anger\n", encoding="utf-8")
    assert call("convert.py", "table", dev, made, *flags, "--like", out).returncode == 0
    assert utils.labels_of(utils.read_corpus(made, labelled=True)) == ("joy", "trust", "anger")
    dev.write_text("text,emotion\n싫다,anger;fear\n", encoding="utf-8")
    refused = call("convert.py", "table", dev, tmp_path / "no.jsonl", *flags, "--like", out)
    assert_refused(refused, f"{dev}: line 2: 'fear' is no label of {out}")
    assert not (tmp_path / "no.jsonl").exists()
    dev.write_text('text,emotion\n싫다,"anger, fear"\n', encoding="utf-8")
    outcome = call("convert.py", "table", dev, tmp_path / "odd.jsonl", *flags)
    assert "'anger, fear' is read as one label; if it is several, convert" in outcome.stderr


def test_labels_that_look_alike_are_one_and_a_list_is_read_as_one(tmp_path):
    table, out = tmp_path / "table.csv", tmp_path / "out.jsonl"
    column, joy = (unicodedata.normalize("NFD", name) for name in ("감정", "기쁨"))
    lines = f'글,{column}\n가,{joy}\n나,"[\'기쁨\u200b\', \'화남\']"\n다,[]\n라,"[""기쁨""]"\n'
    table.write_text(lines, encoding="utf-8")
    flags = "--text", "글", "--labels", column, "--separator", ","  # as copied from the table
    outcome = call("convert.py", "table", table, out, *flags)
    assert outcome.returncode == 0 and outcome.stderr == ""
    told = f"{out}: 4 lines, of the labels 기쁨, 화남; 1 of them without any\n"
    assert outcome.stdout == told  # a cell that was left blank is not to be missed
    rows = utils.read_corpus(out, labelled=True)
    assert utils.labels_of(rows) == ("기쁨", "화남")
    found = utils.encode_labels(rows, ("기쁨", "화남")).tolist()
    assert found == [[1, 0], [1, 1], [0, 0], [1, 0]]


@pytest.mark.parametrize(
    ("content", "flags", "told"),
    [
        (
            "text,joy\n좋다,maybe\n",
            (),
            "line 2: joy: is 'maybe'; write 1 or 0, or give --separator",
        ),
        ("text,joy\n좋다,1.0\n ,0.0\n", (), "line 3: text: is blank; write a text, or delete"),
        ("text,joy\n좋다,1\n\n나쁘다,0,1\n", (), "line 4: has 3 columns, and the first line 2"),
        ("text,joy\n좋다,1,1\n", (), "line 2: has 3 columns, and the first line 2"),
        ("text,joy\n\u200b,1\n", (), "line 1: input.form: is missing, blank"),
        ("text,anger\n좋다,1\n", (), "has no column 'joy'; it has text, anger"),
        ("text;joy\n좋다;1\n", (), "it has text;joy; give one of these, or part columns by commas"),
        ("text,text\n", (), "has no header, or a column twice"),
        ("", (), "has no header"),
        (b"text,joy\n\xff\xff,1\n", (), "neither UTF-8 nor cp949"),
        ("text,joy,fear\n좋다,1,0\n", ("--labels", "joy", "fear", "--separator", ","), "name that"),
        ("text,joy\n좋다,1\n", ("--labels", "joy", "--like", "a.jsonl"), "--like goes with"),
        (
            "text;joy\n좋다, 참;1\n",
            (),
            "line 2: has 2 columns, and the first line 1; save it parted",
        ),
        (
            "text,joy\n좋다,\n",
            ("--labels", "joy", "--separator", ","),
            "joy: names no label in any",
        ),
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


def test_kote_with_all_its_labels(tmp_path):
    (tmp_path / "val.tsv").write_text("7\t좋네요\t28,42,0\n8\t별로\t24\n9\t휴\t43", "utf-8")
    rows = converted("kote44", tmp_path, tmp_path / "out")["dev"]
    labels = utils.labels_of(rows)
    assert len(labels) == 44 and labels == tuple(convert.KOTE_LABELS)
    found = [names_of(row, labels) for row in rows]
    assert found == [["불평/불만", "즐거움/신남", "기쁨"], ["없음"], ["안심/신뢰"]]
    assert [row["id"] for row in rows] == ["kote-7", "kote-8", "kote-9"]  # the lines of `kote`


def test_the_labels_that_kote_is_folded_by():
    """Named, so that the order of the names is held against the numbers."""
    named = {
        name: [convert.KOTE_LABELS[number] for number in numbers]
        for name, numbers in convert.KOTE_FOLDING.items()
    }
    assert named == {
        "joy": ["즐거움/신남", "행복", "기쁨"],
        "anticipation": ["기대감"],
        "trust": ["존경", "안심/신뢰"],
        "surprise": ["경악", "놀람"],
        "disgust": ["역겨움/징그러움", "증오/혐오"],
        "fear": ["공포/무서움", "불안/걱정"],
        "anger": ["화남/분노"],
        "sadness": ["슬픔", "절망", "서러움"],
    }


@pytest.mark.parametrize("name", convert.GOEMOTIONS_LABELS)
def test_goemotions_keeps_its_labels_splits_and_ids(tmp_path, name):
    (tmp_path / name).write_text(REDDIT_LABELS)
    lines = '"Say ""hi"" [NAME]! "\t0,1\tee1\nSo.\t2\tee2\n', 'It\'s "it".\t1\tee1\nOh\t0\tee1\n'
    (tmp_path / "train.tsv").write_text(lines[0])
    (tmp_path / "test.tsv").write_text(lines[1])
    splits = converted("goemotions", tmp_path, tmp_path / "out")
    assert splits.keys() == {"train", "test"}
    one, two = splits["train"]
    assert one["input"]["form"] == 'Say "hi" [NAME]!' and one["input"]["target"]["form"] is None
    assert one["output"] == {"joy": "True", "anger": "True", "neutral": "False"}
    assert [row["id"] for row in (one, two)] == ["goemotions-train-ee1", "goemotions-train-ee2"]
    assert names_of(two, utils.labels_of([two])) == ["neutral"]
    assert splits["test"][0]["input"]["form"] == 'It\'s "it".'
    assert [row["id"] for row in splits["test"]] == ["goemotions-test-ee1", "goemotions-test-ee1-2"]


def test_goemotions_in_korean_keeps_quotes_that_the_translation_broke(tmp_path):
    (tmp_path / "label.txt").write_text(REDDIT_LABELS)
    text = '"" "대전" "새로운 것을 보세요!"'
    (tmp_path / "dev.tsv").write_text(f'{text}\t0,2\n"열린 인용\t1\n', encoding="utf-8")
    one, two = converted("goemotions-ko", tmp_path, tmp_path / "out")["dev"]
    assert one["input"]["form"] == text and two["input"]["form"] == '"열린 인용'
    assert [row["id"] for row in (one, two)] == [
        "goemotions-ko-dev-00001",
        "goemotions-ko-dev-00002",
    ]
    assert names_of(one, ("joy", "anger", "neutral")) == ["joy", "neutral"]


@pytest.mark.parametrize(
    ("labels", "lines", "told"),
    [
        (REDDIT_LABELS, "Hi.\t0\tee1\nHi.\t3\tee2\n", "dev.tsv: line 2: is not 3 columns"),
        (REDDIT_LABELS, "Hi.\t0\n", "(text, labels, id), labels as numbers from 0 to 2"),
        (REDDIT_LABELS, "Hi.\t\tee1\n", "dev.tsv: line 1: is not 3 columns"),
        (REDDIT_LABELS, '"' + "Hi.\t0\tee1\n" * 14000, "dev.tsv: line "),
        (REDDIT_LABELS, "", "dev.tsv: line 1: is not 3 columns"),
        ("joy\n\nanger\n", "Hi.\t0\tee1\n", "labels.txt: line 2: is blank"),
        ("joy\nanger\njoy\n", "Hi.\t0\tee1\n", "labels.txt: line 3: is blank, or a name that"),
        ("", "Hi.\t0\tee1\n", "labels.txt: line 1: is blank"),
        (None, "Hi.\t0\tee1\n", "has no list of labels (labels.txt, label.txt, emotions.txt)"),
        (REDDIT_LABELS, None, "has none of train.tsv, dev.tsv, test.tsv; give data/original"),
    ],
)
def test_what_is_not_goemotions_is_refused(tmp_path, labels, lines, told):
    for name, content in (("labels.txt", labels), ("dev.tsv", lines)):
        if content is not None:
            (tmp_path / name).write_text(content)
    assert_refused(call("convert.py", "goemotions", tmp_path, tmp_path / "out"), told)
    assert not (tmp_path / "out").exists()


def test_mams_gives_a_line_for_each_target(tmp_path):
    (tmp_path / "val.xml").write_text(MAMS, encoding="utf-8")
    rows = converted("mams", tmp_path, tmp_path / "out")["dev"]
    assert [row["id"] for row in rows] == ["mams-dev-0001-1", "mams-dev-0001-2", "mams-dev-0002-1"]
    assert utils.labels_of(rows) == ("positive", "negative", "neutral")
    assert [names_of(row, row["output"]) for row in rows] == [
        ["positive"],
        ["negative"],
        ["neutral"],
    ]
    for row in rows:
        text, target = row["input"]["form"], row["input"]["target"]
        assert text[target["begin"] : target["end"]] == target["form"]
    assert rows[0]["input"] == {  # the second "chips", in a text that is kept to the character
        "form": " Fish & chips: fine\u2028chips, slow waiter.",
        "target": {"form": "chips", "begin": 20, "end": 25},
    }


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('from="32"', 'from="37"', "line 7: from '37' to '38' is not where the text has 'waiter'"),
        ('to="38"', 'to="39"', "line 7: from '32' to '39'"),
        ('from="32"', 'from="-8"', "line 7: from '-8'"),
        ('from="32"', 'from="x"', "line 7: from 'x'"),
        ('from="32"', "", "line 7: has no from;"),
        ("negative", "conflict", "line 7: polarity is 'conflict', none of positive, negative"),
        ("aspectTerm from", "aspectCategory from", "a sentence without aspectTerm"),
        ("</aspectTerms>", "", "is not XML (mismatched tag"),
        ('"utf-8"', '"utf-99"', "line 1: is not XML (unknown encoding"),
        ("sentence>", "review>", "line 6: aspectTerm outside a sentence"),
        (MAMS[39:], "<sentences/>", "has no line; give data/MAMS-ATSA/raw"),
    ],
)
def test_what_is_not_mams_is_refused(tmp_path, old, new, told):
    (tmp_path / "val.xml").write_text(MAMS.replace(old, new), encoding="utf-8")
    assert_refused(call("convert.py", "mams", tmp_path, tmp_path / "out"), "val.xml: ", told)
    assert not (tmp_path / "out").exists()


@needs_corpora
@pytest.mark.parametrize(
    ("corpus", "labels", "sizes"),
    [
        ("goemotions", 28, (43410, 5426, 5427)),
        ("goemotions-ko", 28, (43410, 5426, 5427)),
        ("mams", 3, (11186, 1332, 1336)),
    ],
)
def test_a_published_corpus_is_whole(corpus, labels, sizes):
    splits = convert.CONVERTERS[corpus](CORPORA / corpus)
    assert tuple(len(splits[split]) for split in ("train", "dev", "test")) == sizes
    rows = [row for split in splits.values() for row in split]
    assert len({row["id"] for row in rows}) == len(rows)
    assert {len(row["output"]) for row in rows} == {labels}
    assert all("True" in row["output"].values() for row in rows)


@needs_corpora
def test_kote_made_from_its_lines_gives_these_lines(tmp_path):
    for split, name in convert.KOTE_FILES.items():
        write_kote(tmp_path / name, utils.read_corpus(CORPORA / "kote" / f"{split}.jsonl"))
    assert call("convert.py", "kote", tmp_path, tmp_path / "out").returncode == 0
    for split in convert.KOTE_FILES:
        made, given = (
            Path(where) / f"{split}.jsonl" for where in (tmp_path / "out", CORPORA / "kote")
        )
        assert made.read_bytes() == given.read_bytes()
