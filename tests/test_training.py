"""The loop: on a model of ten weights, then in small runs of the scripts in this process.

What takes processes of its own (kills, a second signal, launchers) is in test_trust.py.
"""

import argparse
import contextlib
import importlib.util
import itertools
import json
import math
import os
import re
import shutil
import signal
import subprocess
import zipfile

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import load
from conftest import call
from safetensors.torch import load_file, save_file
from small_runs import ROBERTA, assert_same_end
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

import utils
from emotion import process as process_module
from emotion import rules, scoring, systems, training
from emotion.data import Corpora
from emotion.run import STATE_FILE, Run, last_whole_checkpoint
from emotion.task import in_parts, in_random_order, like_length

LINES, BATCH = 33, 8


class Toy:
    """A task of the loop: a linear layer to two labels, the squared error."""

    def __init__(self, lines_at_once=BATCH, precision="fp32", scale=0.1, lengths=None):
        torch.manual_seed(0)
        self.model, self.lines_at_once, self.precision = nn.Linear(4, 2), lines_at_once, precision
        self.lengths = lengths
        self.parameters = [{"params": list(self.model.parameters()), "lr": 0.1}]
        self.inputs, self.targets = scale * torch.randn(LINES, 4), scale * torch.randn(LINES, 2)
        self.dev = [3] * 9  # how many of the five right lines of dev are told, by evaluation
        self.evaluated, self.saves = 0, []

    def batches(self, epoch):
        return in_random_order(LINES, BATCH, 0, epoch)

    def loss(self, model, batch):
        where = next(model.parameters()).device
        values = self.inputs[list(batch)].to(where), self.targets[list(batch)].to(where)
        return nn.functional.mse_loss(model(values[0]), values[1])

    def score(self, model, split, after_batch):
        """Some of the five lines that show the label stand above the five that do not."""
        assert not model.training and split == "dev"
        told = self.dev[self.evaluated]
        self.evaluated += 1
        after_batch(10)
        return np.array([[0.9]] * told + [[0.1]] * (5 - told) + [[0.5]] * 5)

    def save(self, model, path, weights):
        assert weights is None
        path.mkdir()
        torch.save(model.state_dict(), path / "weights.pt")
        self.saves.append(path)

    def load_best(self, path):
        self.model.load_state_dict(torch.load(path / "weights.pt"))
        return self.model


@pytest.fixture
def trained(tmp_path):
    """A function that trains a task in a directory and returns the history."""

    def train(task, epochs=2, save_steps=None, resume=False, tune="micro"):
        args = argparse.Namespace(output_dir=tmp_path, resume=resume, tune=tune)
        rows = {"train": [{"id": f"line-{n}"} for n in range(LINES)]}
        gold = np.array([[1.0]] * 5 + [[0.0]] * 5)
        corpora = Corpora(rows, ["joy"], {"dev": gold})
        run = Run(args, "toy.py")
        accelerator = Accelerator(cpu=not torch.accelerator.is_available())  # as the scripts
        return training.Training(run, accelerator, corpora, task, epochs, save_steps).train()

    return train


@pytest.fixture
def before_steps():
    """A list that gets what a function given to it makes of each optimiser before its steps."""
    seen, handles = [], []

    def watch(look):
        handles.append(register_optimizer_step_pre_hook(lambda *told: seen.append(look(told[0]))))
        return seen

    yield watch
    for handle in handles:
        handle.remove()


# Batches


@pytest.mark.parametrize("kind", ["like length", "at random"])
def test_an_epoch_holds_every_line_once_in_an_order_that_seed_and_epoch_give(kind):
    lengths = np.random.default_rng(0).integers(1, 400, 75).tolist()

    def batches(seed, epoch):
        if kind == "at random":
            return in_random_order(75, 8, seed, epoch)
        return like_length(lengths, 8, seed, epoch)

    for seed, epoch in ((0, 0), (0, 1), (1, 0)):
        made = batches(seed, epoch)
        assert sorted(index for batch in made for index in batch) == list(range(75))
        assert [len(batch) for batch in made] == [8] * 9 + [3]
        assert made == batches(seed, epoch)
    assert batches(0, 0) != batches(0, 1) != batches(1, 0) != batches(0, 0)


