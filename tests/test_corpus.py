"""Reading, refusing, warning, labelling and normalising."""

import json
import logging
import unicodedata

import numpy as np
import pytest
from conftest import EMOTIONS, make_row
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


REFUSED_ANYWHERE = {  # a line, and what is told of it: in a file to predict too
    "not JSON": ("{", "line 2: is not JSON"),
    "not an object": ([1], "line 2: is a JSON list"),
    "nested too deeply": ("[" * 100_000, "line 2: is not JSON"),
    "input missing": (without(GOOD, "input"), "line 2: input.form"),
    "input not an object": ({**GOOD, "input": "급식"}, "line 2: input.form"),
    "form missing": (without(GOOD, "input", "form"), "line 2: input.form"),
    "form a number": (with_input(form=3), "line 2: input.form"),
    "form blank": (with_input(form=" \t"), "line 2: input.form"),
    "form of broken characters alone": (with_input(form="\0\ud800"), "line 2: input.form"),
    "a NUL outside of any string": ('{"id": "b",\0 "input": 1}', "line 2: is not JSON"),
}
REFUSED_LABELS = {  # in a file to train or tune on
    "labels missing": (without(GOOD, "output"), "line 2: output: has no labels"),
    "labels an empty string": ({**GOOD, "output": ""}, "line 2: output: has no labels"),
    "labels a list": ({**GOOD, "output": ["joy"]}, "line 2: output: has no labels"),
    "labels all null": (
        {**GOOD, "output": dict.fromkeys(EMOTIONS)},
        "line 2: output: has no labels",
    ),
    "emotion unknown": (with_output(love="True"), "line 2: output: 'love'"),
    "emotion missing": (without(GOOD, "output", "fear"), "line 2: output.fear: is missing"),
    "label in lower case": (with_output(joy="true"), "line 2: output.joy: is 'true'"),
    "label a number": (with_output(joy=1), "line 2: output.joy: is 1"),
    "label null": (with_output(joy=None), "line 2: output.joy: is None"),
}
REFUSED = REFUSED_ANYWHERE | REFUSED_LABELS
SPAN = "begin and end that do not fit the text"
BROKEN = "broken characters"
WARNED_OF = {  # a line that is taken as it is, and what the warning names
    "target a string": (with_input(target="급식"), "targets that are no text, read as none"),
    "target form a number": (with_target(form=3), "targets that are no text, read as none"),
    "span reversed": (with_target(begin=5, end=3), SPAN),
    "span past the end": (with_target(begin=3, end=99), SPAN),
    "span before the start": (with_target(begin=-1, end=2), SPAN),
    "span of other characters": (with_target(begin=0, end=2), SPAN),
    "begin a string": (with_target(begin="3", end="5"), SPAN),
    "begin a float": (with_target(begin=3.0, end=5.0), SPAN),
    "begin a boolean": (with_target(begin=True), SPAN),
    "end null": (with_target(end=None), SPAN),
    "end missing": (without(GOOD, "input", "target", "end"), SPAN),
    "span of no target": (with_target(form=None, begin=0, end=0), SPAN),
    "target blank": (with_target(form=" "), "blank targets, read as none"),
    "id missing": (without(GOOD, "id"), "lines without an id"),
    "id a number": ({**GOOD, "id": 7}, "lines without an id"),
    "id blank": ({**GOOD, "id": " "}, "lines without an id"),
    "half a surrogate pair": (make_row(form="급식 \ud800 최고요", target="최고요"), BROKEN),
    "a NUL in the text": (make_row(form="급식 \0 최고요", target="최고요"), BROKEN),
    "a NUL in the target": (make_row(form="급\0식 최고요", target="급\0식"), BROKEN),
    "a surrogate in the id": (make_row(id="line-\udc00"), BROKEN),
}


@pytest.fixture
def warnings(caplog):
    """A function that returns what has been warned of since it was last called."""
    caplog.set_level(logging.INFO)

    def take():
        told = caplog.messages[:]
        caplog.clear()
        return told

    return take


