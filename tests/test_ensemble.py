import argparse
import collections
import json
import sys

import numpy as np
import pytest
from conftest import ROOT, make_row, run_script, write_rows
from sklearn.metrics import f1_score

import ensemble
import utils


def make_corpus(path, lines, seed, start=0):
    """A labelled file of so many lines, one or two emotions each."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(start, start + lines):
        labels = {utils.EMOTIONS[index] for index in rng.choice(8, rng.integers(1, 3), replace=False)}
        rows.append(make_row(id=f"line-{number}", form=f"문장 {number}", target=None, labels=labels))
    return write_rows(path, rows)


def noisy(labels, seed, noise=0.35):
    """Probabilities that are right but for noise."""
    logits = (labels - 0.5) + np.random.default_rng(seed).normal(scale=noise, size=labels.shape) * 2
    return (1 / (1 + np.exp(-2 * logits))).round(6)


def make_run(directory, files, scores, script="bert_plain.py", **arguments):
    """A finished run directory with these scores, written as the scripts write them.

    Args:
        files, scores: by split; a train file has no scores. `scores` may be a function of the labels.
    """
    files = {f"{split}_file": files.get(split) for split in ("train", "dev", "test")}
    args = argparse.Namespace(output_dir=directory, threshold="auto", seed=0, **files, **arguments)
    splits = [split for split in ("train", "dev", "test") if files[f"{split}_file"]]
    run = utils.start_run(args, splits, "cpu") | {"script": script}
    corpora = {split: utils.read_corpus(files[f"{split}_file"]) for split in scores}
    if arguments.get("folds"):
        corpora |= utils.split_fold(utils.read_corpus(files["train_file"]) + corpora["dev"], args.folds, args.fold)
    values = {split: give(utils.encode_labels(corpora[split])) if callable(give) else give for split, give in scores.items()}
    threshold = utils.choose_threshold(args, utils.encode_labels(corpora["dev"]), values["dev"])
    utils.evaluate_and_write(args, {split: [(corpora[split], values[split])] for split in scores}, threshold)
    utils.finish_run(args, run)
    return directory


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    """Three runs on the same 300 dev and 200 test lines, each with noise of its own."""
    root = tmp_path_factory.mktemp("members")
    files = {"dev": make_corpus(root / "dev.jsonl", 300, seed=0), "test": make_corpus(root / "test.jsonl", 200, seed=1)}
    return [
        make_run(
            root / name,
            files,
            {split: lambda labels, seed=seed + offset: noisy(labels, seed) for offset, split in enumerate(files)},
        )
        for seed, name in ((10, "plain"), (20, "gru"), (30, "질문"))  # a name in Hangul needs a font or a fallback
    ]


def read_scores(directory, split):
    return ensemble.read_scores(directory / f"{split}.scores.jsonl")[1]


def test_average_beats_its_members_and_writes_a_run_like_any_other(members, tmp_path):
    output = tmp_path / "out"
    process = run_script("ensemble.py", *members, "--resamples", 500, "--output-dir", output)
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    for split in ("dev", "test"):
        mean = np.mean([read_scores(member, split) for member in members], axis=0)
        assert read_scores(output, split) == pytest.approx(mean, abs=1e-6)
        predicted = utils.read_corpus(output / f"{split}.jsonl", labelled=True)
        corpus = utils.read_corpus(members[0].parent / f"{split}.jsonl")
        assert [row["input"] for row in predicted] == [row["input"] for row in corpus]
        metrics = json.loads((output / "metrics.json").read_text())[split]
        decisions = utils.encode_labels(predicted)
        assert metrics["micro_f1"] == pytest.approx(f1_score(utils.encode_labels(corpus), decisions, average="micro"))
        best = max(json.loads((member / "metrics.json").read_text())[split]["micro_f1"] for member in members)
        assert metrics["micro_f1"] > best + 0.05
    run = json.loads((output / "run.json").read_text())
    assert run["data"]["test"]["lines"] == 200 and run["seconds"] >= 0 and "matplotlib" in run["versions"]
    assert utils.load_threshold(output / "best") == pytest.approx(0.5, abs=0.25)

    comparison = json.loads((output / "comparison.json").read_text())
    systems = comparison["test"]["systems"]
    assert list(systems) == [*map(str, members), "the average"]
    for figures in systems.values():
        assert figures["micro_f1"]["low"] < figures["micro_f1"]["value"] < figures["micro_f1"]["high"]
        assert set(figures["per_emotion"]) == set(utils.EMOTIONS)
    assert systems["the average"]["micro_f1"]["value"] == pytest.approx(metrics["micro_f1"])
    assert systems["the average"]["macro_f1"]["value"] == pytest.approx(metrics["macro_f1"])
    pairs = {(pair["a"], pair["b"]): pair for pair in comparison["test"]["pairs"]}
    assert len(pairs) == 6
    assert pairs[str(members[0]), "the average"]["high"] < 0
    assert pairs[str(members[0]), "the average"]["p_value"] < 0.01
    assert (output / "report.png").read_bytes().startswith(b"\x89PNG")
    assert "the average" in process.stdout and process.stdout in (output / "train.log").read_text()

    again = run_script("ensemble.py", output, members[0], "--no-ensemble", "--output-dir", tmp_path / "again")
    assert again.returncode == 0, again.stderr  # an ensemble is a run
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == [
        "comparison.json",
        "report.png",
        "run.json",
        "train.log",
    ]


def test_bootstrap_draws_lines_for_all_systems_alike():
    rng = np.random.default_rng(0)
    labels = rng.random((60, 8)) < 0.2
    decisions = rng.random((2, 60, 8)) < 0.3
    micro, per_emotion = ensemble.bootstrap_f1(labels, np.concatenate([decisions, decisions[:1]]), 300, seed=5)
    drawn = np.random.default_rng(5).integers(60, size=(ensemble.RESAMPLES_AT_ONCE, 60))
    for row, lines in ((0, np.arange(60)), (1, drawn[0]), (250, drawn[249])):
        for system in (0, 1):
            expected = f1_score(labels[lines], decisions[system, lines], average="micro", zero_division=0)
            assert micro[row, system] == pytest.approx(expected)
            each = f1_score(labels[lines], decisions[system, lines], average=None, zero_division=0)
            assert per_emotion[row, system] == pytest.approx(each)
    assert (micro[:, 0] == micro[:, 2]).all()
    assert micro.shape == (301, 3)


def test_p_value_is_one_for_equals_small_for_better_and_fair_for_chance():
    rng = np.random.default_rng(1)
    labels = rng.random((200, 8)) < 0.2

    def p_value(one, other):
        micro, _ = ensemble.bootstrap_f1(labels, np.stack([one, other]), 400, seed=3)
        return ensemble.paired_difference(micro[:, 0], micro[:, 1])["p_value"]

    def wrong(share):
        return labels ^ (rng.random(labels.shape) < share)

    once = wrong(0.1)
    assert p_value(once, once) == 1
    assert p_value(wrong(0.02), wrong(0.1)) < 0.01
    by_chance = [p_value(wrong(0.1), wrong(0.1)) < 0.1 for _ in range(100)]
    assert np.mean(by_chance) < 0.25  # one in ten is expected


def test_tuned_weights_leave_out_noise(members, tmp_path):
    files = {"dev": members[0].parent / "dev.jsonl", "test": members[0].parent / "test.jsonl"}
    chance = np.random.default_rng(9)
    useless = make_run(tmp_path / "useless", files, dict.fromkeys(files, lambda labels: chance.random(labels.shape).round(6)))
    process = run_script(
        "ensemble.py", *members, useless, "--weights", "tuned", "--resamples", 100, "--output-dir", tmp_path / "out"
    )
    assert process.returncode == 0, process.stderr
    weights = {line.split()[1]: float(line.split()[0]) for line in process.stdout.split("average of\n")[1].splitlines()[:4]}
    assert weights[str(useless)] < 0.15
    assert sum(weights.values()) == pytest.approx(1, abs=0.01)
    tuned, equal = (
        float(part.split()[0]) for part in process.stdout.split("cross-fitted micro-F1 on dev: ")[1].split(", ")[:2]
    )
    assert tuned > equal


def test_runs_that_do_not_match_are_refused(members, tmp_path):
    other_files = {"dev": make_corpus(tmp_path / "dev.jsonl", 300, seed=7), "test": members[0].parent / "test.jsonl"}
    other = make_run(tmp_path / "other", other_files, dict.fromkeys(other_files, lambda labels: noisy(labels, 1)))
    only_dev = make_run(
        tmp_path / "only_dev", {"dev": members[0].parent / "dev.jsonl"}, {"dev": lambda labels: noisy(labels, 1)}
    )
    unfinished = make_run(tmp_path / "unfinished", {"dev": other_files["dev"]}, {"dev": lambda labels: noisy(labels, 1)})
    run = json.loads((unfinished / "run.json").read_text())
    utils.write_json(unfinished / "run.json", {name: value for name, value in run.items() if name != "seconds"})
    broken = make_run(tmp_path / "broken", {"dev": other_files["dev"]}, {"dev": lambda labels: noisy(labels, 1)})
    lines = (broken / "dev.scores.jsonl").read_text().splitlines()
    (broken / "dev.scores.jsonl").write_text("\n".join([*lines[:7], '{"id": "x"}', *lines[8:]]))
    shuffled = make_run(tmp_path / "shuffled", {"dev": other_files["dev"]}, {"dev": lambda labels: noisy(labels, 1)})
    lines = (shuffled / "dev.scores.jsonl").read_text().splitlines()
    (shuffled / "dev.scores.jsonl").write_text("\n".join(reversed(lines)))
    for runs, message in (
        ([members[0], other], "other: scored another dev file"),
        ([members[0], only_dev], "only_dev: scored dev"),
        ([members[0], members[0]], "named twice"),
        ([unfinished], "not finished"),
        ([broken], "dev.scores.jsonl: line 8"),
        ([shuffled], "differ in their lines"),
        ([tmp_path / "nothing"], "holds no run"),
        ([only_dev, "--dev-file", tmp_path / "gone.jsonl"], "gone.jsonl: no such file"),
        ([only_dev, "--threshold", "2"], "--threshold"),
        ([only_dev, "--output-dir", members[0]], "no run is overwritten"),
    ):
        process = run_script("ensemble.py", "--output-dir", tmp_path / "out", *runs)
        assert process.returncode == 2, process.stdout
        assert message in process.stderr and process.stderr.count("\n") == 1, process.stderr
    assert not (tmp_path / "out").exists()


def test_unlabelled_test_lines_are_predicted_and_not_compared(tmp_path):
    dev = make_corpus(tmp_path / "dev.jsonl", 40, seed=0)
    test = write_rows(tmp_path / "test.jsonl", [make_row(id=str(n), labels=None) for n in range(5)])
    scores = {"dev": lambda labels: noisy(labels, 0), "test": np.full((5, 8), 0.5)}
    runs = [make_run(tmp_path / name, {"dev": dev, "test": test}, scores) for name in ("a", "b")]
    process = run_script("ensemble.py", *runs, "--resamples", 100, "--output-dir", tmp_path / "out")
    assert process.returncode == 0, process.stderr
    assert len(utils.read_corpus(tmp_path / "out" / "test.jsonl", labelled=True)) == 5
    assert list(json.loads((tmp_path / "out" / "comparison.json").read_text())) == ["dev"]


# Benchmarks that make and read runs


def test_the_linear_model_is_a_run_and_results_are_tabled(tmp_path):
    rows = utils.read_corpus(utils.SAMPLE / "train.jsonl")
    for split, part in {"train": rows[:300], "dev": rows[300:400], "test": rows[400:500]}.items():
        write_rows(tmp_path / f"{split}.jsonl", part)
    run = tmp_path / "linear"
    process = run_script("tests/benchmarks/linear.py", "--corpus", tmp_path, "--output-dir", run)
    assert process.returncode == 0, process.stderr
    metrics = json.loads((run / "metrics.json").read_text())["test"]
    table = run_script("tests/benchmarks/results.py", run)
    assert table.returncode == 0, table.stderr
    assert f"| {run} | {metrics['micro_f1']:.3f} [" in table.stdout and f"| {metrics['macro_f1']:.3f} [" in table.stdout
    baseline, emotion = utils.majority_micro_f1(utils.encode_labels(rows[400:500]))
    assert f"| always {emotion} | {baseline:.3f} |" in table.stdout


def test_the_rules_of_the_ablation():
    sys.path.insert(0, str(ROOT / "tests" / "benchmarks"))
    import ablation

    labels = np.array([[1, 0, 0, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0, 0, 0]] * 3)
    scores = labels * np.array([0.2, 0.9, *[0.5] * 6]) + 0.01
    others = np.array([[0.15, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], [0.01, 0.02, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
    assert ablation.fit_half(labels, scores)(others).sum(1).tolist() == [1, 0]
    assert ablation.fit_each(labels, scores)(others)[:, :2].tolist() == [[True, True], [False, False]]
    assert ablation.fit_at_least_one(labels, scores)(others).tolist()[1] == [False, True, *[False] * 6]


# Folds


def test_split_fold_parts_every_line_once_with_emotions_even_and_sentences_whole():
    rows = utils.read_corpus(utils.SAMPLE / "train.jsonl") + utils.read_corpus(utils.SAMPLE / "dev.jsonl")
    parts = [utils.split_fold(rows, 5, fold) for fold in range(5)]
    held_out = [row["id"] for part in parts for row in part["dev"]]
    assert sorted(held_out) == sorted(row["id"] for row in rows)
    shares = utils.encode_labels(rows).mean(0)
    for part in parts:
        assert len(part["train"]) + len(part["dev"]) == len(rows)
        assert not {row["id"] for row in part["train"]} & {row["id"] for row in part["dev"]}
        assert not {row["input"]["form"] for row in part["train"]} & {row["input"]["form"] for row in part["dev"]}
        assert utils.encode_labels(part["dev"]).mean(0) == pytest.approx(shares, rel=0.2)
        assert len(part["dev"]) == pytest.approx(len(rows) / 5, abs=2)
    assert parts[0] == utils.split_fold(rows, 5, 0)


def test_split_fold_refuses_a_repeated_id_and_too_few_lines():
    with pytest.raises(utils.InputError, match="'line-1' stands in both"):
        utils.split_fold([make_row(), make_row()], 2, 0)
    with pytest.raises(utils.InputError, match="too few"):
        utils.split_fold([make_row(id=str(number)) for number in range(3)], 5, 0)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--folds", 3], "belong together"),
        (["--fold", 0], "belong together"),
        (["--folds", 3, "--fold", 3], "parts are 0 to 2"),
        (["--folds", 1, "--fold", 0], "--folds"),
    ],
)
@pytest.mark.parametrize("script", ["bert_plain.py", "bert_GRU.py", "gpt_train.py"])
def test_folds_that_do_not_fit_are_refused(script, flags, message, tmp_path):
    process = run_script(script, "--sample", *flags, "--output-dir", tmp_path / "out")
    assert process.returncode == 2
    assert message in process.stderr and process.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_folds_trained_apart_meet_again(tmp_path):
    sample = utils.read_corpus(utils.SAMPLE / "train.jsonl")
    parts = {"train": sample[:60], "dev": sample[60:90], "test": sample[90:110]}
    for fold in (0, 1):
        machine = tmp_path / f"machine-{fold}"
        machine.mkdir()
        files = [
            argument for split, rows in parts.items() for argument in (f"--{split}-file", write_rows(machine / split, rows))
        ]
        flags = ["--sample", *files, "--epochs", 1, "--folds", 2, "--fold", fold, "--output-dir", tmp_path / str(fold)]
        process = run_script("bert_plain.py", *flags)
        assert process.returncode == 0, process.stderr
    alone = run_script("ensemble.py", tmp_path / "0", "--output-dir", tmp_path / "out")
    assert alone.returncode == 2 and "of its 2 folds, 1 are not named" in alone.stderr
    process = run_script("ensemble.py", tmp_path / "0", tmp_path / "1", "--resamples", 100, "--output-dir", tmp_path / "out")
    assert process.returncode == 0, process.stderr
    pool = [row["id"] for row in sample[:90]]
    ids, scores = ensemble.read_scores(tmp_path / "out" / "dev.scores.jsonl")
    assert ids == pool
    of_folds = {}
    for fold in ("0", "1"):
        ids, values = ensemble.read_scores(tmp_path / fold / "dev.scores.jsonl")
        assert not of_folds.keys() & set(ids)
        of_folds |= dict(zip(ids, values, strict=True))
    assert scores == pytest.approx(np.array([of_folds[id] for id in pool]))
    tests = [read_scores(tmp_path / fold, "test") for fold in ("0", "1")]
    assert read_scores(tmp_path / "out", "test") == pytest.approx(np.mean(tests, axis=0), abs=1e-6)
    lines = collections.Counter(json.loads((tmp_path / "out" / "run.json").read_text())["data"])
    assert set(lines) == {"train", "dev", "test"}
