"""Runs of the training scripts on a corpus of 32, 24 and 16 lines, and what they have to end with.

Three epochs of four steps, a checkpoint after every third and after each epoch, in float32; the
best epoch is not the first.
"""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conftest import Outcome, call, write_rows

import utils

ROBERTA, GPT_NEOX = utils.SAMPLE / "roberta-tiny", utils.SAMPLE / "gpt-neox-tiny"
MODELS = {"bert_plain.py": ROBERTA, "bert_GRU.py": ROBERTA, "gpt_train.py": GPT_NEOX}
BATCH_SIZE = {
    "bert_plain.py": "--train-batch-size",
    "bert_GRU.py": "--train-batch-size",
    "gpt_train.py": "--batch-size",
}
FLAGS = ("--epochs", 3, "--lr", "2e-3", "--save-steps", 3, "--precision", "fp32")
ENDS_WITH = ("metrics.json", "dev.jsonl", "dev.scores.jsonl", "test.jsonl", "test.scores.jsonl")


class SmallRuns:
    """The corpus, the arguments of a run on it, and runs that nothing disturbed, made once."""

    def __init__(self, made_once: Callable) -> None:
        self.made_once = made_once

    def corpus(self) -> list[Any]:
        """Arguments that name the corpus."""

        def make(directory: Path) -> Outcome:
            directory.mkdir()
            rows = utils.read_corpus(utils.SAMPLE / "train.jsonl")
            for split, part in (("train", rows[:32]), ("dev", rows[64:88]), ("test", rows[88:104])):
                write_rows(directory / f"{split}.jsonl", part)
            return subprocess.CompletedProcess([], 0)

        directory, _ = self.made_once("corpus", make)
        flags = [(f"--{split}-file", directory / f"{split}.jsonl") for split in ("train", "dev")]
        return [*flags[0], *flags[1], "--test-file", directory / "test.jsonl"]

    def arguments(self, script: str) -> list[Any]:
        """The arguments of a run, but for its output directory."""
        return ["--model", MODELS[script], *self.corpus(), *FLAGS, BATCH_SIZE[script], 8]

    def undisturbed(self, script: str, *more: Any) -> Path:
        """The output directory of a whole run. It is not to be changed."""

        def train(directory: Path) -> Outcome:
            return call(script, *self.arguments(script), *more, "--output-dir", directory)

        name = "-".join(["undisturbed", script, *map(str, more)])
        directory, outcome = self.made_once(name, train)
        assert outcome.returncode == 0 and outcome.stderr == "", outcome.stderr
        return directory


def assert_same_end(output: Path, reference: Path) -> None:
    """Both runs left the same predictions, scores, metrics, decision rule and weights, and no more.

    To the bit.
    """
    names = {path.relative_to(reference) for path in reference.rglob("*")}
    assert {path.relative_to(output) for path in output.rglob("*")} == names
    weights = [path for path in names if path.suffix == ".safetensors"]
    assert weights
    for name in (*ENDS_WITH, "best/decision.json", *weights):
        assert (output / name).read_bytes() == (reference / name).read_bytes(), name
