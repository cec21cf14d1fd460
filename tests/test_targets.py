"""The target marked in its sentence: how it is read, and that a checkpoint keeps it."""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from conftest import EMOTIONS, ROOT, call, make_row, write_rows
from small_runs import MODELS
from transformers import AutoTokenizer

import predict
import utils
from emotion import targets

MARKS = ("<<", ">>")


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(MODELS["bert_plain.py"])


def about(form, target, begin=None, end=None):
    """A row about a target, in its first place unless told otherwise."""
    begin = form.find(target) if begin is None else begin
    end = begin + len(target) if end is None else end
    place = {"form": target, "begin": begin, "end": end}
    return {"id": "1", "input": {"form": form, "target": place}}


@pytest.mark.parametrize(
    ("row", "expected"),
    {
        "in its place": (about("오늘 급식 최고", "급식"), "오늘 <<급식>> 최고"),
        "the second of two": (about("표 한 장, 표", "표", 7, 8), "표 한 장, <<표>>"),
        "inside a word": (about("급식실", "급식"), "<<급식>>실"),
        "the whole": (about("급식", "급식"), "<<급식>>"),
        "before what is normalised": (about("표!!!! \u200b", "표"), "<<표>>!!"),
        "a name that goes": (about("&name1& 최고", "&name1&"), "<<&name1&>> 최고"),
        "a place that does not fit": (about("오늘 급식", "급식", 0, 2), "오늘 급식"),
        "a place before the text": (about("오늘 급식", "급식", -2, 5), "오늘 급식"),
        "no place": ({"input": {"form": "오늘 급식", "target": {"form": "급식"}}}, "오늘 급식"),
        "no target": (make_row(target=None), "오늘 급식 최고"),
        "a target that is not seen": (about("오늘\u200b 최고", "\u200b"), "오늘 최고"),
        "signs of our own in the text": (about("\ufdd0급식\ufdd1", "급식"), "<<급식>>"),
        "what makes a special token": (about("글 PAD", "PAD"), "글 <<PAD>>"),
    }.values(),
)
def test_a_target_is_marked_where_it_stands(row, expected, tokenizer):
    [(text, target)] = targets.read([row], tokenizer, True, MARKS)
    assert text == expected
    assert target == utils.text_and_target(row)[1]
    [(unmarked, beside)] = targets.read([row], tokenizer, True, None)
    assert (unmarked, beside) == utils.text_and_target(row)


def test_one_line_of_train_in_four_has_no_place(tokenizer):
    rows = {"train": [about("오늘 급식 최고", "급식")] * 8, "dev": [about("오늘 급식", "급식")] * 4}
    read = targets.unplace_some(rows)
    texts = [text for text, _ in targets.read(read["train"], tokenizer, True, MARKS)]
    assert texts == [*["오늘 <<급식>> 최고"] * 3, "오늘 급식 최고"] * 2
    assert (
        read["dev"] == rows["dev"]
        and targets.read(read["train"], tokenizer, True, None) == [("오늘 급식 최고", "급식")] * 8
    )
    assert targets.unplaced(make_row(target=None))["input"]["target"] == {"form": None}


def test_text_as_it_is_is_marked_too(tokenizer):
    [(text, _)] = targets.read([about("급식!!!!  ㅋㅋㅋ", "급식")], tokenizer, False, MARKS)
    assert text == "<<급식>>!!!!  ㅋㅋㅋ"


