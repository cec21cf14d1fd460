"""ensemble.py: averages, the bootstrap, what does not match, folds; and what benchmarks make."""

import argparse
import itertools
import json
import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from conftest import EMOTIONS, assert_refused, call, make_row, run_script, write_rows
from sklearn.metrics import f1_score

import bert_plain
import utils
from emotion import checkpoint, data, ending, kinds, outputs, rules, statistics, systems
from emotion.outputs import read_json
from emotion.run import Run, identify


def make_corpus(path, lines, seed, names=EMOTIONS):
    """A labelled file of so many lines, one or two labels each."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(lines):
        chosen = {names[index] for index in rng.choice(len(names), rng.integers(1, 3), False)}
        row = make_row(id=f"line-{number}", form=f"문장 {number}", target=None)
        rows.append(row | {"output": {name: str(name in chosen) for name in names}})
    return write_rows(path, rows)


def noisy(labels, seed, noise=0.35):
    """Probabilities that are right but for noise."""
    logits = (labels - 0.5) + np.random.default_rng(seed).normal(scale=noise, size=labels.shape) * 2
    return (1 / (1 + np.exp(-2 * logits))).round(6)


SEEDS = itertools.count()


def make_run(directory, files, scores, names=EMOTIONS):
    """A finished run directory with these scores and a new seed, written as the scripts write them.

    Args:
        files, scores: by split. `scores` may be a function of the labels.
    """
    args = argparse.Namespace(output_dir=directory, threshold="auto", tune="micro")
    args.seed = next(SEEDS)
    rows = {split: utils.read_corpus(file) for split, file in files.items()}
    gold = {
        split: utils.encode_labels(each, names)
        for split, each in rows.items()
        if all(map(utils.has_labels, each))
    }
    values = {
        split: give(gold[split]) if callable(give) else give for split, give in scores.items()
    }
    with Run(args, "bert_plain.py") as run:
        run.note_files(files)
        each = np.arange(len(gold["dev"]))
        run.note(constant_answer=names[:1])
        rule = ending.choose_rule(run, names, gold["dev"], values["dev"], each, names[:1])
        scored = {split: [(rows[split], values[split])] for split in scores}
        run.write_scores(scored, gold, names, rule, names[:1])
        run.finish()
    return directory


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    """Three runs on the same 300 dev and 200 test lines, each with noise of its own."""
    root = tmp_path_factory.mktemp("members")
    files = {
        "dev": make_corpus(root / "dev.jsonl", 300, seed=0),
        "test": make_corpus(root / "test.jsonl", 200, seed=1),
    }
    return [
        make_run(
            root / name,
            files,
            {
                split: lambda labels, seed=seed + offset: noisy(labels, seed)
                for offset, split in enumerate(files)
            },
        )
        # a name in Hangul needs a font or a fallback
        for seed, name in ((10, "plain"), (20, "gru"), (30, "질문"))
    ]


def read_scores(directory, split):
    return systems.read_scores(directory / f"{split}.scores.jsonl")[1]


def combine(*arguments):
    outcome = call("ensemble.py", *arguments)
    assert outcome.returncode == 0 and outcome.stderr == "", outcome.stderr
    return outcome.stdout


def test_average_beats_its_members_and_writes_a_run_like_any_other(members, tmp_path):
    output = tmp_path / "out"
    process = run_script("ensemble.py", *members, "--resamples", 500, "--output-dir", output)
    assert process.returncode == 0 and process.stderr == "", process.stderr
    for split in ("dev", "test"):
        mean = np.mean([read_scores(member, split) for member in members], axis=0)
        assert read_scores(output, split) == pytest.approx(mean, abs=1e-6)
        predicted = utils.read_corpus(output / f"{split}.jsonl", labelled=True)
        corpus = utils.read_corpus(members[0].parent / f"{split}.jsonl")
        assert [row["input"] for row in predicted] == [row["input"] for row in corpus]
        metrics = read_json(output / "metrics.json")[split]
        gold, decisions = (utils.encode_labels(rows, EMOTIONS) for rows in (corpus, predicted))
        assert metrics["micro_f1"] == pytest.approx(f1_score(gold, decisions, average="micro"))
        reached = [read_json(member / "metrics.json")[split]["micro_f1"] for member in members]
        assert metrics["micro_f1"] > max(reached) + 0.05
    run = read_json(output / "run.json")
    assert run["data"]["test"]["lines"] == 200 and run["seconds"] >= 0
    assert "jinja2" in run["versions"]
    rule, constant_answer = checkpoint.read_decision(output / "best", EMOTIONS, "auto")
    assert rule.threshold == pytest.approx(0.5, abs=0.25) and constant_answer == ["joy"]
    assert "always joy: micro-F1 0." in process.stdout

    comparison = read_json(output / "comparison.json")["test"]
    assert list(comparison["systems"]) == [*map(str, members), "the average"]
    for figures in comparison["systems"].values():
        assert (micro := figures["micro_f1"])["low"] < micro["value"] < micro["high"]
        assert list(figures["per_emotion"]) == list(EMOTIONS)
    average = comparison["systems"]["the average"]
    for name in ("micro_f1", "macro_f1"):
        assert average[name]["value"] == pytest.approx(metrics[name])
    pairs = {(pair["a"], pair["b"]): pair for pair in comparison["pairs"]}
    assert len(pairs) == 6
    kinds = comparison["kinds"]  # the three differ in nothing that tells runs from others
    several = f"{members[0]} and 2 other seeds"
    assert list(kinds["systems"]) == [several, "the average"]
    mean = np.mean([comparison["systems"][str(each)]["micro_f1"]["value"] for each in members])
    of_several = kinds["systems"][several]["micro_f1"]
    assert of_several["value"] == pytest.approx(mean)
    assert of_several["low"] < mean < of_several["high"]
    [pair] = kinds["pairs"]
    assert pair["value"] == pytest.approx(mean - average["micro_f1"]["value"])
    assert pair["p_holm"] == pair["p_value"]
    assert f"{several} - the average" in process.stdout
    assert "by Holm's correction" in process.stdout
    assert pairs[str(members[0]), "the average"]["high"] < 0
    assert pairs[str(members[0]), "the average"]["p_value"] < 0.01
    page = (output / "report.html").read_text(encoding="utf-8")
    assert "the average" in page and page.count("<polyline") >= 4 * 4
    decision = read_json(output / "best" / "decision.json")
    assert f"<td>{rule}</td>" in page and f"{decision['micro_f1_cross_fitted']:.4f}" in page
    assert page.count(" 0.333, ") == 2 and "averaged, by weight" in page
    log = (output / "train.log").read_text(encoding="utf-8")
    assert "the average" in process.stdout and process.stdout in log

    again = tmp_path / "again"  # an ensemble is a run
    combine(output, members[0], "--no-ensemble", "--resamples", 100, "--output-dir", again)
    left = sorted(path.name for path in again.iterdir())
    assert left == ["comparison.json", "report.html", "run.json", "train.log"]
    refused = call("ensemble.py", again, output, "--output-dir", tmp_path / "third")
    assert_refused(refused, f"{again}: is a comparison alone (--no-ensemble); name the runs")


def test_runs_with_labels_of_their_own_are_averaged(tmp_path):
    names = ("awe", "joy", "슬픔")
    files = {"dev": make_corpus(tmp_path / "dev.jsonl", 40, 0, names)}
    runs = [
        make_run(tmp_path / name, files, {"dev": lambda gold, n=n: noisy(gold, n)}, names)
        for n, name in enumerate(("a", "b"))
    ]
    out = tmp_path / "out"
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Glyph")  # where no font has Hangul
        told = combine(*runs, "--resamples", 100, "--output-dir", out)
    assert "awe" in told
    assert list(read_json(out / "metrics.json")["dev"]["per_emotion"]) == list(names)
    assert read_json(out / "best" / "decision.json")["labels"] == list(names)
    other = {"dev": make_corpus(tmp_path / "other.jsonl", 40, 0)}
    stranger = make_run(tmp_path / "c", other, {"dev": lambda gold: noisy(gold, 1)})
    outcome = call("ensemble.py", runs[0], stranger, "--output-dir", tmp_path / "not")
    assert outcome.returncode == 2 and "has the labels joy, " in outcome.stderr


def test_bootstrap_draws_lines_for_all_systems_alike():
    rng = np.random.default_rng(0)
    labels = rng.random((60, 8)) < 0.2
    decisions = rng.random((2, 60, 8)) < 0.3
    three = np.concatenate([decisions, decisions[:1]])
    micro, per_label = statistics.bootstrap_f1(labels, three, np.arange(len(labels)), 300, seed=5)
    drawn = np.random.default_rng(5).integers(60, size=(statistics.RESAMPLES_AT_ONCE, 60))
    for row, lines in ((0, np.arange(60)), (1, drawn[0]), (250, drawn[249])):
        for system in (0, 1):
            pair = labels[lines], decisions[system, lines]
            expected = f1_score(*pair, average="micro", zero_division=0)
            assert micro[row, system] == pytest.approx(expected)
            each = f1_score(*pair, average=None, zero_division=0)
            assert per_label[row, system] == pytest.approx(each)
    assert (micro[:, 0] == micro[:, 2]).all()
    assert micro.shape == (301, 3)


def test_p_value_is_one_for_equals_small_for_better_and_fair_for_chance():
    rng = np.random.default_rng(1)
    labels = rng.random((200, 8)) < 0.2

    def p_value(one, other):
        micro, _ = statistics.bootstrap_f1(
            labels, np.stack([one, other]), np.arange(len(labels)), 400, seed=3
        )
        return statistics.paired_difference(micro[:, 0], micro[:, 1])["p_value"]

    def wrong(share):
        return labels ^ (rng.random(labels.shape) < share)

    once = wrong(0.1)
    assert p_value(once, once) == 1
    assert p_value(wrong(0.02), wrong(0.1)) < 0.01
    by_chance = [p_value(wrong(0.1), wrong(0.1)) < 0.1 for _ in range(100)]
    assert np.mean(by_chance) < 0.2  # one in ten is expected


@pytest.mark.parametrize("average", ["micro", "macro"])
def test_tuned_weights_leave_out_noise(members, average, tmp_path):
    root, chance = members[0].parent, np.random.default_rng(9)
    files = {"dev": root / "dev.jsonl", "test": root / "test.jsonl"}
    scores = dict.fromkeys(files, lambda labels: chance.random(labels.shape).round(6))
    useless = make_run(tmp_path / "useless", files, scores)
    flags = ["--weights", "tuned", "--tune", average, "--resamples", 100]
    told = combine(*members, useless, *flags, "--output-dir", tmp_path / "out")
    lines = [line.split() for line in told.split("average of\n")[1].splitlines()[:4]]
    weights = {name: float(weight) for weight, name in lines}
    assert weights[str(useless)] < 0.15
    noted = read_json(tmp_path / "out" / "run.json")["members"]  # those that predict.py asks
    assert all(each["weight"] for each in noted)
    assert len(noted) == sum(weight > 0 for weight in weights.values())
    assert sum(weights.values()) == pytest.approx(1, abs=0.01)
    reached = told.split(f"cross-fitted {average}-F1 on dev: ")[1].split(", ")[:2]
    tuned, equal = (float(part.split()[0]) for part in reached)
    assert tuned > equal
    pattern = rf"^threshold [\d.]+: dev {average}-F1 .*?, ([\d.]+) cross-fitted"
    [found] = re.findall(pattern, told, re.MULTILINE)
    assert float(found) == tuned  # weights and threshold both


def test_what_is_odd_in_a_corpus_is_told_once_and_without_labels_nothing_is_compared(tmp_path):
    rows = [make_row(str(n), target="급식") for n in range(20)]
    rows[3]["input"]["target"]["end"] = 99
    bare = [make_row(str(n), labels=None) for n in range(20)]
    files = {"dev": write_rows(tmp_path / "dev.jsonl", rows)}
    files["test"] = write_rows(tmp_path / "test.jsonl", bare)
    scores = dict.fromkeys(files, np.full((20, 8), 0.3))
    runs = [make_run(tmp_path / name, files, scores) for name in ("one", "two")]
    outcome = call("ensemble.py", *runs, "--resamples", 100, "--output-dir", tmp_path / "average")
    assert outcome.returncode == 0
    told = f"warning: {files['dev']}: line 4 first: begin and end that do not fit the text (1); "
    assert outcome.stdout.count("warning: ") == outcome.stdout.count(told) == 1, outcome.stdout
    for run in runs:
        (run / "dev.scores.jsonl").unlink()
    outcome = call("ensemble.py", *runs, "--no-ensemble", "--output-dir", tmp_path / "compared")
    assert_refused(outcome, "no labelled lines were scored, to compare on; ")
    assert not (tmp_path / "compared").exists()


def test_runs_that_do_not_match_are_refused(members, tmp_path):
    root = members[0].parent
    here = {"dev": make_corpus(tmp_path / "dev.jsonl", 300, 7), "test": root / "test.jsonl"}

    def make(name, files):
        return make_run(
            tmp_path / name, files, dict.fromkeys(files, lambda labels: noisy(labels, 1))
        )

    def change(name, mend):
        """A run with another dev.scores.jsonl: what `mend` makes of its lines."""
        path = make(name, {"dev": here["dev"]}) / "dev.scores.jsonl"
        lines = mend(path.read_text().splitlines())
        path.write_text("\n".join(lines), errors="surrogateescape")
        return path.parent

    other, only_dev = make("other", here), make("only_dev", {"dev": root / "dev.jsonl"})
    broken = change("broken", lambda lines: [*lines[:7], '{"id": "x"}', *lines[8:]])
    shuffled = change("shuffled", lambda lines: lines[::-1])
    absurd = change("absurd", lambda lines: [lines[0].replace(": 0.", ": 7."), *lines[1:]])
    empty = change("empty", lambda lines: [])
    mangled = change("mangled", lambda lines: [*lines[:4], "\udcff\udcfe", *lines[5:]])

    def note(name, **facts):
        """A run with other facts in run.json."""
        path = make(name, {"dev": here["dev"]}) / "run.json"
        path.write_text(json.dumps(read_json(path) | facts))
        return path.parent

    listed = note("listed")
    (listed / "run.json").write_text("[1]")
    unfinished = make("unfinished", {"dev": here["dev"]})
    run = read_json(unfinished / "run.json")
    del run["seconds"]
    (unfinished / "run.json").write_text(json.dumps(run))
    for runs, message in (
        ([members[0], other], "other: scored another dev file"),
        ([members[0], only_dev], "only_dev: scored dev"),
        ([members[0], members[0]], "named twice"),
        ([unfinished], "not finished; delete it, and make it anew"),  # it was no training
        ([broken], "dev.scores.jsonl: line 8"),
        ([shuffled], "differ in their lines"),
        ([absurd], "no probabilities"),
        ([empty], "dev.scores.jsonl: is empty"),
        ([mangled], "dev.scores.jsonl: line 5"),
        ([listed], "holds no run"),
        ([note("bare", arguments=None)], "holds no run"),
        ([note("of_nothing", data={})], "run.json names no dev file"),
        ([tmp_path / "nothing"], "holds no run"),
        ([only_dev, "--dev-file", tmp_path / "gone.jsonl"], "or say with --dev-file where it is"),
        ([only_dev, "--threshold", "2"], "--threshold"),
        ([only_dev, "--output-dir", members[0]], "no run is overwritten"),
    ):
        outcome = call("ensemble.py", "--output-dir", tmp_path / "out", *runs)
        assert outcome.returncode == 2, outcome.stdout
        assert message in outcome.stderr and outcome.stderr.count("\n") == 1, outcome.stderr
    assert not (tmp_path / "out").exists()


def test_runs_that_differ_in_more_than_their_seed_are_of_several_kinds(tmp_path):
    files = {"dev": make_corpus(tmp_path / "dev.jsonl", 40, 0)}
    give = {"dev": np.random.default_rng(0).random((40, 8))}
    run = systems.read_run(make_run(tmp_path / "one", files, give))
    kind = kinds.kind_of(run)
    assert kind == kinds.kind_of(run | {"arguments": run["arguments"] | {"seed": 9}})
    of_another_version = dict(reversed(run["arguments"].items()))
    assert kind == kinds.kind_of(run | {"arguments": of_another_version})
    folds = [
        {**run["arguments"], "folds": 2, "fold": 0},
        of_another_version | {"folds": 2, "fold": 1},
    ]
    [group] = kinds.groups_of({Path(str(n)): run | {"arguments": folds[n]} for n in range(2)})
    assert sorted(group) == [0, 1]
    for change in (
        {"precision": "bf16"},
        {"processes": 2},
        {"data": run["data"] | {"train": {"sha256": "another"}}},
        {"arguments": run["arguments"] | {"threshold": 0.3}},
        {"arguments": run["arguments"] | {"epochs": 3}},
    ):
        assert kind != kinds.kind_of(run | change)

    def with_rates(objective, **rates):
        more = {"objective": objective, "lr": 0.1} | rates
        return kinds.kind_of(run | {"arguments": run["arguments"] | more})

    assert with_rates("answer") == with_rates("answer", head_lr=0.2)  # it has no new weights
    began_before = with_rates("head")  # the flag was there
    assert began_before == with_rates("head", head_lr=0.1) != with_rates("head", head_lr=0.2)
    others = [run | {"arguments": run["arguments"] | {"seed": seed}} for seed in (8, 9, 9)]
    assert kinds.kinds_of([run, *others]) == [kind, kind, kind, f"{kind}1"]  # no fourth seed
    again = tmp_path / "nowhere" / ".." / "one"
    outcome = call("ensemble.py", tmp_path / "one", again, "--output-dir", tmp_path / "out")
    assert outcome.returncode == 2 and "is named twice" in outcome.stderr


def test_unlabelled_test_lines_are_predicted_and_not_compared(tmp_path):
    rows = [make_row(id=str(n), labels=None) for n in range(5)]
    files = {
        "dev": make_corpus(tmp_path / "dev.jsonl", 40, seed=0),
        "test": write_rows(tmp_path / "test.jsonl", rows),
    }
    scores = {"dev": lambda labels: noisy(labels, 0), "test": np.full((5, 8), 0.5)}
    runs = [make_run(tmp_path / name, files, scores) for name in ("a", "b")]
    combine(*runs, "--resamples", 100, "--output-dir", tmp_path / "out")
    assert len(utils.read_corpus(tmp_path / "out" / "test.jsonl", labelled=True)) == 5
    assert list(read_json(tmp_path / "out" / "comparison.json")) == ["dev"]


# Benchmarks that make and read runs


def test_accuracy_is_tabled_beside_the_most_frequent_label(tmp_path):
    """Of one label a line: how often the most probable one is right, whatever the threshold."""
    files = {}
    for split, labels in {"dev": "aabbb", "test": "aaabc"}.items():
        rows = [
            make_row(id=str(n), labels=None) | {"output": {x: str(x == name) for x in "abc"}}
            for n, name in enumerate(labels)
        ]
        files[split] = write_rows(tmp_path / f"{split}.jsonl", rows)
    scores = np.tile([0.3, 0.2, 0.1], (5, 1))
    scores[3] = 0.1, 0.2, 0.3
    run = make_run(tmp_path / "run", files, {"dev": scores, "test": scores}, names=[*"abc"])
    table = call("results.py", run).stdout
    assert "| accuracy |" in table and "\n| always b | | | 0.200 | 0.111 | 0.111 | 0.200 |" in table
    every = (2 * 0.6 / 1.6 + 2 * (2 * 0.2 / 1.2)) / 3
    assert f"\n| always every label | | | 0.500 | {every:.3f} | {every:.3f} |  |" in table
    assert re.search(r"\| 0\.600 \[0\.\d+, [01]\.\d+\] \| \d+ \|", table), table


def test_the_linear_model_is_a_run_and_results_are_tabled(tmp_path):
    rows = utils.read_corpus(utils.SAMPLE / "train.jsonl")
    for split, part in {"train": rows[:300], "dev": rows[300:400], "test": rows[400:500]}.items():
        write_rows(tmp_path / f"{split}.jsonl", part)
    run = tmp_path / "linear"
    given = "--tune", "macro", "--output-dir", tmp_path / "macro"
    told = call("linear.py", "--corpus", tmp_path, *given).stdout
    tried = re.findall(r"^C ([0-9.]+): dev macro-F1 ([0-9.]+) cross-fitted$", told, re.MULTILINE)
    best = max(tried, key=lambda each: float(each[1]))[0]
    assert len(tried) == 5 and read_json(tmp_path / "macro" / "run.json")["C"] == float(best)
    outcome = call("linear.py", "--corpus", tmp_path, "--output-dir", run)
    assert outcome.returncode == 0 and outcome.stderr == "", outcome.stderr
    metrics = read_json(run / "metrics.json")["test"]
    assert read_json(run / "run.json")["C"] in (0.5, 1, 2, 5, 10)
    assert outcome.stdout.count("cross-fitted\n") == 5
    table = call("results.py", run).stdout
    assert f"| {run} | 1 | {metrics['micro_f1_at_0.5']:.3f} | {metrics['micro_f1']:.3f} [" in table
    assert f"| {metrics['macro_f1']:.3f} [" in table
    page = tmp_path / "page.md"
    kept = "<!-- runs: lin* none -->\n| kept |\n"
    page.write_text(f"Before.\n\n<!-- runs: lin* -->\n| old |\n\n{kept}")
    told = call("results.py", "--write", page, "--runs", tmp_path).stdout
    assert "lin* none: stays as it is, there is no none\n" in told
    written = page.read_text()
    assert written.startswith("Before.\n\n<!-- runs: lin* -->\n| 100 test lines | seeds |")
    assert "\n| linear | 1 |" in written and "| old |" not in written
    assert written.endswith(f"\n\n{kept}")
    gold = utils.encode_labels(rows[400:500], EMOTIONS)
    answer = statistics.best_constant_answer(utils.encode_labels(rows[:300], EMOTIONS), EMOTIONS)
    always = statistics.constant_decisions(len(gold), EMOTIONS, answer)
    assert f"| always {', '.join(answer)} | | | {utils.micro_f1(gold, always):.3f} |" in table
    every = utils.macro_f1(gold, np.ones_like(gold))
    assert re.search(
        rf"\n\| always every label \| \| \| 0\.\d+ \| {every:.3f} \| {every:.3f} \|", table
    )
    assert every > utils.macro_f1(gold, always) and "accuracy" not in table
    refused = call("predict.py", run, "표")
    assert_refused(refused, f"{run / 'best'}: holds a decision rule and no model")
    record, other = read_json(run / "run.json"), tmp_path / "other"
    shutil.copytree(run, other)
    (other / "run.json").write_text(json.dumps(record | {"git_commit": f"{'0' * 40}-dirty"}))
    for file in other.glob("*.scores.jsonl"):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        turned = [line | {"scores": dict(reversed(line["scores"].items()))} for line in lines]
        file.write_text("".join(json.dumps(line) + "\n" for line in turned))
    assert_refused(call("results.py", run, other), "name runs with the same, in the same order")
    assert "| 0000000-dirty |" in call("results.py", other).stdout
    write_rows(tmp_path / "test.jsonl", rows[401:501])
    assert_refused(call("results.py", run), f"{run}: scored another test file")
    (tmp_path / "test.jsonl").unlink()  # and no flag says where it is now
    outcome = call("results.py", run)
    assert_refused(outcome, "no such file; ")
    assert outcome.stderr.endswith(f"put the test file of {run} there again\n")
    record = read_json(run / "run.json")  # and of one that was given no test file
    record["data"].pop("test")
    (run / "run.json").write_text(json.dumps(record))
    (run / "test.scores.jsonl").unlink()
    assert_refused(call("results.py", run), f"{run}: scored no test lines; predict some with it")
    told = "no such page; check --write and --runs"
    assert_refused(call("results.py", "--write", tmp_path / "no.md", "--runs", tmp_path), told)


def test_the_linear_model_of_one_label(tmp_path):
    rows = utils.read_corpus(utils.SAMPLE / "train.jsonl")
    for split, part in {"train": rows[:80], "dev": rows[80:120], "test": rows[120:160]}.items():
        part = [row | {"output": {"joy": row["output"]["joy"]}} for row in part]
        write_rows(tmp_path / f"{split}.jsonl", part)
    assert call("linear.py", "--corpus", tmp_path, "--output-dir", tmp_path / "out").returncode == 0


def test_the_rules_of_the_ablation():
    import ablation

    labels = np.array([[1, 0, 0, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0, 0, 0]] * 3)
    scores = labels * np.array([0.2, 0.9, *[0.5] * 6]) + 0.01
    others = np.array([[0.15, 0.5, *[0.0] * 6], [0.01, 0.02, *[0.0] * 6]])
    assert ablation.fit_half(labels, scores)(others).sum(1).tolist() == [1, 0]
    each = rules.fit_each(labels, scores)(others)
    assert each[:, :2].tolist() == [[True, True], [False, False]]
    at_least_one = ablation.fit_at_least_one(labels, scores)(others)
    assert at_least_one.tolist()[1] == [False, True, *[False] * 6]


def test_the_ablation_reads_what_it_scores_before_it_trains(tmp_path):
    write_rows(tmp_path / "dev.jsonl", [make_row()])
    path = write_rows(tmp_path / "test.jsonl", [make_row(labels=None)])
    given = ("--kote", tmp_path, "--kote-model", "M", "--xed", tmp_path, "--xed-model", "M")
    outcome = call("ablation.py", *given, "--output-dir", tmp_path / "out")
    assert_refused(outcome, f"{path}: line 1")
    assert not (tmp_path / "out").exists()
    write_rows(tmp_path / "train.jsonl", [make_row()])
    write_rows(path, [make_row()])
    made = tmp_path / "out" / "kote" / "mean-42"
    made.mkdir(parents=True)
    outputs.write_json(made / "run.json", {"seconds": 1, "data": {}})
    outcome = call("ablation.py", *given, "--output-dir", tmp_path / "out", "--jobs", 1)
    assert_refused(outcome, f"{made}: is of other lines; give another --output-dir")
    files = {split: tmp_path / f"{split}.jsonl" for split in ("train", "dev", "test")}
    seen = {split: identify(path) for split, path in files.items()}
    outputs.write_json(made / "run.json", {"seconds": 1, "data": seen, "arguments": {"lr": 0.5}})
    outcome = call("ablation.py", *given, "--output-dir", tmp_path / "out", "--jobs", 1)
    assert_refused(outcome, "--resume: ", " was ", "or another --output-dir")


# Folds


def test_split_fold_parts_every_line_once_with_emotions_even_and_sentences_whole():
    files = [utils.SAMPLE / f"{split}.jsonl" for split in ("train", "dev")]
    rows = [row for file in files for row in utils.read_corpus(file)]
    parts = [data.split_fold(rows, EMOTIONS, 5, fold) for fold in range(5)]
    held_out = [row["id"] for part in parts for row in part["dev"]]
    assert sorted(held_out) == sorted(row["id"] for row in rows)
    shares = utils.encode_labels(rows, EMOTIONS).mean(0)
    for part in parts:
        train, dev = part["train"], part["dev"]
        assert len(train) + len(dev) == len(rows)
        assert not {row["id"] for row in train} & {row["id"] for row in dev}
        assert not {row["input"]["form"] for row in train} & {row["input"]["form"] for row in dev}
        assert utils.encode_labels(dev, EMOTIONS).mean(0) == pytest.approx(shares, rel=0.2)
        assert len(dev) == pytest.approx(len(rows) / 5, abs=2)
    assert parts[0] == data.split_fold(rows, EMOTIONS, 5, 0)


def test_split_fold_parts_lines_that_have_no_labels_in_common():
    rows = [make_row(str(n), f"문장 {n}", None, (EMOTIONS[n],)) for n in range(6)]
    held_out = [data.split_fold(rows, EMOTIONS, 3, fold)["dev"] for fold in range(3)]
    assert [len(part) for part in held_out] == [2, 2, 2]
    assert sorted(row["id"] for part in held_out for row in part) == list("012345")
    of_one = [make_row(str(n), "문장", None, ("joy",)) for n in range(6)]
    with pytest.raises(utils.InputError, match="--folds 3: 1 sentences are too few"):
        data.split_fold(of_one, EMOTIONS, 3, 0)


def test_labels_that_the_scripts_refuse_are_not_tuned_on(tmp_path):
    """Of a run that did not use them; read as absent, they would give a rule and a score of 0."""
    rows = [make_row(str(n), f"문장 {n}", None) for n in range(8)]
    file = write_rows(tmp_path / "dev.jsonl", rows)
    run = make_run(tmp_path / "run", {"dev": file}, {"dev": lambda labels: noisy(labels, 0)})
    rows[0]["output"]["joy"] = "true"
    write_rows(file, rows)
    record = read_json(run / "run.json")
    record["data"]["dev"] = identify(file)
    (run / "run.json").write_text(json.dumps(record, default=str))
    outcome = call("ensemble.py", run, "--output-dir", tmp_path / "out")
    assert outcome.returncode == 2 and "no labelled dev lines were scored" in outcome.stderr
    assert "output.joy: is 'true'" in outcome.stdout and "are not used" in outcome.stdout


def test_a_rule_that_gives_one_answer_and_a_file_that_nobody_reads_are_told(members, tmp_path):
    given = {"dev": members[0].parent / "dev.jsonl"}
    flat = make_run(tmp_path / "flat", given, {"dev": lambda labels: np.full(labels.shape, 0.4)})
    told = "warning: all lines of dev get the same answer; train longer, or give a --threshold"
    assert told in combine(flat, "--output-dir", tmp_path / "out")
    assert told not in combine(members[0], "--output-dir", tmp_path / "other")
    for split in ("train", "test"):
        flags = [f"--{split}-file", "no.jsonl", "--output-dir", tmp_path / "no"]
        refused = call("ensemble.py", flat, *flags)
        assert_refused(refused, f"--{split}-file: the {split} lines of these runs are not read")
    assert not (tmp_path / "no").exists()


ARGUMENTS = {"folds": 2, "answers": "answers.json", "threshold": "auto"}  # of a fold


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"data": {"answers": {"sha256": "b"}}}, "--answers"),
        ({"data": {}}, "--answers"),
        ({"processes": 2}, "the number of processes"),
        ({"precision": "bf16"}, "the precision that it came to"),
        ({"arguments": {**ARGUMENTS, "fold": 1, "threshold": 0.3}}, "--threshold"),
    ],
)
def test_folds_of_another_run_are_told_apart_by(change, told):
    one = {"script": "gpt_train.py", "data": {"answers": {"sha256": "a"}}}
    first, second = (one | {"arguments": ARGUMENTS | {"fold": fold}} for fold in (0, 1))
    assert len(kinds.groups_of({Path("a"): first, Path("b"): second})) == 1
    with pytest.raises(utils.InputError, match=f"no fold of the same run, but another in {told};"):
        kinds.groups_of({Path("a"): first, Path("b"): second | change})


def test_a_fold_that_is_forgotten_beside_another_whole_run_is_named():
    one = {"script": "gpt_train.py", "data": {}}
    runs = {
        Path(f"{seed}-{fold}"): one | {"arguments": ARGUMENTS | {"seed": seed, "fold": fold}}
        for seed, fold in ((42, 0), (43, 0), (43, 1))
    }
    with pytest.raises(utils.InputError, match="42-0: fold 1 of its 2 is not named; train and"):
        kinds.groups_of(runs)


def test_runs_of_a_repeated_id_are_refused_with_what_mends_them(tmp_path):
    file = write_rows(tmp_path / "dev.jsonl", [make_row(), make_row()])
    runs = {tmp_path: {"data": {"dev": identify(file)}}}
    told = "make every id unique, and let each run predict it again"
    with pytest.raises(utils.InputError, match=told):
        systems.read_scored_file({}, "dev", runs)


def test_folds_of_a_repeated_id_or_of_too_few_lines_are_refused(tmp_path):
    train = write_rows(tmp_path / "train.jsonl", [make_row(), make_row(id="line-2")])
    dev = write_rows(tmp_path / "dev.jsonl", [make_row(id="line-3")])
    files = ["--train-file", train, "--output-dir", tmp_path / "out"]
    twice = write_rows(tmp_path / "twice.jsonl", [make_row(id="a"), make_row(id="a")])
    for dev_file, message in (
        (train, f"{train}, which --folds pools: row 3: id: 'line-1' stands in row 1 too"),
        (twice, f"error: {twice}: row 2: id: 'a' stands in row 1 too"),
        (dev, "3 lines are too few"),
    ):
        flags = ["--dev-file", dev_file, "--folds", 5, "--fold", 0]
        outcome = call("bert_plain.py", *files, *flags)
        assert outcome.returncode == 2 and message in outcome.stderr
    assert not (tmp_path / "out").exists()


def test_folds_trained_apart_meet_again(tmp_path):
    sample = utils.read_corpus(utils.SAMPLE / "train.jsonl")
    parts = {"train": sample[:60], "dev": sample[60:90], "test": sample[90:110]}
    for fold in (0, 1):
        machine = tmp_path / f"machine-{fold}"
        machine.mkdir()
        files = {
            f"--{split}-file": write_rows(machine / split, rows) for split, rows in parts.items()
        }
        flags = ["--epochs", 1, "--folds", 2, "--fold", fold, "--output-dir", tmp_path / str(fold)]
        files = [argument for pair in files.items() for argument in pair]
        outcome = call("bert_plain.py", "--sample", *files, *flags)
        assert outcome.returncode == 0, outcome.stderr
    alone = call("ensemble.py", tmp_path / "0", "--output-dir", tmp_path / "out")
    assert_refused(alone, f"{tmp_path / '0'}: fold 1 of its 2 is not named; train and name it too")
    runs = [tmp_path / "0", tmp_path / "1"]
    learnt = f"{runs[0]}: runs of folds have learnt lines of dev; ask them with --split test"
    assert_refused(call("exchange.py", runs[0], "--split", "dev"), learnt)
    copy = shutil.copytree(runs[1], tmp_path / "copy")
    twice = call("ensemble.py", *runs, copy, "--output-dir", tmp_path / "out")
    assert_refused(twice, f"{copy}: fold 0 of its 2 is not named; train and name it too")
    assert_refused(call("results.py", runs[0]), f"{runs[0]}: is of one fold; average those of all")
    record = read_json(copy / "run.json")
    record["arguments"] |= {"seed": 7}
    (copy / "run.json").write_text(json.dumps(record))
    told = f"{runs[0]}: {copy} is no fold of the same run, but another in --seed; train it"
    assert_refused(call("ensemble.py", runs[0], copy, "--output-dir", tmp_path / "out"), told)
    parted = "Train and dev together were parted in 2: part 1 is the dev"
    assert parted in (runs[1] / "best" / "README.md").read_text()
    assert "train and dev together are parted in 2; part 1" in (runs[1] / "report.html").read_text()
    combine(*runs, "--resamples", 100, "--output-dir", tmp_path / "out")
    pool = [row["id"] for row in sample[:90]]
    ids, scores, _ = systems.read_scores(tmp_path / "out" / "dev.scores.jsonl")
    assert ids == pool
    of_folds = {}
    for run in runs:
        ids, values, _ = systems.read_scores(run / "dev.scores.jsonl")
        assert not of_folds.keys() & set(ids)
        of_folds |= dict(zip(ids, values, strict=True))
    assert scores == pytest.approx(np.array([of_folds[id] for id in pool]))
    tests = [read_scores(run, "test") for run in runs]
    assert abs(tests[0] - tests[1]).max() > 0.01
    assert read_scores(tmp_path / "out", "test") == pytest.approx(np.mean(tests, axis=0), abs=1e-6)
    assert read_json(tmp_path / "out" / "run.json")["data"].keys() == parts.keys()
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Lines whose labels look wrong" in page and "<h2>train and dev: 90 lines" in page
    comparison = read_json(tmp_path / "out" / "comparison.json")["test"]
    assert list(comparison["systems"]) == ["the average"]  # of one thing, which it is
    gold = utils.encode_labels(utils.read_corpus(files[1]) + utils.read_corpus(files[3]), EMOTIONS)
    answer = read_json(tmp_path / "out" / "run.json")["constant_answer"]
    assert answer == statistics.best_constant_answer(gold, EMOTIONS)
    combine(tmp_path / "out", "--resamples", 100, "--output-dir", tmp_path / "again")
    assert read_scores(tmp_path / "again", "dev") == pytest.approx(scores)
    for run in runs:
        record = read_json(run / "run.json")
        record["arguments"] |= {"threshold": 0.25}
        (run / "run.json").write_text(json.dumps(record))
    [joined], _, _ = systems.read_systems(runs, dict.fromkeys(("train", "dev", "test")))
    assert (joined.decisions["dev"] == (joined.scores["dev"] >= 0.25)).all()
    assert "Lines whose labels look wrong" not in (runs[0] / "report.html").read_text()


def test_a_frozen_encoder_by_folds_is_tabled(tmp_path):
    rows = utils.read_corpus(utils.SAMPLE / "train.jsonl")
    for split, part in {"train": rows[:100], "dev": rows[300:350], "test": rows[400:440]}.items():
        write_rows(tmp_path / f"{split}.jsonl", part)
    for fold in (0, 1):
        given = ["--encoder", utils.SAMPLE / "roberta-tiny", "--folds", 2, "--fold", fold]
        run = tmp_path / f"frozen-{fold}"
        outcome = call("linear.py", "--corpus", tmp_path, *given, "--output-dir", run)
        assert outcome.returncode == 0 and outcome.stderr == "", outcome.stderr
    average, runs = tmp_path / "average", [tmp_path / "frozen-0", tmp_path / "frozen-1"]
    combine(*runs, "--resamples", 100, "--output-dir", average)
    figure = read_json(average / "metrics.json")["test"]["micro_f1"]
    found = call("results.py", average).stdout
    assert f"| {average} | 1 | " in found and f" {figure:.3f} [" in found


# A student


def make_teacher(directory, train, scores, **facts):
    """What an average of the runs of all folds leaves, of a file that is train and dev."""
    run = make_run(directory, {"train": train, "dev": train}, {"dev": scores})
    record = read_json(run / "run.json") | {"out_of_fold": True} | facts
    (run / "run.json").write_text(json.dumps(record))
    return run


def test_a_student_learns_scores_as_much_as_labels(tmp_path, monkeypatch):
    """Scores that are the labels change nothing; others do."""
    taught = []

    class Watched(bert_plain.EncoderTask):
        def __init__(self, *given):
            taught.append(given[3])
            super().__init__(*given)

    monkeypatch.setattr(bert_plain, "EncoderTask", Watched)
    sample = utils.read_corpus(utils.SAMPLE / "train.jsonl")
    files = {"train": sample[:40], "dev": sample[40:60]}
    files = {name: write_rows(tmp_path / name, rows) for name, rows in files.items()}
    given = ["--train-file", files["train"], "--dev-file", files["dev"], "--epochs", 1]
    given += ["--test-file", files["dev"], "--precision", "fp32", "--train-batch-size", 8]
    teachers = {"right": lambda labels: labels, "unsure": lambda labels: 0.8 * labels}
    found, of_kind = {}, []
    for name, scores in {"none": None, **teachers}.items():
        flags = scores and ["--soft-labels", make_teacher(tmp_path / name, files["train"], scores)]
        output = tmp_path / f"taught-{name}"
        outcome = call("bert_plain.py", "--sample", *given, *(flags or []), "--output-dir", output)
        assert outcome.returncode == 0, outcome.stderr
        found[name] = (output / "dev.scores.jsonl").read_text()
        of_kind.append(kinds.kind_of(read_json(output / "run.json")))
        card = (output / "best" / "README.md").read_text(encoding="utf-8")
        assert ("the scores of an average of models" in card) == bool(flags)
    assert found["right"] == found["none"] != found["unsure"]
    assert taught[2] == pytest.approx(0.9 * taught[0])  # of the labels and 0.8 times them
    assert len({*of_kind}) == 3  # the teacher tells students apart


@pytest.mark.parametrize("script", ["bert_plain.py", "bert_GRU.py"])
def test_a_teacher_that_does_not_fit_is_refused(script, tmp_path):
    sample = utils.read_corpus(utils.SAMPLE / "train.jsonl")[:30]
    train, other = (write_rows(tmp_path / str(n), sample[:n]) for n in (30, 20))
    right = make_teacher(tmp_path / "right", train, lambda labels: labels)
    plain = make_teacher(tmp_path / "plain", train, lambda labels: labels, out_of_fold=False)
    wrong = make_teacher(tmp_path / "wrong", other, lambda labels: labels)
    output = ["--output-dir", tmp_path / "out"]
    flags = ["--sample", "--train-file", train, *output, "--soft-labels"]
    assert_refused(call(script, *flags, plain), f"{plain}: is no average of the runs of all folds")
    assert_refused(call(script, *flags, wrong), f"{wrong}: is of another training file")
    assert_refused(call(script, *flags, tmp_path), f"{tmp_path}: holds no run that scored lines")
    predicts = ["--model-ckpt-path", tmp_path]
    assert_refused(call(script, *flags, right, *predicts), "--soft-labels is for training")
    by_folds = ["--folds", 2, "--fold", 0]
    assert_refused(call(script, *flags, right, *by_folds), "its teachers have learnt every fold")
    assert not (tmp_path / "out").exists()
