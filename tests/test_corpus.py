"""Reading, refusing, labelling and normalising."""

import json
import unicodedata

import numpy as np
import pytest
from conftest import make_row, write_rows
from hypothesis import given
from hypothesis import strategies as st

import utils

GOOD = make_row()


def with_input(**changes):
    return {**GOOD, "input": {**GOOD["input"], **changes}}


def with_target(**changes):
    return with_input(target={**GOOD["input"]["target"], **changes})


def with_output(**changes):
    return {**GOOD, "output": {**GOOD["output"], **changes}}


def without(row, *path):
    row = json.loads(json.dumps(row))
    inner = row
    for name in path[:-1]:
        inner = inner[name]
    del inner[path[-1]]
    return row


REFUSED = {
    "not JSON": ("{", "line 2: is not JSON"),
    "not an object": ([1], "line 2: is a JSON list"),
    "nested too deeply": ("[" * 100_000, "line 2: is not JSON"),
    "input missing": (without(GOOD, "input"), "line 2: input.form"),
    "input not an object": ({**GOOD, "input": "급식"}, "line 2: input.form"),
    "form missing": (without(GOOD, "input", "form"), "line 2: input.form"),
    "form a number": (with_input(form=3), "line 2: input.form"),
    "form blank": (with_input(form=" \t"), "line 2: input.form"),
    "form with half a surrogate pair": (with_input(form="급식 \ud800 최고요"), "line 2: input.form"),
    "form with a NUL": (with_input(form="급식 \0 최고요"), "line 2: input.form: holds a NUL"),
    "a NUL outside of any string": ('{"id": "b",\0 "input": 1}', "line 2: is not JSON"),
    "id missing": (without(GOOD, "id"), "line 2: id"),
    "id a number": ({**GOOD, "id": 7}, "line 2: id"),
    "id twice": (GOOD, "line 2: id: 'line-1' stands on line 1 too"),
    "target a string": (with_input(target="급식"), "line 2: input.target"),
    "target form a number": (with_target(form=3), "line 2: input.target.form"),
    "target form blank": (with_target(form=" "), "line 2: input.target.form"),
    "target begin a string": (with_target(begin="3"), "line 2: input.target.begin"),
    "target begin a boolean": (with_target(begin=True), "line 2: input.target.begin"),
    "target end missing": (with_target(end=None), "line 2: input.target"),
    "span reversed": (with_target(begin=5, end=3), "line 2: input.target: begin 5, end 3"),
    "span past the end": (with_target(begin=3, end=9), "line 2: input.target: begin 3, end 9"),
    "span before the start": (with_target(begin=-1, end=2), "line 2: input.target: begin -1"),
    "labels missing": (without(GOOD, "output"), "line 2: output: has no labels"),
    "labels an empty string": ({**GOOD, "output": ""}, "line 2: output: has no labels"),
    "labels a list": ({**GOOD, "output": ["joy"]}, "line 2: output"),
    "emotion unknown": (with_output(love="True"), "line 2: output: 'love'"),
    "emotion missing": (without(GOOD, "output", "fear"), "line 2: output.fear: is missing"),
    "label in lower case": (with_output(joy="true"), "line 2: output.joy: is 'true'"),
    "label a number": (with_output(joy=1), "line 2: output.joy: is 1"),
    "label null": (with_output(joy=None), "line 2: output.joy: is None"),
}


@pytest.mark.parametrize(("line", "told"), REFUSED.values(), ids=REFUSED)
def test_a_wrong_line_is_refused_by_file_line_and_field(tmp_path, line, told):
    path = tmp_path / "corpus.jsonl"
    if not isinstance(line, str):
        if isinstance(line, dict) and told != REFUSED["id twice"][1] and line.get("id") == GOOD["id"]:
            line = {**line, "id": "line-2"}
        line = json.dumps(line)
    path.write_text(json.dumps(GOOD) + "\n" + line + "\n", encoding="utf-8")
    with pytest.raises(utils.InputError) as refusal:
        utils.read_corpus(path, labelled=True)
    message = str(refusal.value)
    assert message.startswith(f"{path}: {told}")
    assert "; " in message and "\n" not in message  # what, then the mend, on one line


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        ("급식".encode("cp949"), "line 1: byte 1 is not UTF-8"),
        (json.dumps(GOOD).encode("utf-16"), "line 1: byte 1 is not UTF-8"),
        (json.dumps(GOOD).encode() + b"\n\n" + json.dumps({**GOOD, "id": "b"}).encode(), "line 2: is blank"),
    ],
    ids=["empty", "blank lines alone", "CP949", "UTF-16", "a blank line inside"],
)
def test_a_wrong_file_is_refused(tmp_path, content, told):
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(content)
    with pytest.raises(utils.InputError, match=told):
        utils.read_corpus(path)


def test_missing_file_and_directory_are_refused(tmp_path):
    with pytest.raises(utils.InputError, match="no such file"):
        utils.read_corpus(tmp_path / "none.jsonl")
    with pytest.raises(utils.InputError, match="is not a file"):
        utils.read_corpus(tmp_path)


