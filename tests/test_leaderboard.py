"""docs/leaderboard.sh, whole, on lines of the sample: from three models to the file to hand in."""

import os
import subprocess
import sys
from pathlib import Path

from conftest import EMOTIONS, ROOT, call, write_rows
from small_runs import GPT_NEOX, ROBERTA

import utils


def test_the_recipe_of_the_leaderboard(tmp_path):
    rows = utils.read_corpus(utils.SAMPLE / "train.jsonl")
    parts = {"train": rows[:40], "dev": rows[40:60], "test": rows[60:70]}
    files = [
        f"--{split}-file {write_rows(tmp_path / f'{split}.jsonl', part)}"
        for split, part in parts.items()
    ]
    settings = {"FOLDS": "2", "KCELECTRA": ROBERTA, "ROBERTA": ROBERTA, "GPT": GPT_NEOX}
    settings |= {"FILES": " ".join(files), "BERT_FLAGS": "--epochs 1", "GPT_FLAGS": "--epochs 1"}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {name: str(each) for name, each in settings.items()} | {"PATH": path}
    command, average = [ROOT / "docs" / "leaderboard.sh", "out"], tmp_path / "out" / "average"
    average.mkdir(parents=True)
    (average / "thesis.txt").write_text("mine")
    refused = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    told = f"{average}: is no average; take it away, or give another OUTPUT\n"
    assert (refused.returncode, refused.stdout, refused.stderr) == (2, "", told)
    (average / "thesis.txt").rename(tmp_path / "thesis.txt")
    average.rmdir()
    first = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    assert first.stdout.endswith(f"to hand in: {average / 'test.jsonl'}\n")
    handed_in = utils.read_corpus(average / "test.jsonl", labelled=True, labels=EMOTIONS)
    assert [row["input"] for row in handed_in] == [row["input"] for row in parts["test"]]
    (average / "test.jsonl").unlink()  # as if the test file had come when all was trained
    again = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("this run is complete") == 6  # it makes nothing again
    told = f"python predict.py {average} --input FILE --output FILE\n"
    assert again.stdout.endswith(told)
    test, late = tmp_path / "test.jsonl", tmp_path / "late.jsonl"
    outcome = call("predict.py", average, "--input", test, "--output", late)
    assert outcome.returncode == 0, outcome.stderr
    with_scores = utils.read_corpus(late, labelled=True, labels=EMOTIONS)
    assert all(row["scores"].keys() == set(EMOTIONS) for row in with_scores)
    script = again.stdout.partition("sed '")[2].partition("'")[0]
    late.write_bytes(subprocess.run(["sed", script, late], capture_output=True, check=True).stdout)
    assert utils.read_corpus(late, labelled=True, labels=EMOTIONS) == handed_in
