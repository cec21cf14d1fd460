"""Metrics against cases worked out by hand, the decision rule against trying every threshold."""

import functools
import itertools
import json

import numpy as np
import pytest
from conftest import EMOTIONS, make_row
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import utils
from emotion import checkpoint, data, outputs, rules, statistics

# Two lines. Line 1: joy and anger are there, joy is found, sadness is not there but predicted.
# Line 2: fear, found.
LABELS = np.array([[1, 0, 0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 1, 0, 0]], dtype=np.float32)
PROBABILITIES = np.array(
    [[0.9, 0.1, 0.1, 0.1, 0.1, 0.1, 0.4, 0.6], [0.1, 0.1, 0.1, 0.1, 0.1, 0.45, 0.1, 0.1]]
)


def test_metrics_of_a_case_worked_out_by_hand():
    decisions = PROBABILITIES >= 0.42
    metrics = statistics.compute_metrics(LABELS, PROBABILITIES, decisions, EMOTIONS)
    assert metrics["micro_f1"] == pytest.approx(2 * 2 / (3 + 3))  # TP 2, predicted 3, present 3
    assert metrics["micro_f1_at_0.5"] == pytest.approx(2 * 1 / (3 + 2))
    assert metrics["macro_f1"] == pytest.approx(2 / 8)  # joy and fear 1, the others 0
    assert metrics["exact_match"] == 0.5
    # 3 positives above 13 negatives, but for 0.4 and 0.45 below the negative 0.6: 37 of 39 pairs.
    assert metrics["micro_roc_auc"] == pytest.approx(37 / 39)
    found = metrics["per_emotion"]
    assert found["joy"] == {"precision": 1, "recall": 1, "f1": 1, "support": 1}
    assert found["anger"] == {"precision": 0, "recall": 0, "f1": 0, "support": 1}
    assert found["sadness"] == {"precision": 0, "recall": 0, "f1": 0, "support": 0}
    assert list(found) == list(EMOTIONS)
    json.dumps(metrics, allow_nan=False)


def test_metrics_without_any_label():
    nothing = np.zeros((2, 8))
    metrics = statistics.compute_metrics(nothing, nothing, nothing > 0, EMOTIONS)
    assert metrics["micro_f1"] == 0 and metrics["micro_roc_auc"] is None
    assert metrics["exact_match"] == 1


def test_no_constant_answer_is_better_than_the_best():
    random = np.random.default_rng(0)
    for _ in range(20):
        labels = random.random((30, 4)) < random.random(4)
        names = ["a", "b", "c", "d"]
        answers = itertools.chain(*(itertools.combinations(names, n) for n in range(1, 5)))
        reached = {
            answer: utils.micro_f1(labels, statistics.constant_decisions(30, names, answer))
            for answer in answers
        }
        best = statistics.best_constant_answer(labels, names)
        assert reached[tuple(best)] == max(reached.values())
    assert statistics.show_constant(labels, names, best).startswith(f"always {', '.join(best)}: ")
    assert statistics.show_constant(labels, names, []) == ""


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
    thresholds = np.arange(-0.025, 1.05, 0.05)
    best = max(utils.micro_f1(labels, utils.decide(probabilities, each)) for each in thresholds)
    reached = rules.best_f1(labels, probabilities)
    half = utils.micro_f1(labels, utils.decide(probabilities, 0.5))
    assert reached["micro_f1_at_0.5"] == half
    if labels.sum():
        assert reached["micro_f1"] == pytest.approx(best)
        macro = (utils.macro_f1(labels, utils.decide(probabilities, each)) for each in thresholds)
        assert reached["macro_f1"] == pytest.approx(max(macro))
        at_least_one = rules.fit(labels, probabilities, at_least_one=True)
        best = max(
            utils.micro_f1(labels, utils.decide(probabilities, each, True)) for each in thresholds
        )
        assert utils.micro_f1(labels, at_least_one(probabilities)) == pytest.approx(best)
        assert at_least_one(probabilities).any(-1).all()
        assert (
            rules.fit(labels, probabilities)(probabilities)
            == utils.decide(probabilities, threshold)
        ).all()
    else:
        assert threshold == 0.5