def test_labels_on_some_lines_alone_are_refused_in_either_order(tmp_path):
    labelled, bare = make_row("a"), make_row("b", labels=None)
    for rows in ([labelled, bare], [bare, labelled]):
        with pytest.raises(utils.InputError, match="line 2: output: has"):
            utils.read_corpus(write_rows(tmp_path / "corpus.jsonl", rows))


def test_harmless_variations_are_accepted(tmp_path):
    null_target = with_input(target={"form": None, "begin": None, "end": None})
    rows = [
        {**GOOD, "id": "a"},
        {**null_target, "id": "b"},
        {**with_input(target=None), "id": "c"},
        {**without(GOOD, "input", "target"), "id": "d"},
        {**make_row("e", labels=())},
        {**with_output(joy=True, fear=False), "id": "f", "more": [1]},
    ]
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(json.dumps(row) for row in rows).encode() + b"\r\n\r\n \n")
    assert utils.read_corpus(path, labelled=True) == rows
    assert utils.encode_labels(rows).sum(1).tolist() == [1, 1, 1, 1, 0, 1]


def test_the_example_of_the_corpus_has_a_right_span():
    example = "하,,,,내일 옥상다이브 하기 전에 표 구하길 기도해주세요"
    assert example[20:21] == "표"


texts = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1).filter(str.strip)


@given(st.lists(st.tuples(texts, st.lists(st.booleans(), min_size=8, max_size=8)), min_size=1, max_size=5), st.booleans())
def test_any_valid_corpus_is_read_as_written(tmp_path_factory, content, ascii_only):
    rows = [make_row(f"line-{n}", form, form, ()) for n, (form, _) in enumerate(content)]
    for row, (_, labels) in zip(rows, content, strict=True):
        row["output"] = utils.decode_labels(labels)
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    path.write_text("\n".join(json.dumps(row, ensure_ascii=ascii_only) for row in rows), encoding="utf-8", newline="")
    assert utils.read_corpus(path, labelled=True) == rows
    assert utils.encode_labels(rows).tolist() == [[float(label) for label in labels] for _, labels in content]


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    path.write_bytes(content)
    with pytest.raises(utils.InputError) as refusal:
        utils.read_corpus(path)
    assert "\n" not in str(refusal.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["form", "begin", "end", "joy"]), inner),
    max_leaves=6,
)


@given(st.fixed_dictionaries({}, optional={name: json_values for name in ("id", "input", "output")}))
def test_any_object_is_read_or_refused(tmp_path_factory, row):
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    path.write_text(json.dumps(row))
    try:
        assert isinstance(utils.read_corpus(path)[0]["input"]["form"], str)
    except utils.InputError as refusal:
        assert "line 1" in str(refusal)


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("&name1&님 최고", "님 최고"),
        ("오늘 &affiliation1& 이랑 &others& 만남", "오늘 이랑 만남"),
        ("&social-security-num1& 유출", "유출"),
        ("하,,,,내일", "하,,내일"),
        ("ㅋㅋㅋㅋ ㅎㅎㅎ ㅠㅠㅠ ㅋ ㅎㅎ", "ㅋㅋ ㅎㅎ ㅠㅠ ㅋ ㅎㅎ"),
        ("ㅋㅋㅋㅎㅎㅎ!!!???", "ㅋㅋㅎㅎ!!??"),
        ("진짜... ~~~~ ____ ^^^^", "진짜.. ~~ __ ^^"),
        ("아아아아 111 AAA", "아아아아 111 AAA"),  # syllables, digits and letters carry meaning
        ("ㅋㅋ&name1&ㅋㅋ", "ㅋㅋ"),
        ("  앞\u3000뒤\t\n끝 ", "앞 뒤 끝"),
        (unicodedata.normalize("NFD", "각"), "각"),
        ("Tom & Jerry & co", "Tom & Jerry & co"),
        ("&name1&", "&name1&"),  # nothing would be left
    ],
)
def test_normalise_text(text, normalised):
    assert utils.normalise_text(text) == normalised


noise = st.sampled_from(
    ["&name1&", "&others&", "ㅋㅋㅋ", "ㅠ", "!!!", ",", "&", "name1", " ", "\u1100", "\u1161", "가", "e\u0301"]
)


@given(st.lists(noise | st.text(max_size=3), max_size=12).map("".join))
def test_normalise_text_is_stable_and_keeps_something(text):
    once = utils.normalise_text(text)
    assert utils.normalise_text(once) == once
    assert bool(once) == bool(text)
    if once != text:
        assert "  " not in once and once == once.strip() and unicodedata.is_normalized("NFC", once)


def test_a_target_that_would_be_emptied_stays_as_it_was():
    assert utils.text_and_target(make_row(form="&name1& 최고", target="&name1&")) == ("최고", "&name1&")
    assert utils.text_and_target(make_row(target=None)) == ("오늘 급식 최고", None)


def test_labels_are_encoded_in_the_order_of_the_corpus():
    assert utils.encode_labels([make_row(labels=("joy", "sadness"))]).tolist() == [[1, 0, 0, 0, 0, 0, 0, 1]]
    decoded = utils.decode_labels(np.array([0, 1, 0, 0, 0, 0, 0, 0]))
    assert list(decoded) == list(utils.EMOTIONS)
    assert decoded["anticipation"] == "True" and decoded["joy"] == "False"