def test_batches_of_like_length_need_little_padding():
    lengths = np.random.default_rng(1).permutation(400)[:96].tolist()

    def padded(batches):
        return sum(len(batch) * max(lengths[index] for index in batch) for batch in batches)

    assert padded(like_length(lengths, 8, 0, 0)) < 1.15 * sum(lengths)
    assert padded(in_random_order(96, 8, 0, 0)) > 1.5 * sum(lengths)


@pytest.mark.parametrize("lines", [8, 3])
def test_a_long_line_makes_no_others_long(lines):
    lengths = {7: 9, 1: 40, 2: 40, 3: 12, 4: 463, 5: 38, 6: 115}
    batch = sorted(lengths, key=lengths.get, reverse=True)
    parts = in_parts(batch, lines, lengths)
    expected = {8: [[4], [6, 1, 2, 5], [3, 7]], 3: [[4], [6, 1, 2], [5, 3], [7]]}
    assert parts == expected[lines]
    assert in_parts(batch, lines, None) == [batch[n : n + lines] for n in range(0, 7, lines)]
    assert in_parts([], lines, lengths) == []


def test_one_line_is_a_batch():
    assert like_length([7], 8, 0, 0) == in_random_order(1, 8, 0, 0) == [[0]]


# Steps


@pytest.mark.parametrize("lengths", [None, [9, 100, 30] * LINES])
@pytest.mark.parametrize("lines_at_once", [8, 5, 3, 1])
def test_gradients_are_those_of_the_mean_over_all_lines_of_a_step(
    lines_at_once, lengths, trained, before_steps
):
    """However many of them are taken through the model at a time; the last step has one."""
    task = Toy(lines_at_once, lengths=lengths)
    parameters = list(task.model.parameters())

    def look(optimizer):
        batch = task.batches(0)[len(seen)]
        expected = torch.autograd.grad(task.loss(task.model, batch), parameters)
        gradients = [parameter.grad.clone() for parameter in parameters]
        return list(zip(gradients, expected, strict=True))

    seen = before_steps(look)
    trained(task, epochs=1)
    assert len(seen) == 5
    for step in seen:
        for gradient, expected in step:
            assert torch.allclose(gradient, expected, atol=1e-7, rtol=1e-5)


def test_processes_take_a_step_in_as_many_parts_and_a_long_line_apart(trained, monkeypatch):
    """With FSDP each pass waits for those of all processes."""
    lengths = [100 if index in (7, 20) else 20 for index in range(LINES)]
    parts = {}
    for rank in range(2):
        monkeypatch.setattr(Accelerator, "num_processes", 2)
        monkeypatch.setattr(Accelerator, "process_index", rank)
        task, parts[rank] = Toy(lines_at_once=2, lengths=lengths), []
        loss, seen = task.loss, parts[rank]
        task.loss = lambda model, part, loss=loss, seen=seen: seen.append(part) or loss(model, part)
        trained(task, epochs=1)
    assert len(parts[0]) == len(parts[1]) > 5 + 4  # steps of 8 lines, of which 4 are taken at once
    together = [{*one, *other} for one, other in zip(parts[0], parts[1], strict=True)]
    assert sorted(itertools.chain(*together)) == list(range(LINES))
    for part in together:
        assert len({lengths[index] for index in part}) == 1


def test_a_gradient_is_clipped_to_length_one(trained, before_steps):
    def length(optimizer):
        gradients = [each.grad for group in optimizer.param_groups for each in group["params"]]
        return torch.cat([gradient.flatten() for gradient in gradients]).norm().item()

    seen = before_steps(length)
    trained(Toy(scale=30.0), epochs=1)
    assert seen == pytest.approx([1.0] * 5, abs=1e-4)