def write_lines(path, *lines):
    """Lines given as text, or as what json.dumps takes."""
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(("line", "told"), REFUSED.values(), ids=REFUSED)
def test_a_wrong_line_is_refused_by_file_line_and_field(tmp_path, line, told):
    path = write_lines(tmp_path / "corpus.jsonl", GOOD, line)
    with pytest.raises(utils.InputError) as refusal:
        utils.read_corpus(path, labelled=True)
    message = str(refusal.value)
    assert message.startswith(f"{path}: {told}")
    assert "; " in message and "\n" not in message  # what, then the mend, on one line


@pytest.mark.parametrize(("line", "told"), REFUSED_ANYWHERE.values(), ids=REFUSED_ANYWHERE)
def test_a_line_without_a_text_is_refused_in_a_file_to_predict(tmp_path, line, told):
    path = write_lines(tmp_path / "corpus.jsonl", GOOD, line)
    with pytest.raises(utils.InputError, match=told):
        utils.summarise(path, EMOTIONS)


@pytest.mark.parametrize(("row", "told"), WARNED_OF.values(), ids=WARNED_OF)
@pytest.mark.parametrize("labelled", [True, False], ids=["to train", "to predict"])
def test_what_changes_nothing_is_warned_of_once(tmp_path, row, told, labelled, warnings):
    path = write_lines(tmp_path / "corpus.jsonl", GOOD, row, GOOD, row)
    if labelled:
        assert utils.read_corpus(path, labelled=True) == [GOOD, row, GOOD, row]
    else:
        assert utils.summarise(path, EMOTIONS) == (4, True)
    [warning] = warnings()
    assert warning.startswith(f"warning: {path}: line 2 first: ") and f"{told} (2)" in warning
    assert "\n" not in warning


def test_several_oddities_make_one_warning(tmp_path, warnings):
    """Nine lines, of which six have spans that fit nothing, and a blank one among them."""
    spans = [(3, 99), (5, 3), ("3", "5"), (3.0, 5.0)]
    rows = [GOOD, *(with_target(begin=begin, end=end) for begin, end in spans)]
    rows += [with_target(form="", begin=None, end=None), with_input(target=None)]
    rows += [with_target(form=None, begin=0, end=0), without(GOOD, "input", "target", "end")]
    rows = [row | {"id": f"a-{number}"} for number, row in enumerate(rows)]
    path = write_lines(tmp_path / "corpus.jsonl", *rows[:4], " ", *rows[4:])
    assert utils.read_corpus(path, labelled=True) == rows
    told = f"line 2 first: {SPAN} (6), blank lines (1); all lines are used"
    assert warnings() == [f"warning: {path}: {told}"]


def test_a_file_in_order_is_not_warned_of(tmp_path, warnings):
    path = write_lines(tmp_path / "corpus.jsonl", GOOD, make_row(target=None), "", " ", "")
    assert len(utils.read_corpus(path, labelled=True)) == 2
    assert utils.summarise(path, EMOTIONS) == (2, True)
    assert warnings() == []


def test_windows_come_without_another_warning(tmp_path, warnings, monkeypatch):
    monkeypatch.setattr(utils, "WINDOW", 2)
    rows = [with_target(begin=0), GOOD, GOOD]
    path = write_lines(tmp_path / "corpus.jsonl", *rows)
    assert list(utils.windows(path)) == [rows[:2], rows[2:]]
    assert warnings() == []


UNLABELLED = ["left out", None, "", {}, dict.fromkeys(EMOTIONS)]


@pytest.mark.parametrize("output", UNLABELLED, ids=lambda value: str(value)[:12])
def test_every_form_of_an_unlabelled_line_can_be_predicted(tmp_path, output, warnings):
    row = make_row(labels=None) | ({} if output == "left out" else {"output": output})
    path = write_lines(tmp_path / "corpus.jsonl", row, row)
    assert not utils.has_labels(row)
    assert utils.summarise(path, EMOTIONS) == (2, False)
    assert warnings() == []
    with pytest.raises(utils.InputError, match="line 1: output: has no labels"):
        utils.read_corpus(path, labelled=True)