def test_a_threshold_of_each_label_is_steadier_than_the_best_one_of_these_lines():
    """Of labels with some fourteen positives each, on other lines than those tuned on."""
    rng = np.random.default_rng(0)
    chances = [rng.beta(0.3, 8, size=(lines, 30)) for lines in (400, 10_000)]
    lines, others = [((rng.random(each.shape) < each).astype(int), each) for each in chances]
    best = [utils.tune_threshold(*(each[:, [k]] for each in lines)) for k in range(30)]
    rule = rules.fit_each(*lines)
    of_best, found = (
        utils.macro_f1(others[0], each(others[1])) for each in (rules.Rule(best), rule)
    )
    assert found > of_best + 0.005
    assert len(rule.threshold) == 30 and rules.fit_each(*lines) == rule


def test_a_label_of_one_line_has_a_threshold_of_its_own():
    """Many resamples do not hold that line, and none of them draws the threshold towards 0.5."""
    scores = np.full((300, 2), 0.02)
    labels = np.zeros((300, 2), dtype=int)
    labels[7, 0], scores[7, 0] = 1, 0.08
    assert rules.fit_each(labels, scores).threshold == pytest.approx([0.05, 0.5])


def test_cross_fitting_takes_back_what_tuning_gains_on_noise():
    random = np.random.default_rng(0)
    tuned, cross_fitted = [], []
    for _ in range(30):
        labels = (random.random((20, 8)) < 0.15).astype(np.float32)
        probabilities = random.random((20, 8))
        threshold = utils.tune_threshold(labels, probabilities)
        tuned.append(utils.micro_f1(labels, utils.decide(probabilities, threshold)))
        decisions = rules.cross_fitted_decisions(labels, probabilities, np.arange(len(labels)))
        cross_fitted.append(utils.micro_f1(labels, decisions))
    assert np.mean(cross_fitted) < np.mean(tuned) - 0.02


def test_a_fold_without_a_line_is_refused():
    """As scikit-learn parts 19 lines of seven sentences in seven."""
    kinds = [1, 0, 0, 0, 1, 3, 1, 0, 1, 0, 0, 0, 2, 0, 0, 2, 1, 1, 3]
    about = [0, 1, 2, 3, 4, 5, 6, 6, 6, 2, 6, 6, 3, 0, 2, 4, 4, 6, 4]
    rows = [
        {"input": {"form": f"문장 {a}"}, "output": {str(j): str(j == kind) for j in range(4)}}
        for kind, a in zip(kinds, about, strict=True)
    ]
    with pytest.raises(utils.InputError, match="--folds 7: a part would have no line; give a sm"):
        data.split_fold(rows, list("0123"), 7, 0)


def test_a_fifth_of_the_sentences_is_left_out_at_a_time():
    seen = []

    def fit(labels, probabilities):
        seen.append(set(probabilities[:, 0]))
        return rules.Rule(0.5)

    lines = np.arange(100)
    rules.cross_fitted_decisions(np.zeros((100, 1)), lines[:, None], lines, fit)
    assert [len(each) for each in seen] == [80] * 5
    left_out = [set(lines) - each for each in seen]
    assert set.union(*left_out) == set(lines)


def test_cross_fitting_equals_tuning_where_the_classes_are_far_apart():
    labels = np.tile(np.eye(8, dtype=np.float32), (5, 1))
    assert (
        rules.cross_fitted_decisions(labels, labels * 0.9, np.arange(len(labels))) == labels
    ).all()


def decision(**changes):
    return json.dumps({"labels": EMOTIONS, "threshold": 0.3, "tuned_on": "dev"} | changes)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        "{" + decision(),
        '{"threshold": 0.3}',
        decision(labels=EMOTIONS[::-1]),
        decision(labels=EMOTIONS[:-1]),
        decision(labels=8),
        decision(labels=None),
        decision(threshold=None),
        decision(threshold=True),
        decision(threshold="0.3"),
        decision(threshold=[0.3]),
        decision(threshold=[0.3] * 7 + [2]),
        decision(threshold=1.5),
        decision(threshold=-0.1),
        decision(threshold=float("nan")),
        decision(at_least_one="yes"),
    ],
)
def test_a_broken_decision_rule_is_refused(tmp_path, content):
    (tmp_path / "decision.json").write_text(content)
    with pytest.raises(utils.InputError, match=r"decision\.json: .*; give .* --threshold 0\.5"):
        checkpoint.read_decision(tmp_path, EMOTIONS, "auto")
    rule, _ = checkpoint.read_decision(tmp_path, EMOTIONS, 0.5)
    assert rule == rules.Rule(0.5)  # told, it is not read