def test_rates_rise_over_a_tenth_of_the_steps_and_fall_to_zero(trained, before_steps):
    task = Toy()
    task.parameters = [
        {"params": [task.model.weight], "lr": 0.1, "weight_decay": 0.3},
        {"params": [task.model.bias], "lr": 0.01, "weight_decay": 0.0},
    ]
    seen = before_steps(lambda optimizer: [group["lr"] for group in optimizer.param_groups])
    trained(task, epochs=4)  # of five steps
    shape = [0, 0.5, *(n / 18 for n in range(18, 0, -1))]
    assert [rates[0] for rates in seen] == pytest.approx([0.1 * each for each in shape])
    assert [rates[1] for rates in seen] == pytest.approx([0.01 * each for each in shape])


def test_a_single_step_is_of_the_whole_rate(trained, before_steps):
    task = Toy()
    task.batches = lambda epoch: [list(range(LINES))]
    seen = before_steps(lambda optimizer: optimizer.param_groups[0]["lr"])
    trained(task, epochs=1)
    assert seen == [0.1]


def test_weights_that_are_not_finite_are_told_of_before_their_scores(trained, monkeypatch):
    """The last step of an epoch, whose loss was healthy."""
    step = training.Training.step

    def break_weights(self, batch):
        step(self, batch)
        if self.state.step == self.steps:
            self.task.model.weight.data[0] = math.inf

    monkeypatch.setattr(training.Training, "step", break_weights)
    task = Toy()
    with pytest.raises(utils.RunError, match="step 5: the weights are not finite; take a lower"):
        trained(task)
    assert task.evaluated == 0


class Steep(Toy):
    """One whose loss is finite, and its gradient is not."""

    def loss(self, model, batch):
        return super().loss(model, batch) + (0 * next(model.parameters())).sum().sqrt()


@pytest.mark.parametrize(("tune", "kept"), [("micro", 1), ("macro", 2)])
def test_the_best_epoch_is_that_of_the_f1_that_is_tuned_for(tune, kept, trained, monkeypatch):
    told = [{"micro_f1": f1, "macro_f1": 1 - f1, "micro_f1_at_0.5": 0.0} for f1 in (0.6, 0.5)]
    monkeypatch.setattr(rules, "best_f1", lambda *given: told.pop(0))
    task = Toy()
    trained(task, tune=tune)
    assert len(task.saves) == kept


def test_what_the_optimiser_holds_goes_when_the_training_has_ended(trained, before_steps):
    seen = before_steps(lambda optimizer: optimizer)
    trained(Toy())
    assert seen and not seen[-1].state


def test_a_gradient_that_is_not_finite_ends_a_run(trained):
    with pytest.raises(
        utils.RunError, match=r"step 1: the loss is nan, on the lines line-.*; take"
    ):
        trained(Steep())


def test_gradients_that_never_fit_into_fp16_are_told_of(trained):
    """The scale is halved from 65,536 on until it is below one; no step before that is an error."""
    with pytest.raises(utils.RunError, match=r"gradients do not fit .*; take .* another --"):
        trained(Steep(precision="fp16"), epochs=4)


def test_the_time_before_a_resume_counts(trained, tmp_path):
    trained(Toy(), epochs=1)
    file = tmp_path / "checkpoints" / "checkpoint-5" / STATE_FILE
    state = json.loads(file.read_text())
    file.write_text(json.dumps(state | {"seconds": 1000.0}))
    trained(Toy(), epochs=2, resume=True)
    resumed = json.loads((tmp_path / "checkpoints" / "checkpoint-10" / STATE_FILE).read_text())
    assert state["seconds"] < 500 < 1000 < resumed["seconds"] < 1500


def test_losses_are_fetched_now_and_then_and_their_mean_is_logged(trained, monkeypatch):
    monkeypatch.setattr(training, "LOG_STEPS", 3)
    task, losses = Toy(), []
    loss = task.loss
    task.loss = lambda model, batch: losses.append(loss(model, batch)) or losses[-1]
    history = trained(task)
    logged = {entry["step"]: entry["loss"] for entry in history if "loss" in entry}
    assert list(logged) == [3, 5, 8, 10]
    means = [np.mean([each.item() for each in losses[a:b]]) for a, b in ((0, 3), (3, 5))]
    assert [logged[3], logged[5]] == pytest.approx(means)
    epochs = [entry["epoch"] for entry in history if "loss" in entry]
    assert epochs == pytest.approx([0.6, 1, 1.6, 2])
    evaluated = [(entry["step"], entry["epoch"]) for entry in history if "micro_f1" in entry]
    assert evaluated == [(5, 1), (10, 2)]