def test_labels_on_some_lines_alone_are_told_of_and_not_used(tmp_path, warnings):
    rows = [make_row("p", labels=None) | {"output": output} for output in UNLABELLED[1:]]
    for mixed in ([*rows, GOOD], [GOOD, *rows]):
        path = write_lines(tmp_path / "corpus.jsonl", *mixed)
        assert utils.summarise(path, EMOTIONS) == (5, False)
        [warning] = warnings()
        assert "1 of 5 lines have labels; none is used" in warning


def test_a_file_labelled_with_other_labels_is_refused(tmp_path):
    path = write_lines(tmp_path / "corpus.jsonl", GOOD, GOOD)
    with pytest.raises(
        utils.InputError, match=r"output: 'joy' is no label of this corpus; use good, bad"
    ):
        utils.summarise(path, ["good", "bad"])
    assert utils.summarise(path, EMOTIONS[::-1]) == (2, True)


@pytest.mark.parametrize("case", ["label in lower case", "label a number", "label null"])
def test_labels_that_say_neither_are_refused_where_they_would_be_measured_by(tmp_path, case):
    line, told = REFUSED_LABELS[case]
    with pytest.raises(utils.InputError, match=told):
        utils.summarise(write_lines(tmp_path / "corpus.jsonl", GOOD, line), EMOTIONS)
    unlabelled = make_row(labels=None)
    path = write_lines(tmp_path / "corpus.jsonl", GOOD, line, unlabelled)
    assert utils.summarise(path, EMOTIONS) == (3, False)  # none is used


def test_the_labels_of_a_corpus_are_those_of_its_first_row(tmp_path):
    first = make_row("a") | {"output": {"good": "False", "bad": "True"}}
    second = make_row("b") | {"output": {"bad": "True", "good": "True"}}
    rows = utils.read_corpus(write_lines(tmp_path / "corpus.jsonl", first, second), labelled=True)
    assert utils.labels_of(rows) == ("good", "bad")
    assert utils.encode_labels(rows, ("good", "bad")).tolist() == [[0, 1], [1, 1]]
    path = write_lines(tmp_path / "corpus.jsonl", first, GOOD)
    with pytest.raises(utils.InputError, match=r"line 2: output: .* is no label .*; use good, bad"):
        utils.read_corpus(path, labelled=True)
    with pytest.raises(utils.InputError, match=r"line 1: output: .* is no label .*; use joy, "):
        utils.read_corpus(path, labelled=True, labels=EMOTIONS)


@pytest.mark.parametrize("id", [None, 7, " ", "a"], ids=["null", "number", "blank", "twice"])
def test_ids_that_are_needed_have_to_be_there_and_differ(id):
    utils.check_ids([make_row("a"), make_row("b")], "train.jsonl")
    rows = [make_row("a"), make_row("b"), make_row(id)]
    told = "'a' stands in row 1 too" if id == "a" else "is missing"
    with pytest.raises(utils.InputError, match=f"train.jsonl: row 3: id: {told}; "):
        utils.check_ids(rows, "train.jsonl")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        ("급식".encode("cp949"), "line 1: byte 1 is not UTF-8"),
        (json.dumps(GOOD).encode("utf-16"), "line 1: byte 1 is not UTF-8"),
        (json.dumps(GOOD).encode() + b"\n\xff\n", "line 2: byte 1 is not UTF-8"),
    ],
    ids=["empty", "blank lines alone", "CP949", "UTF-16", "broken further on"],
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


def test_harmless_variations_are_accepted(tmp_path, warnings):
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
    content = "\r\n".join(json.dumps(row) for row in rows).encode()
    path.write_bytes(b"\xef\xbb\xbf" + content + b"\r\n\r\n \n")
    assert utils.read_corpus(path, labelled=True) == rows
    assert utils.encode_labels(rows, EMOTIONS).sum(1).tolist() == [1, 1, 1, 1, 0, 1]
    assert warnings() == []