@pytest.mark.parametrize("threshold", [0, 0.25, 1])
def test_a_hand_may_edit_the_decision_rule(tmp_path, threshold):
    (tmp_path / "decision.json").write_text(decision(threshold=threshold, tuned_on="by hand"))
    assert checkpoint.read_decision(tmp_path, EMOTIONS, "auto")[0] == rules.Rule(threshold)
    each = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, threshold]
    (tmp_path / "decision.json").write_text(decision(threshold=each))
    found, _ = checkpoint.read_decision(tmp_path, EMOTIONS, "auto")
    assert found(np.full((1, 8), 0.35)).tolist() == [[True] * 3 + [False] * 4 + [threshold <= 0.35]]
    edited = decision(threshold=threshold, at_least_one=True, constant_answer=["joy"])
    (tmp_path / "decision.json").write_text(edited)
    found = checkpoint.read_decision(tmp_path, EMOTIONS, "auto")
    assert found == (rules.Rule(threshold, True), ["joy"])


def test_predictions_keep_the_input_and_the_order(tmp_path):
    rows = [make_row("b", labels=None, note="kept"), make_row("a", labels=None)]
    chunks = [(rows[:1], PROBABILITIES[:1]), (rows[1:], PROBABILITIES[1:])]
    write = functools.partial(outputs.write_predictions, tmp_path, "test")
    assert write(chunks, EMOTIONS, rules.Rule(0.5), labelled=False) is None
    written = utils.read_corpus(tmp_path / "test.jsonl", labelled=True)
    assert [row | {"output": None} for row in written] == [row | {"output": None} for row in rows]
    assert (utils.encode_labels(written, EMOTIONS) == (PROBABILITIES >= 0.5)).all()
    lines = (tmp_path / "test.scores.jsonl").read_text().splitlines()
    scores = [json.loads(line) for line in lines]
    assert [line["id"] for line in scores] == ["b", "a"]
    assert [list(line["scores"]) for line in scores] == [list(EMOTIONS)] * 2
    assert [list(line["scores"].values()) for line in scores] == PROBABILITIES.tolist()


def test_predictions_of_labelled_lines_give_what_metrics_are_made_of(tmp_path):
    rows = [make_row("a", labels=("joy", "anger")), make_row("b", labels=("fear",))]
    chunks = [(rows[:1], PROBABILITIES[:1]), (rows[1:], PROBABILITIES[1:])]
    found = outputs.write_predictions(
        tmp_path, "dev", chunks, EMOTIONS, rules.Rule(0.42), labelled=True
    )
    assert (found[0] == LABELS).all() and (found[1] == PROBABILITIES).all()
    metrics = statistics.compute_metrics(*found, found[1] >= 0.42, EMOTIONS)
    table = outputs.metrics_table("dev", LABELS, metrics, rules.Rule(0.42), ["joy"]).splitlines()
    assert [line.split()[0] for line in table[1:9]] == list(EMOTIONS)
    assert table[-2] == "micro-F1 0.6667 at threshold 0.420, 0.4000 at 0.5;"
    assert table[-1] == "macro-F1 0.2500; always joy: micro-F1 0.4000"


def test_what_utf_8_cannot_hold_is_written_as_json_escapes_it(tmp_path):
    row = make_row("b\udc00", form="급식 \ud800 최고 \0", target=None)
    chunks = [([row], PROBABILITIES[:1])]
    outputs.write_predictions(tmp_path, "test", chunks, EMOTIONS, rules.Rule(0.5), labelled=False)
    [written] = utils.read_corpus(tmp_path / "test.jsonl")
    assert written["id"] == row["id"] and written["input"] == row["input"]
    assert json.loads((tmp_path / "test.scores.jsonl").read_text())["id"] == row["id"]


def test_labels_are_those_of_the_corpus_whatever_they_are(tmp_path):
    labels = ("good", "bad")
    row = make_row("a") | {"output": {"good": True, "bad": "False"}}
    scores = np.array([[0.2, 0.7]])
    chunks = [([row], scores)]
    gold, _ = outputs.write_predictions(
        tmp_path, "dev", chunks, labels, rules.Rule(0.5), labelled=True
    )
    assert gold.tolist() == [[1, 0]]
    [written] = utils.read_corpus(tmp_path / "dev.jsonl", labelled=True)
    assert written["output"] == {"good": "False", "bad": "True"}
    metrics = statistics.compute_metrics(gold, scores, scores > 0.5, labels)
    assert tuple(metrics["per_emotion"]) == labels


