"""Reading, refusing, warning, labelling and normalising."""

import argparse
import itertools
import json
import logging
import unicodedata

import numpy as np
import pytest
from conftest import EMOTIONS, make_row, write_rows
from hypothesis import given
from hypothesis import strategies as st

import utils
from emotion import data

GOOD = make_row()
CASES = utils.ROOT.parent / "shared" / "cases"


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
    "a label without a name": (
        {**GOOD, "output": {**GOOD["output"], " ": "True"}},
        "line 2: output: ",
    ),
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


def test_a_table_is_told_what_makes_a_corpus_of_it(tmp_path):
    path = write_lines(tmp_path / "corpus.csv", "text,joy", "급식이 맛있다,True")
    with pytest.raises(utils.InputError, match=r"line 1: is not JSON .*data/convert\.py"):
        utils.read_corpus(path, labelled=True)


@pytest.mark.parametrize(("line", "told"), REFUSED_ANYWHERE.values(), ids=REFUSED_ANYWHERE)
def test_a_line_without_a_text_is_refused_in_a_file_to_predict(tmp_path, line, told):
    path = write_lines(tmp_path / "corpus.jsonl", GOOD, line)
    with pytest.raises(utils.InputError, match=told):
        data.summarise(path, EMOTIONS)


@pytest.mark.parametrize(("row", "told"), WARNED_OF.values(), ids=WARNED_OF)
@pytest.mark.parametrize("labelled", [True, False], ids=["to train", "to predict"])
def test_what_changes_nothing_is_warned_of_once(tmp_path, row, told, labelled, warnings):
    path = write_lines(tmp_path / "corpus.jsonl", GOOD, row, GOOD, row)
    if labelled:
        assert utils.read_corpus(path, labelled=True) == [GOOD, row, GOOD, row]
    else:
        assert data.summarise(path, EMOTIONS) == (4, True)
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
    assert data.summarise(path, EMOTIONS) == (2, True)
    assert warnings() == []


def test_windows_come_without_another_warning(tmp_path, warnings, monkeypatch):
    monkeypatch.setattr(data, "WINDOW", 2)
    rows = [with_target(begin=0), GOOD, GOOD]
    path = write_lines(tmp_path / "corpus.jsonl", *rows)
    assert list(data.windows(path)) == [rows[:2], rows[2:]]
    assert warnings() == []


UNLABELLED = ["left out", None, "", {}, dict.fromkeys(EMOTIONS)]


@pytest.mark.parametrize("output", UNLABELLED, ids=lambda value: str(value)[:12])
def test_every_form_of_an_unlabelled_line_can_be_predicted(tmp_path, output, warnings):
    row = make_row(labels=None) | ({} if output == "left out" else {"output": output})
    path = write_lines(tmp_path / "corpus.jsonl", row, row)
    assert not utils.has_labels(row)
    assert data.summarise(path, EMOTIONS) == (2, False)
    assert warnings() == []
    with pytest.raises(utils.InputError, match="line 1: output: has no labels"):
        utils.read_corpus(path, labelled=True)


def test_who_writes_a_target_as_a_string_is_told_how_it_is_written(tmp_path, warnings):
    utils.read_corpus(write_lines(tmp_path / "corpus.jsonl", with_input(target="급식")))
    [warning] = warnings()
    assert 'read as none (1) (write {"target": {"form": TEXT}}); all lines are used' in warning


@pytest.mark.parametrize("output", ["joy", ["joy"], 1])
def test_labels_that_are_no_object_are_warned_of_in_a_file_to_predict(tmp_path, output, warnings):
    row = make_row(labels=None) | {"output": output}
    path = write_lines(tmp_path / "corpus.jsonl", row, row)
    assert data.summarise(path, EMOTIONS) == (2, False)
    [warning] = warnings()
    assert "line 1 first: outputs that are no object, read as none (2); all" in warning


