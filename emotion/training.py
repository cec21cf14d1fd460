"""One training loop, on accelerate, for all approaches: checkpoints, resume, interrupts, curves.

A run may be stopped or killed at any moment, and `--resume` brings it to the same end: equal to
the bit on a CPU.
"""

import argparse
import contextlib
import dataclasses
import functools
import itertools
import math
import shutil
import signal
import time
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import RNG_STATE_NAME, DistributedDataParallelKwargs, DistributedType, load
from torch.distributed.tensor import DTensor
from transformers import get_linear_schedule_with_warmup, set_seed

import utils
from emotion import ending, outputs, process, rules, scoring
from emotion.data import Corpora
from emotion.run import STATE_FILE, Run, checkpoint_is_whole, last_whole_checkpoint
from emotion.task import State, Task, check_random_states, in_parts

LOWER = "take a lower --lr, or another --precision, and another --output-dir"
LOG_STEPS = 10  # the loss is fetched from the device, looked at and logged so often


def begin(run: Run, args: argparse.Namespace) -> Accelerator:
    """Devices, seed, and the Accelerator, in float32: an approach says what it computes in.

    Raises:
        utils.InputError: the tracker is not installed, or there are fewer GPUs than processes.
    """
    scoring.check_devices()
    set_seed(args.seed)
    tracker = None if args.report_to == "none" else args.report_to
    accelerator = Accelerator(
        cpu=scoring.uses_cpu(),
        mixed_precision="no",
        log_with=tracker,
        project_dir=run.directory,
        step_scheduler_with_optimizer=False,
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    scoring.turn_tf32_off()  # which it turns on for torch.compile
    if tracker and not accelerator.log_with:
        mend = f"pip install {tracker}, or leave --report-to out"
        raise utils.InputError(f"--report-to {tracker}: is not installed; {mend}")
    return accelerator


@dataclasses.dataclass(repr=False)
class Training:
    """AdamW, a tenth of the steps warm-up, linear decay, the best epoch kept."""

    run: Run
    accelerator: Accelerator
    corpora: Corpora
    task: Task
    epochs: int
    save_steps: int | None = None

    def train(self) -> list[dict[str, float]]:
        """Train, from the last whole checkpoint on where there is one, and leave `best/`.

        Returns:
            What was logged: "step", "epoch", and "loss" or the metrics of dev.

        Raises:
            process.Interrupted: the process was told to stop, and a checkpoint was saved.
            utils.RunError: a loss is not finite, or a checkpoint cannot be saved.
        """
        accelerator, self.stop, lines = self.accelerator, False, len(self.corpora.rows["train"])
        self.steps = len(self.task.batches(0))  # of an epoch
        total = self.steps * self.epochs
        self.optimizer = torch.optim.AdamW(self.task.parameters, fused=True)
        warm_up = min(math.ceil(total / 10), total - 1)  # its first step has a rate of 0
        self.schedule = get_linear_schedule_with_warmup(self.optimizer, warm_up, total)
        self.scales_loss = self.task.precision == "fp16"
        self.scaler = torch.amp.GradScaler(accelerator.device.type, enabled=self.scales_loss)
        self.model, self.optimizer = accelerator.prepare(self.task.model, self.optimizer)
        accelerator.register_for_checkpointing(self.schedule, self.scaler)
        state = self.state = self.resume()
        self.run.made.clear()  # from here on, what is there stays
        self.run.started -= state.seconds
        self.pending: list[tuple[int, torch.Tensor, scoring.Batch]] = []
        done = round(state.step / self.steps * lines)
        with (
            process.signals_handled_by(self.tell_to_stop) as self.handlers,
            process.Progress(lines * self.epochs, "line", "training", done) as self.progress,
        ):
            for epoch in range(state.epochs, self.epochs):
                self.model.train()
                began, at_first = time.perf_counter(), self.progress.done
                for batch in self.task.batches(epoch)[state.step - epoch * self.steps :]:
                    self.step(batch)
                    if self.save_steps and state.step % self.save_steps == 0:
                        self.save()
                    self.stop_if_told()
                lines_seen = self.progress.done - at_first
                self.end_epoch(epoch + 1, lines_seen / (time.perf_counter() - began))
                self.stop_if_told()
        self.optimizer.state.clear()  # which the schedule, kept for checkpoints, holds
        self.accelerator.free_memory()
        return state.history

    def step(self, batch: scoring.Batch) -> None:
        """Forward, backward, clip, step, schedule; nothing here waits for the device."""
        accelerator, rank = self.accelerator, self.accelerator.process_index
        processes = accelerator.num_processes  # with FSDP each waits for the passes of all
        parts = in_parts(batch, self.task.lines_at_once * processes, self.task.lengths)
        seen = torch.zeros((), device=accelerator.device)
        for number, part in enumerate(parts):
            mine = part[rank::processes]  # or none: it takes part then, and counts nothing
            # processes' gradients are averaged, so that the loss is the mean over all lines
            share = len(mine) / len(batch) * processes
            waits = number < len(parts) - 1
            with accelerator.no_sync(self.model) if waits else contextlib.nullcontext():
                loss = self.task.loss(self.model, mine or part[:1]) * share
                accelerator.backward(self.scaler.scale(loss))
            seen += loss.detach()
        optimizer = self.optimizer.optimizer  # accelerate's wrapper knows no scaler of ours
        self.scaler.unscale_(optimizer)
        norm = accelerator.clip_grad_norm_(self.model.parameters(), 1.0)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm  # of FSDP's version 2
        if not self.scales_loss:  # else the scaler leaves such a step out
            seen = torch.where(norm.isfinite(), seen, norm)
        self.scaler.step(optimizer)
        self.scaler.update()
        self.schedule.step()
        optimizer.zero_grad()
        self.state.step += 1
        self.pending.append((self.state.step, seen, batch))
        self.progress.update(len(batch), lambda: f"loss {seen.item():.4f}")
        if len(self.pending) >= LOG_STEPS:
            self.look_at_losses()

    def look_at_losses(self) -> None:
        """Fetch and log the losses of the last steps; utils.RunError if one is not finite."""
        if not self.pending:
            return
        steps, losses, batches = zip(*self.pending, strict=True)
        self.pending = []
        values = self.accelerator.reduce(torch.stack(losses), "mean").tolist()
        for step, value, batch in zip(steps, values, batches, strict=True):
            if not math.isfinite(value):
                ids = [str(self.corpora.rows["train"][index].get("id")) for index in batch]
                told = f"the loss is {value}, on the lines {', '.join(ids)}"
                raise utils.RunError(f"step {step}: {told}; {LOWER}")
        if self.scales_loss and self.scaler.get_scale() < 1:
            told = "gradients do not fit into fp16; take --precision fp32 or bf16"
            raise utils.RunError(f"{told}, and another --output-dir")
        lr = self.schedule.get_last_lr()[0]
        self.log(loss=float(np.mean(values)), epoch=steps[-1] / self.steps, lr=lr)

    def check_weights(self) -> None:
        """Raise utils.RunError if a loss that was not looked at, or a weight, is not finite."""
        self.look_at_losses()
        trained = itertools.chain(*(group["params"] for group in self.task.parameters))
        parts = (each.to_local() if isinstance(each, DTensor) else each for each in trained)
        finite = torch.stack([each.isfinite().all() for each in parts]).all()
        # each process may have its own part of the weights, and all are to end alike
        if self.accelerator.reduce(finite.float().to(self.accelerator.device), "mean") < 1:
            raise utils.RunError(f"step {self.state.step}: the weights are not finite; {LOWER}")

    def log(self, **values: float) -> None:
        """Put values into the history, and send them to the tracker."""
        self.state.history.append({"step": self.state.step} | values)
        self.accelerator.log(values, step=self.state.step)

    def end_epoch(self, epoch: int, speed: float) -> None:
        """Evaluate, keep the model if it is the best so far, and save a checkpoint."""
        self.check_weights()
        self.model.eval()
        gold = self.corpora.gold["dev"]
        with process.Progress(len(gold), "line", "dev") as bar:

            def after_batch(lines: int) -> None:
                bar.update(lines)
                self.stop_if_told()

            scores = self.task.score(self.model, "dev", after_batch)
        metrics = rules.best_f1(gold, scores)
        entries = [e for e in self.state.history if "loss" in e and e["epoch"] > epoch - 1]
        steps = np.diff([(epoch - 1) * self.steps, *(each["step"] for each in entries)])
        loss = np.average([each["loss"] for each in entries], weights=steps)
        self.state.epochs = epoch
        self.log(epoch=epoch, **metrics)
        utils.log.info(
            "epoch %d/%d: loss %.4f, %sdev micro-F1 %.4f (at 0.5 %.4f), macro-F1 %.4f, both tuned",
            *(epoch, self.epochs, loss, f"{speed:.1f} lines/s, " * bool(speed)),
            *(metrics["micro_f1"], metrics["micro_f1_at_0.5"], metrics["macro_f1"]),
        )
        if (reached := metrics[f"{self.run.args.tune}_f1"]) > self.state.best:
            self.state.best = reached
            self.keep_as_best()
        self.save()

    def keep_as_best(self) -> None:
        """Write `best/`, file by file from beside it: only the weights differ between epochs."""
        is_spread = self.accelerator.distributed_type == DistributedType.FSDP
        weights = self.accelerator.get_state_dict(self.model) if is_spread else None
        if self.accelerator.is_main_process:
            best = self.run.directory / "best"
            partial = outputs.part_of(best)
            with outputs.saving(best, partial):
                shutil.rmtree(partial, ignore_errors=True)
                self.task.save(self.accelerator.unwrap_model(self.model), partial, weights)
                outputs.move_files(partial, best)
        self.accelerator.wait_for_everyone()

    # Checkpoints

    def save(self) -> None:
        """Save a checkpoint, which gets its name when it is whole, and remove the one before."""
        self.check_weights()
        self.state.seconds = time.time() - self.run.started
        accelerator, state = self.accelerator, dataclasses.asdict(self.state)
        checkpoints = self.run.directory / "checkpoints"
        final, partial = checkpoints / f"checkpoint-{self.state.step}", checkpoints / ".partial"
        with outputs.saving(final, partial):
            if checkpoint_is_whole(final):  # of this step before its evaluation
                if accelerator.is_main_process:
                    outputs.write_json(final / STATE_FILE, state)
                return
            if accelerator.is_main_process:
                shutil.rmtree(partial, ignore_errors=True)
            accelerator.wait_for_everyone()
            # safetensors leave out weights of one buffer, which those of a GRU are on a GPU
            accelerator.save_state(str(partial), safe_serialization=False)
            accelerator.wait_for_everyone()  # each process saves its random state
            if accelerator.is_main_process:
                outputs.write_json(partial / STATE_FILE, state)
                shutil.rmtree(final, ignore_errors=True)  # of a run that was killed
                partial.rename(final)
                for other in checkpoints.glob("checkpoint-*"):
                    if other != final:
                        shutil.rmtree(other, ignore_errors=True)
            accelerator.wait_for_everyone()

    def resume(self) -> State:
        """The state of the last whole checkpoint, loaded; where there is none, a new one."""
        path = last_whole_checkpoint(self.run.directory) if self.run.resumes else None
        self.accelerator.wait_for_everyone()
        if path is None:
            return State()
        utils.log.info("going on from %s", path)
        with outputs.resuming(path):
            state = State.read(path)
            count, rank = self.accelerator.num_processes, self.accelerator.process_index
            outputs.check_sums(path)
            if state.epochs and not (self.run.directory / "best").is_dir():
                raise ValueError("best/ is missing")
            states = [load(path / f"{RNG_STATE_NAME}_{each}.pkl") for each in range(count)][rank]
            self.accelerator.load_state(str(path))
            check_random_states(states)
            return state

    # Interrupts

    def tell_to_stop(self, number: int, frame: Any) -> None:
        """On a signal: stop after this step; told twice, and alone, at once."""
        if self.stop and self.accelerator.num_processes == 1:
            before = self.handlers[signal.Signals(number)]
            if callable(before):
                before(number, frame)
        self.stop = True

    def stop_if_told(self) -> None:
        """Save a checkpoint and raise process.Interrupted where any process was told to stop."""
        told = self.stop
        if self.accelerator.num_processes > 1:
            flag = torch.tensor(float(told), device=self.accelerator.device)
            told = bool(self.accelerator.reduce(flag, "sum"))
        if told:
            self.save()
            raise process.Interrupted


def fit(
    run: Run, args: argparse.Namespace, accelerator: Accelerator, corpora: Corpora, task: Task
) -> None:
    """Train, and predict with what was saved: the end of every training script."""
    if accelerator.log_with:  # only now, when no input can be wrong any more
        settings = {name: str(value) for name, value in vars(args).items()}
        accelerator.init_trackers(run.directory.name, config=settings)
    if not run.writes_nothing:
        trained = itertools.chain(*(group["params"] for group in task.parameters))
        outputs.tell_of_disk(run.directory, sum(each.nbytes for each in trained))
    history = Training(run, accelerator, corpora, task, args.epochs, args.save_steps).train()
    score = functools.partial(task.score, task.load_best(run.directory / "best"))
    ending.conclude(run, corpora, score, history)
    accelerator.end_training()