@pytest.mark.parametrize("script", ["bert_plain.py", "gpt_train.py"])
def test_how_targets_are_read_is_kept_with_the_checkpoint(script, small, tmp_path):
    """As trained: a place changes scores of a marked run, and nothing in one of pairs."""
    rows = [about("표 한 장 사서 표 검사 받았다", "표", *place) for place in ((0, 1), (9, 10))]
    write_rows(tmp_path / "twice.jsonl", [row | {"id": str(n)} for n, row in enumerate(rows)])
    for kind, flags in (("marked", ("--target", "marked")), ("pair", ())):
        best = small.undisturbed(script, *flags) / "best"
        file = "prompt.json" if script == "gpt_train.py" else "config.json"
        kept = json.loads((best / file).read_text(encoding="utf-8"))["target_marks"]
        assert kept == (list(MARKS) if kind == "marked" else None)
        card = (best / "README.md").read_text(encoding="utf-8")
        assert ("between `<<` and `>>`" in card) == (kind == "marked")
        flags = "--input", tmp_path / "twice.jsonl", "--output", tmp_path / f"{kind}.jsonl"
        assert call("predict.py", best, *flags, "--precision", "fp32").returncode == 0
        written = (tmp_path / f"{kind}.jsonl").read_text(encoding="utf-8").splitlines()
        one, two = (list(json.loads(line)["scores"].values()) for line in written)
        assert (one == two) == (kind == "pair")
        classify = predict.load(best, precision="fp32")
        again = classify(
            [row["input"]["form"] for row in rows], [r["input"]["target"] for r in rows]
        )
        assert [list(each["scores"].values()) for each in again] == [one, two]
        beside, by_hand = classify(
            [rows[0]["input"]["form"], "<<표>> 한 장 사서 표 검사 받았다"], ["표"] * 2
        )
        found = np.array(
            [[each["scores"][name] for name in EMOTIONS] for each in (beside, by_hand)]
        )
        assert (found[0] == one).all() == (kind == "pair")  # no place: beside it alone
        assert (found[1] == one).all() == (kind == "marked")


def test_the_lines_of_the_exchange_ask_for_another_target_of_their_sentence():
    import exchange

    form = "표 검사는 느리고 공연은 좋았다"
    rows = [
        about(form, "표"),
        about(form, "공연"),
        about("급식 최고", "급식"),
        make_row(target=None),
        *(about("표 한 장, 표", "표", *place) for place in ((0, 1), (7, 8))),  # the same twice
    ]
    asked = exchange.with_targets(rows)
    assert asked["true"] == rows[:2]
    named = [[utils.text_and_target(row)[1] for row in asked[each]] for each in exchange.ASKED]
    assert named == [["표", "공연"], ["표", "공연"], ["공연", "표"], [None, None]]
    assert asked["another"][0]["input"]["target"] == rows[1]["input"]["target"]  # with its place
    with pytest.raises(utils.InputError, match="no sentence of the lines has several targets; "):
        exchange.with_targets(rows[2:])


def test_the_tables_of_published_splits_name_flags_that_are_there():
    import published

    import bert_plain
    import ensemble
    import gpt_train

    parsers = {
        "bert_plain.py": bert_plain.argument_parser("bert_plain", None),
        "gpt_train.py": gpt_train.argument_parser(),
        "ensemble.py": ensemble.argument_parser(),
    }
    parsers["bert_plain.py"].add_argument("--pooling")

    def stages(table, student):
        options = {"table": table, "student": student, "model": "E5", "seeds": (42, 43)}
        options = argparse.Namespace(output_dir=Path("out"), **options)
        for stage in published.runs_of(options, Path("corpus")):
            stage.pop("linear", None)
            yield {name: parsers[it[0]].parse_args(it[1:]) for name, it in stage.items()}

    for table in published.TABLES:
        [runs] = stages(table, student=False)
        assert len(runs) == 2 * len(published.TABLES[table])
    first, second, third = stages("target", student=True)
    average = second["average-folds"].runs
    assert [path.name for path in average] == [name for name in first if "folds" in name]
    assert [each.fold for name, each in first.items() if "folds-pair" in name] == [0, 1, 2, 3, 4]
    assert list(third) == [f"student-{each}-{n}" for each in ("pair", "marked") for n in (42, 43)]
    taught = third["student-marked-43"]
    assert (taught.target, taught.seed, taught.epochs) == ("marked", 43, 6)
    assert taught.soft_labels == Path("out/average-folds")
    assert next(stages("goemotions", student=True))["folds-mean-0"].tune == "macro"
    with pytest.raises(utils.InputError, match="objective has other rows than of bert_plain"):
        next(stages("objective", student=True))


