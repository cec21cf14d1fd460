"""report.html: what it says, and that it stands alone."""

import json
import re

import numpy as np
import pytest
from conftest import EMOTIONS, call, make_row

from emotion import report


def test_each_run_leaves_a_page_that_stands_alone(small, tmp_path):
    """A training, a prediction of labelled lines, an average."""
    run = small.undisturbed("bert_plain.py")
    other = small.undisturbed("bert_plain.py", "--seed", 7)
    predicted, average = tmp_path / "predicted", tmp_path / "average"
    where = ["--model-ckpt-path", run / "best", *small.corpus()[2:4], "--output-dir", predicted]
    assert call("bert_plain.py", *where).returncode == 0
    flags = "--resamples", 100, "--output-dir", average
    assert call("ensemble.py", run, other, *flags).returncode == 0
    for directory, curves in ((run, 2), (predicted, 0), (average, 2)):
        page = (directory / "report.html").read_text(encoding="utf-8")
        assert "This page holds lines of the corpus" in page
        assert not re.search(r"(src|href)=|url\(|@import|https?:", page)
        assert page.count("<svg") == page.count("</svg>") > 0
        assert page.count("training loss") == curves  # a caption, and what is read aloud
        assert "joy 기쁨" in page and "The hardest lines" in page
        assert "threshold 0." in page
    assert "the average" in page and str(other) in page
    told = (predicted / "report.html").read_text(encoding="utf-8")
    assert f"{run / 'best'}" in told and "klue/roberta-large" not in told and "epochs" not in told
    assert json.loads((predicted / "run.json").read_text())["seed"] is None


def test_text_of_the_corpus_is_text(tmp_path):
    rows = [make_row("1", "<script>표</script> & 표", "표"), make_row("2", target=None)]
    gold = np.eye(8)[:2]
    history = [{"epoch": each, "loss": 1.0} for each in (0.5, 1.0)]
    history.append({"epoch": 1.0, "micro_f1": 0.5})  # of one epoch: a point
    shown = report.Shown("it", {"dev": gold * 0.9}, {"dev": gold > 0}, history)
    nothing = {"value": 1.0, "low": 1.0, "high": 1.0}
    figures = {"micro_f1": nothing, "macro_f1": nothing}
    comparison = {"systems": {"it": figures | {"per_emotion": dict.fromkeys(EMOTIONS, nothing)}}}
    record = {"script": "x.py", "arguments": {}, "data": {}}
    given = {"dev": rows}, {"dev": gold}, {"dev": comparison | {"resamples": 10}}, EMOTIONS
    report.write(tmp_path, record, [shown], *given)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script>" not in page and "&lt;script&gt;표&lt;/script&gt; &amp; 표" in page
    [point] = re.findall(r'<circle class="curve c0" r="3" cx="(.*)" cy="(.*)"/>', page)
    assert point == ("440.0", "140.0")


def test_mistakes_are_counted_by_what_was_missed_and_what_was_wrong():
    present = np.array([[1, 0, 0], [1, 0, 0], [0, 0, 1], [0, 1, 0]], dtype=bool)
    decisions = np.array([[0, 1, 0], [0, 0, 0], [1, 0, 1], [0, 1, 0]], dtype=bool)
    assert report.count_mistakes(present, decisions).tolist() == [
        [0, 1, 0, 1],
        [0, 0, 0, 0],
        [0, 0, 0, 0],
        [1, 0, 0, 0],
    ]


def test_scores_are_held_against_what_is_there():
    scores = np.array([[0.05, 0.07], [0.92, 0.96], [0.94, 0.98]])
    present = np.array([[0, 1], [1, 1], [1, 0]])
    [low, high] = report.calibration(present, scores)
    assert low == pytest.approx((0.06, 0.5)) and high == pytest.approx((0.95, 0.75))


def test_parts_are_quarters_of_length_and_of_a_target_or_none():
    rows = [make_row(str(n), "가" * n, "가" if n == 1 else None) for n in (1, 2, 3, 4, 10)]
    gold = np.ones((5, 1), dtype=bool)
    found = report.slices(rows, gold, np.array([[1], [1], [0], [1], [0]], dtype=bool))
    assert found == [
        ("1 to 2 characters", 2, 1.0),
        ("3 to 3 characters", 1, 0.0),
        ("4 to 4 characters", 1, 1.0),
        ("5 to 10 characters", 1, 0.0),
        ("with a target", 1, 1.0),
        ("without", 4, pytest.approx(2 / 3)),
    ]


def test_the_hardest_lines_come_first():
    rows = [make_row(str(n), f"줄 {n}", None) for n in range(3)]
    present = np.array([[1, 0], [1, 0], [0, 1]], dtype=bool)
    scores = np.array([[0.9, 0.1], [0.2, 0.7], [0.6, 0.5]])
    found = report.hardest(rows, present, scores, scores > 0.5, ["joy", "fear"])
    assert [line["text"] for line in found] == ["줄 1", "줄 2", "줄 0"]
    assert found[0] == {
        "text": "줄 1",
        "target": None,
        "scores": [("fear", 0.7), ("joy", 0.2)],
        "gold": ["joy"],
        "predicted": ["fear"],
    }