# What is kept


def test_the_first_of_the_best_epochs_is_kept(trained, tmp_path):
    task, weights = Toy(), []
    task.dev = [3, 4, 4, 2]
    score = task.score

    def remember(model, split, after_batch):
        weights.append(model.weight.detach().clone())
        return score(model, split, after_batch)

    task.score = remember
    history = trained(task, epochs=4)
    kept = torch.load(tmp_path / "best" / "weights.pt")
    assert torch.equal(kept["weight"], weights[1])
    assert not torch.equal(kept["weight"], weights[3])
    assert len(task.saves) == 2 and not (tmp_path / "best.partial").exists()
    found = [entry["micro_f1"] for entry in history if "micro_f1" in entry]
    assert found == pytest.approx([6 / 8, 8 / 9, 8 / 9, 10 / 15])


def test_the_last_checkpoint_alone_is_kept_and_holds_how_far_the_run_has_come(trained, tmp_path):
    trained(Toy(), epochs=2, save_steps=2)
    [left] = (tmp_path / "checkpoints").iterdir()
    assert left.name == "checkpoint-10" and last_whole_checkpoint(tmp_path) == left
    state = json.loads((left / STATE_FILE).read_text())
    assert (state["step"], state["epochs"]) == (10, 2)
    assert [entry["step"] for entry in state["history"]] == [2, 4, 5, 5, 6, 8, 10, 10]


def test_a_run_cut_into_pieces_ends_with_the_same_weights_and_tells_the_same(
    trained, tmp_path, monkeypatch
):
    said = []
    monkeypatch.setattr(utils.log, "info", lambda *message: said.append(message))
    whole = Toy()
    history = trained(whole, save_steps=2)
    losses = {entry["step"]: entry["loss"] for entry in history if "loss" in entry}
    told = [message[3] for message in said if message[0].startswith("epoch")]
    assert list(losses) == [2, 4, 5, 6, 8, 10]
    assert told[0] == pytest.approx((2 * losses[2] + 2 * losses[4] + losses[5]) / 5)
    shutil.rmtree(tmp_path / "checkpoints")
    for steps in (3, 4, 9):
        task, count = Toy(), itertools.count(1)
        loss = task.loss

        def break_off(model, batch, loss=loss, count=count, steps=steps):
            if next(count) > steps:
                raise ArithmeticError
            return loss(model, batch)

        task.loss = break_off
        cut = pytest.raises(ArithmeticError) if steps < 9 else contextlib.nullcontext()
        with cut:
            trained(task, save_steps=2, resume=True)
    assert torch.equal(task.model.weight, whole.model.weight)
    in_pieces = [message[3] for message in said if message[0].startswith("epoch")]
    assert in_pieces[2:] == pytest.approx(told, rel=1e-12)


def test_a_checkpoint_that_does_not_fit_is_refused(trained, tmp_path):
    trained(Toy(), save_steps=2)
    other = Toy()
    parameters = list(other.model.parameters())
    other.parameters = [{"params": [each], "lr": 0.1} for each in parameters]
    with pytest.raises(utils.InputError, match=r"--resume: .*checkpoint-10 is damaged, or of .*gr"):
        trained(other, resume=True)


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("random_states_0.pkl", None, "No such file"),
        ("random_states_0.pkl", "cut", r"load failed\)"),
        ("random_states_0.pkl", {"torch_manual_seed": torch.ones(5)}, "not restored"),
        ("training_state.json", "{}", "training_state.json holds other fields"),
        ("training_state.json", '{"step": "x"}', "training_state.json holds other fields"),
    ],
)
def test_a_damaged_checkpoint_is_refused(file, content, told, trained, tmp_path):
    trained(Toy(), save_steps=2)
    path = last_whole_checkpoint(tmp_path) / file
    path.unlink()
    if isinstance(content, dict):
        torch.save(content, path)
    elif content:
        path.write_text(content)
    with pytest.raises(utils.InputError, match=f"--resume: .*checkpoint-10 is damaged.*{told}"):
        trained(Toy(), resume=True)


