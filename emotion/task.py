"""What the training loop is given: by an approach parameters, the orders that lines are seen in,
and how far a run has come.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from emotion import outputs
from emotion.run import STATE_FILE
from emotion.scoring import AfterBatch, Batch, batches_by_length


class Task(Protocol):
    """What an approach gives to the loop.

    Attributes:
        model: as it is before `accelerator.prepare`.
        parameters: groups of those to train, with their rates, for AdamW.
        lines_at_once: how many lines a process takes through the model at a time.
        precision: what products are made in; float16 needs the loss scaled.
    """

    model: Any
    parameters: list[dict[str, Any]]
    lines_at_once: int
    precision: str

    @property
    def lengths(self) -> Sequence[int] | None:
        """Tokens of each line of train, where lines are padded to the longest beside them."""

    def batches(self, epoch: int) -> list[Batch]:
        """The lines of each step of an epoch, by index; of all processes, which part them."""

    def loss(self, model: Any, batch: Sequence[int]) -> torch.Tensor:
        """The mean loss of lines of train, given by index."""

    def score(self, model: Any, split: str, after_batch: AfterBatch) -> np.ndarray:
        """Probabilities of the labels, [lines, labels]; the model is in evaluation mode."""

    def save(self, model: Any, path: Path, weights: dict[str, Any] | None) -> None:
        """Write a checkpoint that its library reads; with weights that processes share."""

    def load_best(self, path: Path) -> Any:
        """The model of a checkpoint, read back to predict with."""


def parameter_groups(
    model: Any, new_weights: set[str], lr: float, head_lr: float, weight_decay: float = 0.0
) -> list[dict[str, Any]]:
    """Parameters for an optimiser: new ones learn at their own rate, vectors do not decay.

    Those that are frozen are in no group.
    """
    groups: dict[tuple[float, ...], dict[str, Any]] = {}
    trained = [each for each in model.named_parameters() if each[1].requires_grad]
    for name, parameter in trained:
        is_new, decays = name in new_weights, parameter.ndim > 1  # biases and norms are vectors
        rates = {"lr": head_lr if is_new else lr, "weight_decay": weight_decay if decays else 0.0}
        group = groups.setdefault(tuple(rates.values()), {"params": [], **rates})
        group["params"].append(parameter)
    return list(groups.values())


def like_length(lengths: Sequence[int], lines: int, seed: int, epoch: int) -> list[Batch]:
    """The batches of an epoch, lines of like length together, in random order.

    Sorting within groups of 100 batches, each drawn at random, leaves little padding. Seed and
    epoch alone decide. The last batch may be short, and stays last.
    """
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(len(lengths)).tolist()
    for start in range(0, len(order), 100 * lines):
        group = slice(start, start + 100 * lines)
        order[group] = sorted(order[group], key=lambda index: -lengths[index])
    batches = [order[start : start + lines] for start in range(0, len(order), lines)]
    shuffled = [*rng.permutation(len(batches) - 1).tolist(), len(batches) - 1]
    return [batches[number] for number in shuffled]


@dataclasses.dataclass
class State:
    """How far a run has come: what `training_state.json` of a checkpoint holds."""

    step: int = 0
    epochs: int = 0  # trained and evaluated
    best: float = -1.0
    seconds: float = 0.0
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)

    @classmethod
    def read(cls, checkpoint: Path) -> "State":
        """That of a checkpoint.

        Raises:
            ValueError: its file was not written by this version.
        """
        given = outputs.read_json(checkpoint / STATE_FILE)
        wanted = {name: type(value) for name, value in dataclasses.asdict(cls()).items()}
        if {name: type(value) for name, value in given.items()} != wanted:
            raise ValueError(f"{STATE_FILE} holds other fields")
        return cls(**given)


def check_random_states(saved: dict[str, Any]) -> None:
    """See that torch draws as a checkpoint says, since accelerate hides it where it cannot restore.

    Raises:
        ValueError: a device that is here and was there has another state.
    """
    was, now = saved.get("torch_cuda_manual_seed", []), torch.cuda.get_rng_state_all()
    pairs = [(torch.get_rng_state(), saved["torch_manual_seed"]), *zip(now, was, strict=False)]
    if not all(torch.equal(*pair) for pair in pairs):
        raise ValueError("the random states are not restored")


def in_parts(batch: Batch, lines: int, lengths: Sequence[int] | None) -> list[Batch]:
    """Lines of a step as they are taken through a model: so many at a time, and none padded to more
    than four times its length. One long line would make all of a batch as long, and as large.
    """
    if lengths is None:
        return [batch[start : start + lines] for start in range(0, len(batch), lines)]
    parts = batches_by_length([lengths[index] for index in batch], lines, padding=0.75)
    return [[batch[position] for position in part] for part in parts]


def in_random_order(count: int, lines: int, seed: int, epoch: int) -> list[Batch]:
    """The batches of an epoch, drawn at random by seed and epoch alone."""
    order = np.random.default_rng((seed, epoch)).permutation(count).tolist()
    return [order[start : start + lines] for start in range(0, count, lines)]