def test_a_table_may_be_of_some_lines_and_of_all_labels_but_one(tmp_path):
    import published

    rows = utils.read_corpus(utils.SAMPLE / "train.jsonl")[:30]
    for split in published.SPLITS:
        write_rows(tmp_path / f"{split}.jsonl", rows)
    published.take_part(tmp_path, 10, "joy", tmp_path / "part")
    train, dev = (
        utils.read_corpus(tmp_path / "part" / f"{each}.jsonl") for each in published.SPLITS[:2]
    )
    assert len(train) == 10 and [row["id"] for row in dev] == [row["id"] for row in rows]
    without = {name: value for name, value in rows[0]["output"].items() if name != "joy"}
    assert dev[0] == rows[0] | {"output": without}
    assert all(row in dev for row in train) and train != dev[:10]
    with pytest.raises(utils.InputError, match="has no label angry; give one of joy, "):
        published.take_part(tmp_path, 10, "angry", tmp_path / "other")
    with pytest.raises(utils.InputError, match="holds other lines"):
        published.take_part(tmp_path, 9, "joy", tmp_path / "part")


def test_runs_of_published_splits_are_made_once_and_what_is_anothers_stays(tmp_path):
    import published

    rows = utils.read_corpus(utils.SAMPLE / "train.jsonl")[:30]
    for split in published.SPLITS:
        write_rows(tmp_path / f"{split}.jsonl", rows)
    linear = {"linear": ("linear.py", "--corpus", str(tmp_path), "--tune", "micro")}

    def make(commands):
        return list(published.make(commands, tmp_path, 1))

    assert make(linear) == ["linear"]
    record = tmp_path / "linear" / "run.json"
    first = record.read_bytes()
    assert make(linear) == ["linear"] and record.read_bytes() == first
    with pytest.raises(utils.InputError, match="linear: has another --tune; give another"):
        make({"linear": (*linear["linear"][:-1], "macro")})
    write_rows(tmp_path / "dev.jsonl", rows[:20])
    with pytest.raises(utils.InputError, match="linear: is of other lines"):
        make(linear)
    average = tmp_path / "average-folds"
    average.mkdir()
    (average / "thesis.txt").write_text("mine")
    ensemble = ("ensemble.py", str(tmp_path / "linear"), str(tmp_path / "linear"))
    with pytest.raises(utils.RunError, match="average-folds: is not empty"):
        make({"average-folds": ensemble, "later": ("linear.py", "--corpus", "nowhere")})
    assert (average / "thesis.txt").read_text() == "mine" and not (tmp_path / "later").exists()


def test_a_table_of_published_splits_may_be_stopped(tmp_path):
    rows = utils.read_corpus(utils.SAMPLE / "train.jsonl")
    for split in ("train", "dev", "test"):
        write_rows(tmp_path / f"{split}.jsonl", rows[:400])
    out = tmp_path / "out"
    given = ["--corpus", tmp_path, "--model", MODELS["bert_plain.py"], "--output-dir", out]
    script = ROOT / "tests" / "benchmarks" / "published.py"
    command = [sys.executable, script, "goemotions", *given, "--seeds", "42", "43", "--jobs", "1"]
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while not (out / "mean-42" / "train.log").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    process.terminate()
    assert process.communicate() == (None, "published.py: interrupted\n")
    assert process.returncode == 130
    running = [each.info["cmdline"] or [] for each in psutil.process_iter(["cmdline"])]
    assert not [each for each in running if str(out / "mean-42") in each]
    assert not (out / "mean-43").exists() and not (out / "mean-42" / "metrics.json").exists()