def test_weights_that_are_not_finite_are_not_saved(trained, tmp_path):
    """Each step before them had a loss that is."""

    class Breaks(Toy):
        steps = 0

        def loss(self, model, batch):
            found, self.steps = super().loss(model, batch), self.steps + 1
            if self.steps == 4:
                model.bias.data[0] = torch.inf
            return found

    with pytest.raises(utils.RunError, match="step 4: the weights are not finite; take a lower"):
        trained(Breaks(), save_steps=2)
    assert last_whole_checkpoint(tmp_path).name == "checkpoint-2"


def test_the_random_state_of_a_gpu_is_looked_at(trained, tmp_path, monkeypatch):
    trained(Toy(), save_steps=2)
    path, zeros = last_whole_checkpoint(tmp_path) / "random_states_0.pkl", torch.zeros(16)
    torch.save(load(path) | {"torch_cuda_manual_seed": [zeros]}, path)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: [zeros + 1, zeros])
    with pytest.raises(utils.InputError, match=r"checkpoint-10 is damaged.*not restored"):
        trained(Toy(), resume=True)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: [zeros, zeros + 1])
    trained(Toy(), resume=True)  # a card that was not there


@pytest.mark.parametrize("name", ["pytorch_model.bin", "optimizer.bin", "random_states_0.pkl"])
def test_a_checkpoint_whose_numbers_have_changed_is_refused(name, trained, tmp_path):
    trained(Toy(), save_steps=2)
    path = last_whole_checkpoint(tmp_path) / name
    with zipfile.ZipFile(path) as file:
        numbers = file.read(next(each for each in file.namelist() if each.endswith("data/0")))
    changed = numbers[:-1] + bytes([numbers[-1] ^ 1])
    path.write_bytes(path.read_bytes().replace(numbers, changed))
    told = f"checkpoint-10 is damaged.*{name}: .*data/0 is not what was written"
    with pytest.raises(utils.InputError, match=told):
        trained(Toy(), resume=True)


def test_the_random_states_of_other_processes_are_looked_at_too(trained, monkeypatch):
    trained(Toy(), save_steps=2)
    monkeypatch.setattr(Accelerator, "num_processes", 2)
    with pytest.raises(utils.InputError, match=r"checkpoint-10 is damaged.*random_states_1\.pkl"):
        trained(Toy(), resume=True)


def test_a_run_that_has_lost_its_best_epoch_is_not_gone_on_with(trained, tmp_path):
    trained(Toy(), save_steps=2)
    shutil.rmtree(tmp_path / "best")
    with pytest.raises(utils.InputError, match=r"--resume: .* best/ is missing"):
        trained(Toy(), resume=True)


def test_a_checkpoint_is_passed_over_whose_last_file_is_missing_or_cut(tmp_path):
    assert last_whole_checkpoint(tmp_path) is None
    checkpoints = tmp_path / "checkpoints"
    states = {"checkpoint-5": '{"step": 5}', "checkpoint-12": '{"step": 12}'}
    states |= {"checkpoint-20": '{"step": 20', "checkpoint-x": '{"step": 99}'}
    states |= {".partial": '{"step": 100}', "checkpoint-7": "7"}
    for name, text in states.items():
        (checkpoints / name).mkdir(parents=True)
        (checkpoints / name / STATE_FILE).write_text(text)
    (checkpoints / "checkpoint-30").mkdir()
    (checkpoints / "checkpoint-40").touch()
    assert last_whole_checkpoint(tmp_path) == checkpoints / "checkpoint-12"


# What goes wrong