def test_the_example_of_the_corpus_has_a_right_span():
    example = "하,,,,내일 옥상다이브 하기 전에 표 구하길 기도해주세요"
    assert example[20:21] == "표"


characters = st.characters(exclude_categories=("Cs",), exclude_characters="\0")
texts = st.text(characters, min_size=1).filter(str.strip)
labelled_texts = st.tuples(texts, st.lists(st.booleans(), min_size=8, max_size=8))


@given(st.lists(labelled_texts, min_size=1, max_size=5), st.booleans())
def test_any_valid_corpus_is_read_as_written(tmp_path_factory, content, ascii_only):
    rows = [make_row(f"line-{n}", form, form, ()) for n, (form, _) in enumerate(content)]
    for row, (_, labels) in zip(rows, content, strict=True):
        row["output"] = utils.decode_labels(labels, EMOTIONS)
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    lines = "\n".join(json.dumps(row, ensure_ascii=ascii_only) for row in rows)
    path.write_text(lines, encoding="utf-8", newline="")
    assert utils.read_corpus(path, labelled=True) == rows
    encoded = utils.encode_labels(rows, EMOTIONS)
    assert encoded.tolist() == [[float(label) for label in labels] for _, labels in content]


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    path.write_bytes(content)
    with pytest.raises(utils.InputError) as refusal:
        utils.read_corpus(path)
    assert "\n" not in str(refusal.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["form", "target", "begin", "end", "joy"]), inner)
    ),
    max_leaves=6,
)


@given(
    st.fixed_dictionaries({}, optional={name: json_values for name in ("id", "input", "output")})
)
def test_any_object_is_read_or_refused(tmp_path_factory, row):
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    path.write_text(json.dumps(row))
    for labelled in (False, True):
        try:
            assert isinstance(utils.read_corpus(path, labelled)[0]["input"]["form"], str)
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
        ("급식 \0 최고 \ud800요", "급식 최고 요"),  # what no tokenizer takes
    ],
)
def test_normalise_text(text, normalised):
    assert utils.normalise_text(text) == normalised


noise = st.sampled_from(["&name1&", "&others&", "ㅋㅋㅋ", "!!!", "name1", "e\u0301"])
noise |= st.sampled_from("ㅠ,& \u1100\u1161가\0\ud800\udc00")


@given(st.lists(noise | st.text(max_size=3), max_size=12).map("".join))
def test_normalise_text_is_stable_and_keeps_something(text):
    once = utils.normalise_text(text)
    assert utils.normalise_text(once) == once
    assert bool(once) == bool(text)
    if once != utils.BROKEN.sub(" ", text):  # else nothing but names, and it stays
        assert "  " not in once and once == once.strip() and unicodedata.is_normalized("NFC", once)


def test_a_target_that_would_be_emptied_stays_as_it_was():
    row = make_row(form="&name1& 최고", target="&name1&")
    assert utils.text_and_target(row) == ("최고", "&name1&")


@pytest.mark.parametrize("target", [None, {}, {"form": None}, {"form": ""}, {"form": " \0"}])
def test_a_target_that_says_nothing_is_none(target):
    assert utils.text_and_target(with_input(target=target)) == ("오늘 급식 최고", None)
    assert utils.text_and_target(without(GOOD, "input", "target")) == ("오늘 급식 최고", None)


def test_labels_are_encoded_in_the_order_of_the_corpus():
    encoded = utils.encode_labels([make_row(labels=("joy", "sadness"))], EMOTIONS)
    assert encoded.tolist() == [[1, 0, 0, 0, 0, 0, 0, 1]]
    assert utils.encode_labels([], EMOTIONS).shape == (0, 8)
    decoded = utils.decode_labels(np.array([0, 1, 0, 0, 0, 0, 0, 0]), EMOTIONS)
    assert list(decoded) == list(EMOTIONS)
    assert decoded["anticipation"] == "True" and decoded["joy"] == "False"
