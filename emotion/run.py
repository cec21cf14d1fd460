"""The run directory: run.json, the log, predictions and metrics."""

import argparse
import contextlib
import datetime
import itertools
import json
import logging
import os
import shlex
import shutil
import time
import traceback
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

import utils
from emotion import outputs, process, statistics
from emotion.kinds import CHANGES_NO_WEIGHT, in_full, name_for_people, trains
from emotion.outputs import identify
from emotion.rules import Rule

STATE_FILE = "training_state.json"  # the last file of a checkpoint


class Run:
    """A run that has a directory of its own from its first moment on.

    Entering takes the directory and opens `train.log`; leaving by an input error takes away what
    this run has put there, by any other error writes the traceback to the log. Of several
    processes the main one alone writes and speaks.

    Attributes:
        directory: the output directory.
        record: what run.json holds.
    """

    def __init__(self, args: argparse.Namespace, script: str) -> None:
        self.args, self.script, self.directory = args, script, args.output_dir
        self.writes_nothing = getattr(args, "estimate", False) or not process.is_main_process()
        self.resumes = getattr(args, "resume", False)
        self.record: dict[str, Any] = {}
        self.made: list[Path] = []
        self.started = time.time()

    def __enter__(self) -> "Run":
        if not self.writes_nothing:
            is_new = self.take() is None
            outputs.open_log(self.directory)
            self.made[:0] = [self.directory / "train.log"] * is_new
            try:  # what it is now that no other process can change it
                self.check_same(outputs.read_json(self.directory / "run.json") or {})
            except utils.InputError:
                outputs.close_log()
                raise
            predicts = getattr(self.args, "model_ckpt_path", None)
            if not self.record:  # else it keeps what it was begun with
                self.note(
                    script=self.script,
                    arguments=vars(self.args),
                    seed=None if predicts else getattr(self.args, "seed", None),
                    processes=process.process_count(),
                    versions=process.versions(),
                    git_commit=process.git_commit(),
                    started=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
                )
        elif not process.is_main_process():
            utils.log.setLevel(logging.CRITICAL)
            if self.resumes:
                self.record = outputs.read_json(self.directory / "run.json") or {}
                self.keep_steps(self.record.get("arguments", {}))
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        failed = error is not None and not isinstance(error, process.Interrupted)
        if failed and not self.writes_nothing:
            path = self.directory / "train.log"
            with contextlib.suppress(OSError), path.open("a", **outputs.AS_TEXT) as file:
                file.writelines(traceback.format_exception(error))
        outputs.close_log()
        if isinstance(error, utils.InputError):
            for path in self.made:
                with contextlib.suppress(OSError):  # it holds what others put there
                    path.rmdir() if path.is_dir() else path.unlink()

    def take(self) -> dict[str, Any] | None:
        """Make the directory this run's own; returns the record of the run that it goes on with.

        Raises:
            utils.InputError: it is another's, or cannot be made.
        """
        path, record = self.directory, self.directory / "run.json"
        try:
            parents = [parent for parent in (path, *path.parents) if not parent.exists()]
            path.mkdir(parents=True, exist_ok=True)
            held = {file.name for file in path.iterdir()} - {outputs.part_of(record).name}
            if self.resumes and record.exists():
                found = json.loads(record.read_text(encoding="utf-8-sig") or "{}")
                begun = found or held <= {"run.json", "train.log"}  # else all of it got lost
                if not isinstance(found, dict) or not begun:
                    raise ValueError
                return found
            if held:
                raise FileExistsError
            record.open("x").close()
        except FileExistsError:
            raise utils.InputError(self.in_use()) from None
        except (OSError, ValueError) as error:
            if self.resumes and isinstance(error, ValueError) and record.exists():
                told = f"{record}: is broken; start anew with another --output-dir"
                raise utils.InputError(told) from None
            reason = getattr(error, "strerror", None) or error
            told = f"{path}: cannot be written ({reason}); give another --output-dir"
            raise utils.InputError(told) from None
        self.made = [record, *parents]
        return None

    def in_use(self) -> str:
        """Why the directory is not to be had, and which is."""
        path = self.directory
        if not path.is_dir():
            return f"{path}: is not a directory; give another --output-dir"
        if self.resumes:
            mend = "give its directory, or an empty one"
            return f"{path}: holds no run to resume (no run.json); {mend}"
        base = path.resolve() if path.name in ("", "..") else path
        free = next(f"{base}-{n}" for n in itertools.count(2) if not os.path.lexists(f"{base}-{n}"))
        record = outputs.read_json(path / "run.json") or {}
        goes_on = trains(vars(self.args)) and "seconds" not in record
        goes_on &= record.get("script", self.script) == self.script
        told = f"{path}: is not empty, and no run is overwritten; give another, as --output-dir"
        return f"{told} {shlex.quote(free)}" + ", or --resume" * goes_on

    def keep_steps(self, was: dict[str, Any]) -> None:
        """Where a run is resumed with a smaller batch: fewer lines at a time, the same steps."""
        for name in ("train_batch_size", "batch_size"):
            now, before = getattr(self.args, name, None), was.get(name)
            if isinstance(now, int) and isinstance(before, int) and now < before:
                self.args.lines_at_once = now
                setattr(self.args, name, before)

    def check_same(self, before: dict[str, Any]) -> None:
        """Raise utils.InputError if the run that is resumed had other arguments."""
        was = in_full(before.get("arguments", {})) | {"processes": before.get("processes")}
        self.keep_steps(was)
        now = in_full(json.loads(json.dumps(vars(self.args), default=str)))
        now["processes"] = process.process_count()
        if before.get("script", self.script) != self.script:
            told = f"{self.directory} holds a run of {before['script']}"
            raise utils.InputError(f"--resume: {told}; give another --output-dir")
        for name in sorted(now.keys() | was.keys()) if "arguments" in before else ():
            if now.get(name) != was.get(name) and name not in CHANGES_NO_WEIGHT:
                change = f"{name_for_people(name)} was {was.get(name)}, and is {now.get(name)}"
                mend = "give it as it was, or another --output-dir"
                raise utils.InputError(f"--resume: {change}; {mend}")
        self.record = before

    def is_complete(self) -> bool:
        """Whether the run that is resumed has ended already; says so."""
        if complete := self.resumes and "seconds" in self.record:
            self.remove_checkpoints()  # it may have been killed before it had
            utils.log.info("%s: this run is complete; there is nothing to resume", self.directory)
        return complete

    def note(self, **facts: Any) -> None:
        """Put facts into run.json; warn where a run is resumed with other random numbers.

        Raises:
            utils.InputError: the run that is resumed computed in another precision.
        """
        was, now = self.record.get("precision"), facts.get("precision")
        if was and now and was != now:
            told = f"the run computes in {was}, and --precision {self.args.precision} is {now} here"
            raise utils.InputError(f"--resume: {told}; give --precision {was}")
        was, now = (each.get("device", "").partition(":")[0] for each in (self.record, facts))
        if was and now and (was != now or now == "mps"):  # no state of whose is in a checkpoint
            told = f"the run was begun on {was}, and goes on on {now}"
            utils.log.warning("warning: %s; its dropout is another from here", told)
        self.record |= facts
        if not self.writes_nothing:
            outputs.write_json(self.directory / "run.json", self.record)

    def note_files(self, files: dict[str, Path]) -> None:
        """Put names, line counts and SHA-256 of the corpus files into run.json.

        Raises:
            utils.InputError: the run that is resumed began with other files. Before it has ended, a
                test file may come; afterwards, none has to be there, or is looked at unasked.
        """
        before, args = self.record.get("data", {}), vars(self.args)
        ended = "seconds" in self.record
        of_run = [k for k in files if not ended or k in before or args.get(f"{k}_file", True)]
        found = {split: identify(files[split]) for split in of_run}
        for split in sorted(found.keys() | before.keys()) if before else ():
            was, now = (each.get(split, {}).get("sha256") for each in (before, found))
            if was:
                told = "is not the file that the run began with (SHA-256); give that one"
            elif split == "test":
                told = "is there now, and the run has ended without it; predict it with best/"
            else:
                told = "names a file, and the run noted none when it began; leave it out if it"
                told += " was not given then, or start anew"
            if was != now and (split != "test" or (now if ended else was)):
                flag = name_for_people(split) + "-file" * (split in ("train", "dev", "test"))
                raise utils.InputError(f"--resume: {flag} {told}")
        self.note(data=before | found if ended else found)

    def finish(self, history: Sequence[dict[str, float]] = ()) -> None:
        """Complete run.json with wall time, peak memory and training curves, and say so.

        The state of the optimiser goes; what is left of a training is `best/`.
        """
        peak = process.peak_memory_gib()
        facts = {"history": list(history)} if history else {}
        seconds = round(time.time() - self.started, 1)
        self.note(arguments=vars(self.args), seconds=seconds, peak_memory_gib=peak, **facts)
        self.remove_checkpoints()
        memory = ", ".join(f"{gib} GiB on the {where}" for where, gib in peak.items())
        utils.log.info(
            "\nDone in %.0f s; peak memory %s. Metrics and predictions: %s",
            *(self.record["seconds"], memory, self.directory),
        )
        if "precision" in self.args:
            best = getattr(self.args, "model_ckpt_path", None) or self.directory / "best"
            name = self.script.replace("gpt_train", "gpt_inference")
            script = name if Path.cwd() == utils.ROOT else utils.ROOT / name
            told = shlex.join([str(script), "--model-ckpt-path", str(best), "--test-file", "FILE"])
            utils.log.info("To predict: python %s --output-dir DIR", told)

    def remove_checkpoints(self) -> None:
        """Remove what a run that has ended needs no more."""
        if not self.writes_nothing:
            shutil.rmtree(self.directory / "checkpoints", ignore_errors=True)

    def write_scores(
        self,
        scored: Mapping[str, outputs.Scored],
        labelled: Collection[str],
        labels: Sequence[str],
        rule: Rule,
        constant_answer: Sequence[str],
    ) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Write predictions for every split scored, and metrics of those labelled; print these,
        and those of a constant answer. Returns labels and scores of those labelled.

        Of several processes, each takes its part in the scoring, and the main one writes.
        """
        if self.writes_nothing:
            for _ in itertools.chain(*scored.values()):
                pass
            return {}
        metrics, kept = {}, {}
        for split, chunks in scored.items():
            gold, kinds = split in labelled, ("jsonl", "scores.jsonl")
            self.made[:0] = [self.directory / f"{split}.{kind}" for kind in kinds] * bool(self.made)
            found = outputs.write_predictions(self.directory, split, chunks, labels, rule, gold)
            if found:
                kept[split] = found
                metrics[split] = statistics.compute_metrics(*found, rule(found[1]), labels)
                told = outputs.metrics_table(split, found[0], metrics[split], rule, constant_answer)
                utils.log.info("\n%s", told)
        outputs.write_json(self.directory / "metrics.json", metrics)
        return kept


def last_whole_checkpoint(directory: Path) -> Path | None:
    """The checkpoint of the latest step below an output directory that is whole, or None."""
    saved = {}
    for path in (directory / "checkpoints").glob("checkpoint-*"):
        if path.name.rpartition("-")[2].isdigit() and checkpoint_is_whole(path):
            saved[int(path.name.rpartition("-")[2])] = path
    return saved[max(saved)] if saved else None


def checkpoint_is_whole(path: Path) -> bool:
    """Whether a checkpoint's last file is there and parses."""
    try:
        return isinstance(json.loads((path / STATE_FILE).read_text(encoding="utf-8")), dict)
    except (OSError, ValueError):
        return False