@pytest.mark.parametrize("save_steps", [None, 1])
def test_a_loss_that_is_not_finite_stops_with_step_and_lines(save_steps, trained, tmp_path):
    """And leaves no checkpoint of what came of it."""
    task = Toy()
    task.targets[13] = math.nan
    batches = task.batches(0)
    [step] = [number for number, batch in enumerate(batches, start=1) if 13 in batch]
    with pytest.raises(utils.RunError) as stop:
        trained(task, save_steps=save_steps)
    lines = ", ".join(f"line-{index}" for index in batches[step - 1])
    assert str(stop.value).startswith(f"step {step}: the loss is nan, on the lines {lines}; ")
    last = last_whole_checkpoint(tmp_path)
    assert (last and last.name) == (f"checkpoint-{step - 1}" if save_steps and step > 1 else None)
    assert list((tmp_path / "checkpoints").glob("*")) == [last] * bool(last)
    assert not (tmp_path / "best").exists()


def test_a_best_epoch_that_cannot_be_written_leaves_the_one_before(trained, tmp_path):
    task = Toy()
    task.dev = [3, 4]
    save = task.save

    def fill_the_disk(model, path, weights):
        if task.evaluated == 2:
            path.mkdir()
            (path / "weights.pt").write_bytes(b"half")
            raise OSError(28, "No space left on device")
        save(model, path, weights)

    task.save = fill_the_disk
    with pytest.raises(utils.RunError, match=r"best: cannot be saved \(.*No space.*free") as stop:
        trained(task)
    assert "\n" not in str(stop.value) and "--resume" in str(stop.value)
    assert torch.load(tmp_path / "best" / "weights.pt")
    assert not (tmp_path / "best.partial").exists()
    assert last_whole_checkpoint(tmp_path).name == "checkpoint-5"
    task = Toy()
    task.dev = [4]
    trained(task, resume=True)
    assert last_whole_checkpoint(tmp_path).name == "checkpoint-10"


# Whole runs in this process


@pytest.fixture
def signal_after(monkeypatch):
    """A function that has this process sent a signal after a step of a training."""
    step = training.Training.step

    def arrange(number, at):
        def then_signal(self, batch):
            step(self, batch)
            if self.state.step == at:
                os.kill(os.getpid(), number)

        monkeypatch.setattr(training.Training, "step", then_signal)

    return arrange


def test_an_evaluation_that_is_broken_off_is_made_up_for(small, tmp_path, monkeypatch):
    """Also in the last epoch, after which there is no step to go on with."""
    output, batches_by_length = tmp_path / "out", scoring.batches_by_length
    arguments = [*small.arguments("bert_plain.py"), "--output-dir", output]

    def interrupt_number(number):
        """Break off the evaluation of this number, counted from 0."""
        count = itertools.count()

        def begin(*told):
            if next(count) == number:
                os.kill(os.getpid(), signal.SIGINT)
            return batches_by_length(*told)

        monkeypatch.setattr(scoring, "batches_by_length", begin)

    for number, step in ((0, 4), (1, 8), (1, 12)):
        interrupt_number(number)
        process = call("bert_plain.py", *arguments, *["--resume"] * output.exists())
        assert process.returncode == 130 and process.stderr.count("\n") == 1
        assert last_whole_checkpoint(output).name == f"checkpoint-{step}"
    monkeypatch.setattr(scoring, "batches_by_length", batches_by_length)
    process = call("bert_plain.py", *arguments, "--resume")
    assert process.returncode == 0, process.stderr
    assert_same_end(output, small.undisturbed("bert_plain.py"))


def test_float16_trains_with_a_scaler_that_is_resumed_too(small, signal_after, tmp_path, recwarn):
    output, more = tmp_path / "out", ["--precision", "fp16", "--epochs", 2]
    reference = small.undisturbed("bert_plain.py", *more)
    arguments = [*small.arguments("bert_plain.py"), *more, "--output-dir", output]
    signal_after(signal.SIGTERM, 5)
    assert call("bert_plain.py", *arguments).returncode == 130
    last = last_whole_checkpoint(output)
    assert last.name == "checkpoint-5"  # saved for the signal
    saved = last.glob("custom_checkpoint_*.pkl")
    [scaler] = [state for state in map(torch.load, saved) if "scale" in state]
    assert scaler["scale"] > 1
    process = call("bert_plain.py", *arguments, "--resume")
    assert process.returncode == 0, process.stderr
    assert_same_end(output, reference)
    assert json.loads((output / "run.json").read_text())["precision"] == "fp16"
    assert not [each for each in recwarn if "lr_scheduler" in str(each.message)]