def test_labels_on_some_lines_alone_are_told_of_and_not_used(tmp_path, warnings):
    rows = [make_row("p", labels=None) | {"output": output} for output in UNLABELLED[1:]]
    for mixed in ([*rows, GOOD], [GOOD, *rows]):
        path = write_lines(tmp_path / "corpus.jsonl", *mixed)
        assert data.summarise(path, EMOTIONS) == (5, False)
        [warning] = warnings()
        first = mixed.index(GOOD) + 1
        assert f"1 of 5 lines have labels; none is used (row {first} is the first)" in warning


def test_a_file_labelled_with_other_labels_is_refused_or_its_labels_are_not_used(
    tmp_path, warnings
):
    path = write_lines(tmp_path / "corpus.jsonl", GOOD, GOOD)
    with pytest.raises(
        utils.InputError, match=r"output: 'joy' is no label of this corpus; use good, bad"
    ):
        data.summarise(path, ["good", "bad"])
    assert data.summarise(path, ["good", "bad"], predicts=True) == (2, False)
    assert "use good, bad; its labels are not used" in warnings()[-1]
    assert data.summarise(path, EMOTIONS[::-1]) == (2, True)


@pytest.mark.parametrize("case", ["label in lower case", "label a number", "label null"])
def test_labels_that_say_neither_are_refused_where_they_would_be_measured_by(tmp_path, case):
    line, told = REFUSED_LABELS[case]
    with pytest.raises(utils.InputError, match=told):
        data.summarise(write_lines(tmp_path / "corpus.jsonl", GOOD, line), EMOTIONS)
    unlabelled = make_row(labels=None)
    path = write_lines(tmp_path / "corpus.jsonl", GOOD, line, unlabelled)
    assert data.summarise(path, EMOTIONS) == (3, False)  # none is used


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
    data.check_ids([make_row("a"), make_row("b")], "train.jsonl")
    rows = [make_row("a"), make_row("b"), make_row(id)]
    told = "'a' stands in row 1 too" if id == "a" else "is missing"
    with pytest.raises(utils.InputError, match=f"train.jsonl: row 3: id: {told}; "):
        data.check_ids(rows, "train.jsonl")


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


def test_corpora_are_looked_for_beside_the_script_and_the_test_file_is_optional(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(utils, "ROOT", tmp_path)
    (tmp_path / "data").mkdir()
    args = argparse.Namespace(train_file=None, dev_file=None, test_file=None)
    found = {
        split: write_rows(tmp_path / "data" / f"nikluge-ea-2023-{split}.jsonl", [make_row()])
        for split in ("train", "dev")
    }
    assert data.find_files(args, data.SPLITS) == found  # called from elsewhere
    found["test"] = write_rows(tmp_path / "data" / "nikluge-ea-2023-test.jsonl", [make_row()])
    assert data.find_files(args, data.SPLITS) == found


def test_the_example_of_the_corpus_has_a_right_span(tmp_path, warnings):
    """As data/README.md shows it."""
    page = (utils.ROOT / "data" / "README.md").read_text(encoding="utf-8")
    example = page.partition('    {"id"')[2].partition("\n\n")[0]
    path = tmp_path / "example.jsonl"
    path.write_text('{"id"' + example.replace("\n", ""), encoding="utf-8")
    [row] = utils.read_corpus(path, labelled=True)
    assert warnings() == [] and row["input"]["target"]["form"] == "표"


characters = st.characters(exclude_categories=("Cs",), exclude_characters="\0")
texts = st.text(characters, min_size=1).filter(utils.normalise_text)
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
        # what is not seen, and what looks like a blank
        ("오\u200b늘\ufeff 급\u00ad식\u2060\ufe0f 최\u034f고\u200d", "오늘 급식 최고"),
        ("오늘\u3164급식\u2800최고\uffa0\u3000!\u00a0", "오늘 급식 최고 !"),
        ("오늘\x08 급식\x7f", "오늘 급식"),
        ("\u200b\u3164\u2800\u00ad \u115f", ""),
        # an emoji stays whole
        *(
            (text, text)
            for text in ("최고 ❤\ufe0f", "👨\u200d👩\u200d👧", "1\ufe0f\u20e3위", "👍🏽", "🇰🇷")
        ),
        *(
            (text, text)
            for text in ("👁\ufe0f\u200d🗨\ufe0f", "🏴\U000e0067\U000e0062\U000e007f", "👩🏽\u200d💻")
        ),
        ("❤\u200d 최고\ufe0f", "❤ 최고"),
        # Hangul letters of other blocks
        ("\u110f\u110f\u110f\u110f", "ㅋㅋ"),
        ("\uffbb\uffbb\uffbb \uffbe", "ㅋㅋ ㅎ"),
        ("\u1172\u1172\u1172 \u115f\u1161", "ㅠㅠ ㅏ"),
        ("\u11a8", "ㄱ"),
        # between ampersands
        *(
            (text, text)
            for text in ("삼성&kt&엘지", "엘지&kt&삼성 경기", "R&B&b", "A&b2&c", "AT&T&")
        ),
        *(
            (f"오늘 &{name}& 최고", "오늘 최고")
            for name in ("name", "name12", "account2", "others")
        ),
        *((f"오늘 &{name}& 최고", "오늘 최고") for name in ("company-name", "tel-num1", "phone3")),
    ],
)
def test_normalise_text(text, normalised):
    assert utils.normalise_text(text) == normalised


