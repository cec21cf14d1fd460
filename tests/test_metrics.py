"""Metrics against cases worked out by hand, and the decision rule against trying every threshold."""

import json

import numpy as np
import pytest
from conftest import make_row
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import utils

# Two lines. Line 1: joy and anger are there, joy is found, sadness is not there but predicted. Line 2: fear, found.
LABELS = np.array([[1, 0, 0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 1, 0, 0]], dtype=np.float32)
PROBABILITIES = np.array([[0.9, 0.1, 0.1, 0.1, 0.1, 0.1, 0.4, 0.6], [0.1, 0.1, 0.1, 0.1, 0.1, 0.45, 0.1, 0.1]])


def test_metrics_of_a_case_worked_out_by_hand():
    decisions = PROBABILITIES >= 0.42
    metrics = utils.compute_metrics(LABELS, PROBABILITIES, decisions)
    assert metrics["micro_f1"] == pytest.approx(2 * 2 / (3 + 3))  # TP 2, predicted 3, present 3
    assert metrics["micro_f1_at_0.5"] == pytest.approx(2 * 1 / (3 + 2))
    assert metrics["macro_f1"] == pytest.approx(2 / 8)  # joy and fear 1, the others 0
    assert metrics["exact_match"] == 0.5
    # 3 positives above 13 negatives, but for 0.4 and 0.45 below the negative 0.6: 37 of 39 pairs in order.
    assert metrics["micro_roc_auc"] == pytest.approx(37 / 39)
    assert metrics["per_emotion"]["joy"] == {"precision": 1, "recall": 1, "f1": 1, "support": 1}
    assert metrics["per_emotion"]["anger"] == {"precision": 0, "recall": 0, "f1": 0, "support": 1}
    assert metrics["per_emotion"]["sadness"] == {"precision": 0, "recall": 0, "f1": 0, "support": 0}
    assert list(metrics["per_emotion"]) == list(utils.EMOTIONS)
    json.dumps(metrics, allow_nan=False)


def test_metrics_without_any_label():
    nothing = np.zeros((2, 8))
    metrics = utils.compute_metrics(nothing, nothing, nothing > 0)
    assert metrics["micro_f1"] == 0 and metrics["micro_roc_auc"] is None and metrics["exact_match"] == 1


def test_majority_baseline():
    labels = utils.encode_labels([make_row(labels=("joy",)), make_row(labels=("joy", "fear")), make_row(labels=())])
    assert utils.majority_micro_f1(labels) == (pytest.approx(2 * 2 / (3 + 3)), "joy")


cases = st.integers(1, 6).flatmap(
    lambda lines: st.tuples(
        npst.arrays(np.float32, (lines, 8), elements=st.sampled_from([0, 1])),
        npst.arrays(np.float64, (lines, 8), elements=st.integers(0, 20).map(lambda n: n / 20)),
    )
)


@given(cases)
def test_no_threshold_is_better_than_the_tuned_one(case):
    labels, probabilities = case
    threshold = utils.tune_threshold(labels, probabilities)
    assert 0 <= threshold <= 1
    best = max(utils.micro_f1(labels, utils.decide(probabilities, t)) for t in np.arange(-0.025, 1.05, 0.05))
    if labels.sum():
        assert utils.micro_f1(labels, utils.decide(probabilities, threshold)) == pytest.approx(best)
    else:
        assert threshold == 0.5


def test_cross_fitting_takes_back_what_tuning_gains_on_noise():
    random = np.random.default_rng(0)
    tuned, cross_fitted = [], []
    for _ in range(30):
        labels = (random.random((20, 8)) < 0.15).astype(np.float32)
        probabilities = random.random((20, 8))
        threshold = utils.tune_threshold(labels, probabilities)
        tuned.append(utils.micro_f1(labels, utils.decide(probabilities, threshold)))
        cross_fitted.append(utils.micro_f1(labels, utils.cross_fitted_decisions(labels, probabilities)))
    assert np.mean(cross_fitted) < np.mean(tuned) - 0.02


def test_cross_fitting_equals_tuning_where_the_classes_are_far_apart():
    labels = np.tile(np.eye(8, dtype=np.float32), (5, 1))
    assert (utils.cross_fitted_decisions(labels, labels * 0.9) == labels).all()


def sealed(**content):
    decision = {"emotions": utils.EMOTIONS} | content
    return decision | {"sha256": utils.seal(decision)}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"threshold": 0.3}',
        json.dumps(sealed(threshold=0.3, emotions=utils.EMOTIONS[::-1])),
        json.dumps(sealed(threshold=True)),
        json.dumps(sealed(threshold=1.5)),
        json.dumps(sealed(threshold=float("nan"))),
        json.dumps({"threshold": 0.3, "emotions": 8}),
        json.dumps({"threshold": 0.3, "emotions": utils.EMOTIONS}),  # without its seal
        json.dumps(sealed(threshold=0.3) | {"threshold": 0.31}),
    ],
)
def test_a_broken_decision_rule_is_refused(tmp_path, content):
    (tmp_path / "decision.json").write_text(content)
    with pytest.raises(utils.InputError, match=r"decision\.json"):
        utils.load_threshold(tmp_path)


def test_predictions_keep_the_input_and_the_order(tmp_path):
    rows = [make_row("b", labels=None, note="kept"), make_row("a", labels=None)]
    chunks = [(rows[:1], PROBABILITIES[:1]), (rows[1:], PROBABILITIES[1:])]
    assert utils.write_predictions(tmp_path, "test", chunks, 0.5) is None  # unlabelled
    written = utils.read_corpus(tmp_path / "test.jsonl", labelled=True)
    assert [{**row, "output": None} for row in written] == [{**row, "output": None} for row in rows]
    assert utils.encode_labels(written).tolist() == (PROBABILITIES >= 0.5).astype(float).tolist()
    scores = [json.loads(line) for line in (tmp_path / "test.scores.jsonl").read_text().splitlines()]
    assert [line["id"] for line in scores] == ["b", "a"]
    assert [list(line["scores"].values()) for line in scores] == PROBABILITIES.tolist()


def test_a_file_that_is_not_finished_does_not_appear(tmp_path):
    def broken():
        yield [make_row("a", labels=None)], PROBABILITIES[:1]
        raise RuntimeError

    with pytest.raises(RuntimeError):
        utils.write_predictions(tmp_path, "test", broken(), 0.5)
    assert not list(tmp_path.glob("*.jsonl"))