def test_a_hangup_is_ignored_by_a_run_that_was_started_to_ignore_it(small, signal_after, tmp_path):
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        signal_after(signal.SIGHUP, 6)
        arguments = [*small.arguments("bert_plain.py"), "--output-dir", tmp_path / "out"]
        process = call("bert_plain.py", *arguments)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert process.returncode == 0, process.stderr
    assert_same_end(tmp_path / "out", small.undisturbed("bert_plain.py"))


def test_two_runs_with_one_seed_are_equal_and_with_another_are_not(small, tmp_path):
    reference = small.undisturbed("bert_plain.py")
    for seed in (42, 43):
        arguments = [*small.arguments("bert_plain.py"), "--seed", seed]
        process = call("bert_plain.py", *arguments, "--output-dir", tmp_path / str(seed))
        assert process.returncode == 0, process.stderr
    assert_same_end(tmp_path / "42", reference)
    scores = [(path / "dev.scores.jsonl").read_bytes() for path in (reference, tmp_path / "43")]
    assert scores[0] != scores[1]


def test_a_finished_run_keeps_its_curves_and_no_checkpoint(small):
    for script in ("bert_plain.py", "gpt_train.py"):
        directory = small.undisturbed(script)
        assert not (directory / "checkpoints").exists()
        history = json.loads((directory / "run.json").read_text())["history"]
        found = {entry["epoch"]: entry["micro_f1"] for entry in history if "micro_f1" in entry}
        assert list(found) == [1, 2, 3]
        losses = [entry for entry in history if "loss" in entry]
        assert losses and all(entry["loss"] > 0 and entry["epoch"] <= 3 for entry in losses)
        metrics = json.loads((directory / "metrics.json").read_text())
        assert metrics["dev"]["micro_f1"] == max(found.values())


@pytest.mark.parametrize("script", ["bert_plain.py", "gpt_train.py"])
def test_a_run_whose_loss_is_not_finite_ends_with_code_1(script, small, tmp_path):
    rates = ["--lr", "1e38", "--head-lr", "1e38"]
    arguments = [*small.arguments(script), *rates, "--output-dir", tmp_path / "out"]
    process = call(script, *arguments)
    assert process.returncode == 1, process.stdout
    assert process.stderr.count("\n") == 1
    for told in ("error: step ", "the loss is", "on the lines sample-", "--lr"):
        assert told in process.stderr
    assert last_whole_checkpoint(tmp_path / "out") is None
    assert not (tmp_path / "out" / "metrics.json").exists()
    assert "RunError: step " in (tmp_path / "out" / "train.log").read_text()