# Over all of Unicode

every = st.characters(exclude_categories=()) | st.sampled_from("ㅠ,& \u1100\u1161가\0\ud800\udc00")
every |= st.sampled_from(["&name1&", "&others&", "ㅋㅋㅋ", "!!!", "name1", "e\u0301"])
every |= st.sampled_from("\u0958\ufb2c\U0001d160\u200d\ufe0f❤👩\u110f\uffbb\u3164\u20e31")
unseen = st.sampled_from("\u200b\u2060\u00ad\ufeff\u034f\u180e\u2063\u17b4\U000e0100\x08")
blanks = st.sampled_from("\u3164\uffa0\u2800\u3000\u00a0\u2003\t")
seen = st.characters(categories=("L", "N", "P")).filter(utils.normalise_text)


@given(st.lists(every, max_size=12).map("".join))
def test_normalising_again_changes_nothing_and_it_never_lengthens(text):
    once = utils.normalise_text(text)
    assert utils.normalise_text(once) == once and len(once) <= len(text)
    assert "  " not in once and once == once.strip() and not utils.BROKEN.search(once)


def test_each_character_of_unicode_has_one_spelling_that_is_no_longer():
    for code in itertools.chain(range(0xD800), range(0xE000, 0x20000), range(0xE0000, 0xE0200)):
        apart = unicodedata.normalize("NFD", chr(code))
        once = utils.normalise_text(chr(code))
        assert len(once) <= 1 and utils.normalise_text(once) == once, hex(code)
        assert utils.normalise_text(apart) == once, hex(code)


@given(st.lists(st.tuples(seen, st.none() | unseen), min_size=1, max_size=12))
def test_what_is_not_seen_changes_nothing(pairs):
    text = "".join(character for character, _ in pairs)
    other = "".join(character + (hidden or "") for character, hidden in pairs)
    assert utils.normalise_text(other) == utils.normalise_text(text)


@given(st.lists(st.tuples(seen, blanks), min_size=1, max_size=12))
def test_every_blank_is_one(pairs):
    text, other = (
        "".join(character + (blank or " ") for character, blank in each)
        for each in ([(character, "") for character, _ in pairs], pairs)
    )
    assert utils.normalise_text(other) == utils.normalise_text(text)


@pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not beside this repository")
def test_the_cases_that_people_met():
    for line in (CASES / "text.jsonl").read_text(encoding="utf-8").splitlines():
        case = json.loads(line)
        assert utils.normalise_text(case["form"]) == (case["reads_as"] or ""), case["name"]
    assert len(utils.read_corpus(CASES / "accepted_with_a_warning.jsonl", labelled=True)) == 9
    assert data.summarise(CASES / "to_predict.jsonl", EMOTIONS) == (5, False)


def test_texts_are_read_as_they_are_where_that_is_asked_for():
    row = {"input": {"form": " ㅋㅋㅋ\u200b \0최고", "target": {"form": "&name1& "}}}
    assert utils.text_and_target(row, normalise=False) == (" ㅋㅋㅋ\u200b  최고", "&name1&")


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