def test_a_file_that_is_not_finished_does_not_appear(tmp_path):
    def broken():
        yield [make_row("a", labels=None)], PROBABILITIES[:1]
        raise RuntimeError

    with pytest.raises(RuntimeError):
        outputs.write_predictions(
            tmp_path, "test", broken(), EMOTIONS, rules.Rule(0.5), labelled=False
        )
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_is_told_of(tmp_path):
    outputs.write_json(tmp_path / "metrics.json", {"감정": 1})
    assert "감정" in (tmp_path / "metrics.json").read_text("utf-8")
    with pytest.raises(FileNotFoundError) as told:
        outputs.write_json(tmp_path / "no" / "metrics.json", {})
    assert told.value.filename == str(tmp_path / "no" / "metrics.json")


def test_lines_of_one_sentence_are_drawn_and_parted_together():
    """A corpus whose sentences stand twice says no more than one with each once."""
    rng = np.random.default_rng(0)
    labels = rng.random((60, 3)) < 0.4
    scores = np.clip(labels * 0.3 + rng.random((60, 3)) * 0.7, 0, 1)
    decisions = np.stack([scores >= 0.5, scores >= 0.3])
    each, twice = np.arange(60), np.repeat(np.arange(60), 2)
    once = statistics.bootstrap_f1(labels, decisions, each, 200, 1)
    doubled = labels.repeat(2, axis=0), decisions.repeat(2, axis=1)
    for one, other in zip(once, statistics.bootstrap_f1(*doubled, twice, 200, 1), strict=True):
        assert one == pytest.approx(other)
    fitted = rules.cross_fitted_decisions(labels, scores, each)
    again = rules.cross_fitted_decisions(doubled[0], scores.repeat(2, axis=0), twice)
    assert (again == fitted.repeat(2, axis=0)).all()
    forms = ["급식 최고", "급식\u200b  최고", "급식", "급식 최고"]
    rows = [make_row(str(number), form) for number, form in enumerate(forms)]
    assert data.sentences(rows).tolist() == [0, 0, 1, 0]


def test_p_values_are_corrected_for_their_number():
    """The example of Holm's procedure with four hypotheses."""
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.9, 0.8]) == [1, 1] and statistics.holm([]) == []


def test_an_interval_is_of_95_percent_and_no_p_value_is_0():
    values = np.concatenate([[500.0], np.arange(1001.0)])
    assert statistics.interval(values) == {"value": 500, "low": 25, "high": 975}
    difference = np.full(1000, 0.2)
    found = statistics.paired_difference(difference, 0 * difference)
    assert found["p_value"] == pytest.approx(1 / 1000)


def test_seeds_are_drawn_apart_from_lines():
    """Else the run that a resample has of each group follows from the lines that it has."""
    drawn = np.random.default_rng(7).integers(5, size=(1001, 5))
    runs = np.tile(np.arange(5.0), (1001, 1))
    found = statistics.over_seeds(runs, [range(5)], 7)[1:, 0]
    assert abs(np.corrcoef(found, drawn.mean(1)[1:])[0, 1]) < 0.1


def test_intervals_over_seeds_know_of_seeds():
    """Runs far apart: lines alone say nothing of it; seeds drawn as well do."""
    random = np.random.default_rng(0)
    noise = 0.01 * random.standard_normal((1001, 1))
    values = np.concatenate([0.5 + noise, 0.6 + noise, 0.7 + noise, 0.6 + noise], axis=1)
    values[0] = 0.5, 0.6, 0.7, 0.6
    means = statistics.over_seeds(values, [[0, 1, 2], [3]], seed=0)
    assert means.shape == (1001, 2) and means[0] == pytest.approx([0.6, 0.6])
    several, alone = (statistics.interval(means[:, n]) for n in (0, 1))
    assert several["high"] - several["low"] > 4 * (alone["high"] - alone["low"])
    assert statistics.paired_difference(means[:, 0], means[:, 1])["p_value"] > 0.5
    assert (means[:, 1] == values[:, 3]).all()