def test_a_full_disk_is_told_what_was_saved_stays_and_with_room_it_goes_on(small, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=14m", "tmpfs", disk]
    mounted = subprocess.run(mount, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    try:
        arguments = [*small.arguments("bert_plain.py"), "--output-dir", disk / "out"]
        process = call("bert_plain.py", *arguments)
        assert process.returncode == 1, process.stderr
        assert process.stderr.count("\n") == 1
        checkpoints = disk / "out" / "checkpoints"
        assert f"{checkpoints}/checkpoint-4: cannot be saved (" in process.stderr
        assert "; mend that, and go on with --resume" in process.stderr
        assert [path.name for path in checkpoints.iterdir()] == ["checkpoint-3"]
        assert last_whole_checkpoint(disk / "out").name == "checkpoint-3"
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        process = call("bert_plain.py", *arguments, "--resume")
        assert process.returncode == 0, process.stderr
        assert_same_end(disk / "out", small.undisturbed("bert_plain.py"))
    finally:
        subprocess.run(["umount", disk], check=True)


def test_without_a_terminal_a_run_tells_loss_speed_and_time_left(small, tmp_path, monkeypatch):
    monkeypatch.setattr(process_module, "SECONDS_BETWEEN_LINES", 0)
    arguments = [*small.arguments("bert_plain.py"), "--epochs", 1, "--output-dir", tmp_path / "out"]
    process = call("bert_plain.py", *arguments)
    assert process.returncode == 0 and process.stderr == "", process.stderr
    told = re.findall(
        r"^training: (\d+) of 32 lines, \d+\.\d a second, \d\d:\d\d left, loss \d\.\d{4}$",
        process.stdout,
        re.MULTILINE,
    )
    assert told == ["8", "16", "24", "32"]
    for split, lines in (("dev", 24), ("test", 16)):
        last = rf"^{split}: {lines} of {lines} lines, \d+\.\d a second, 00:00 left$"
        assert re.search(last, process.stdout, re.MULTILINE)
    assert (tmp_path / "out" / "train.log").read_text() == process.stdout


def test_a_tracker_that_is_not_installed_is_refused(small, tmp_path):
    missing = [name for name in ("trackio", "wandb") if importlib.util.find_spec(name) is None]
    if not missing:
        pytest.skip("all trackers are installed here")
    arguments = [*small.arguments("bert_plain.py"), "--output-dir", tmp_path / "out"]
    process = call("bert_plain.py", *arguments, "--report-to", missing[0])
    assert process.returncode == 2
    assert process.stderr.count("\n") == 1
    assert f"--report-to {missing[0]}: is not installed; pip install {missing[0]}" in process.stderr
    assert not (tmp_path / "out").exists()


def test_curves_are_sent_to_tensorboard(small, tmp_path):
    output = tmp_path / "out"
    arguments = [*small.arguments("bert_plain.py"), "--epochs", 1, "--report-to", "tensorboard"]
    process = call("bert_plain.py", *arguments, "--output-dir", output)
    assert process.returncode == 0 and process.stderr == "", process.stderr
    written = [file.read_bytes() for file in output.rglob("*tfevents*")]
    assert any(b"loss" in each and b"micro_f1" in each for each in written)


@pytest.mark.parametrize("kind", ["safetensors", "pickle"])
def test_weights_that_transformers_renames_are_read_back_as_they_were(
    kind, small, tmp_path, monkeypatch
):
    """LayerNorm's gamma and beta of old models; what was saved predicts as what was in memory."""
    model, output = tmp_path / "model", tmp_path / "out"
    shutil.copytree(ROBERTA, model)
    weights = load_file(model / "model.safetensors")
    names = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    for new, old in names.items():
        weights = {name.replace(new, old): value for name, value in weights.items()}
    assert any(name.endswith("gamma") for name in weights)
    weights = {name: value + 0.01 for name, value in weights.items()}  # none is as it begins
    if kind == "safetensors":
        save_file(weights, model / "model.safetensors", {"format": "pt"})
    else:
        (model / "model.safetensors").unlink()
        torch.save(weights, model / "pytorch_model.bin")
    evaluated, by_rule = [], rules.best_f1

    def remember(gold, scores):
        evaluated.append(scores)
        return by_rule(gold, scores)

    monkeypatch.setattr(rules, "best_f1", remember)
    arguments = [*small.arguments("bert_plain.py"), "--model", model, "--epochs", 1]
    process = call("bert_plain.py", *arguments, "--output-dir", output)
    assert process.returncode == 0, process.stderr
    _, found, _ = systems.read_scores(output / "dev.scores.jsonl")
    assert found == pytest.approx(evaluated[0], abs=2e-6)
    again = ["--model-ckpt-path", output / "best", *small.corpus()[2:4], "--precision", "fp32"]
    assert call("bert_plain.py", *again, "--output-dir", tmp_path / "again").returncode == 0
    _, predicted, _ = systems.read_scores(tmp_path / "again" / "dev.scores.jsonl")
    assert predicted == pytest.approx(evaluated[0], abs=2e-6)
