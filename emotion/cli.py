"""The command line that the scripts share: flags, their types, and how a run ends, told to people.

Imports no torch, so that `--help` and a wrong argument take no time.
"""

import argparse
import contextlib
import io
import logging
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import utils
from emotion import data, kinds, outputs, process, rules, run

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
TRACKERS = ("none", "tensorboard", "wandb", "trackio")
ENDINGS = (utils.InputError, process.Interrupted, RuntimeError, MemoryError, OSError)
Recipe = Callable[[argparse.Namespace, run.Run], None]


class ArgumentParser(argparse.ArgumentParser):
    """Help as it is written; a wrong argument is told in one line."""

    def __init__(self, script: str, description: str | None) -> None:
        as_written = argparse.RawDescriptionHelpFormatter
        super().__init__(script, None, description, formatter_class=as_written, allow_abbrev=False)

    def error(self, message: str) -> Any:
        """End with code 2 and one line, of several processes one of them all."""
        self.exit(2, f"{self.prog}: error: {message}\n" if process.is_main_process() else None)


def number(kind: type, low: float, high: float = math.inf, low_open: bool = False) -> Callable:
    """An argparse type: a finite number of `kind` from `low` (itself excluded if `low_open`) on."""

    def parse(text: str) -> Any:
        value = kind(text)
        above = low < value if low_open else low <= value
        if not above or not value <= high or not math.isfinite(value):
            raise ValueError
        return value

    bounds = f"above {low}" if low_open else f"of at least {low}"
    bounds += "" if high == math.inf else f", at most {high}"
    parse.__name__ = f"{'whole ' if kind is int else ''}number {bounds}"
    return parse


def threshold(text: str) -> str | float:
    """An argparse type: "auto" or a number from 0 to 1."""
    return text if text == "auto" else number(float, 0, 1)(text)


threshold.__name__ = "threshold (auto, or a number from 0 to 1)"


def count(group: Any, flag: str, default: int | None, told: str, low: int = 1) -> None:
    """Declare a flag that takes a whole number."""
    told += "; default: %(default)s" if default is not None else ""
    group.add_argument(flag, metavar="N", type=number(int, low), default=default, help=told)


def add_threshold(group: Any) -> None:
    """Declare `--threshold`."""
    told = "a label is present from this probability on; auto: tuned on dev, saved with the run"
    group.add_argument("--threshold", metavar="auto|T", type=threshold, default="auto", help=told)


def add_tune(group: Any, also: str = "") -> None:
    """Declare `--tune`."""
    told = f"the F1 that the decision rule is tuned for{also}; default: %(default)s"
    group.add_argument("--tune", choices=tuple(rules.F1), default="micro", help=told)


def add_folds(group: Any) -> None:
    """Declare `--folds` and `--fold`."""
    told = "pool train and dev and part them in K, labels spread evenly"
    group.add_argument("--folds", metavar="K", type=number(int, 2), help=told)
    told = "the part, from 0 to K - 1, to take for dev; train on the others"
    group.add_argument("--fold", metavar="I", type=number(int, 0), help=told)


def add_precision(group: Any) -> None:
    """Declare `--precision`."""
    told = "auto: bf16 where the hardware computes in it, fp16 on older GPUs, else fp32"
    group.add_argument("--precision", choices=PRECISIONS, default="auto", help=told)


def add_run_arguments(parser: argparse.ArgumentParser, script: str) -> None:
    """Declare what every run takes: `--threshold`, `--output-dir`."""
    group = parser.add_argument_group("decision rule and output")
    add_threshold(group)
    default = Path("outputs", script)
    told = "no run is overwritten; default: %(default)s"
    group.add_argument("--output-dir", metavar="DIR", type=Path, default=default, help=told)


def add_model_arguments(parser: argparse.ArgumentParser, script: str) -> tuple[Any, Any]:
    """Declare what runs with a model share; return the groups for data and model."""
    files = parser.add_argument_group("data")
    for split, condition in (("dev", ""), ("test", ", if it exists")):
        told = f"default: {data.CORPUS_FILE.format(split)} beside the script{condition}"
        files.add_argument(f"--{split}-file", metavar="FILE", type=Path, help=told)
    told = "take corpus and model from data/sample/; offline, on a CPU"
    files.add_argument("--sample", action="store_true", help=told)
    model = parser.add_argument_group("model")
    add_precision(model)
    add_run_arguments(parser, script)
    return files, model


def add_training_arguments(
    parser: argparse.ArgumentParser, files: Any, model: Any, defaults: dict[str, Any]
) -> Any:
    """Declare what the training scripts share; return the group for training.

    Args:
        defaults: of `model`, `lr` and `save_steps`.
    """
    told = f"default: {data.CORPUS_FILE.format('train')} beside the script"
    files.add_argument("--train-file", metavar="FILE", type=Path, help=told)
    told = "tidy unseen characters, blanks, repeated marks and letters, anonymised names; kept "
    told += "with the checkpoint; off: read texts as they are; default: %(default)s"
    files.add_argument("--normalise", choices=("on", "off"), default="on", help=told)
    told = "the target beside the sentence, or marked in it too, where begin and end say that it "
    told += "stands; kept with the checkpoint; default: %(default)s"
    files.add_argument("--target", choices=("pair", "marked"), default="pair", help=told)
    add_folds(files)
    told = "a hub id or a from_pretrained directory; default: %(default)s"
    model.add_argument("--model", default=defaults["model"], help=told)
    training = parser.add_argument_group("training")
    count(training, "--epochs", 5, "how often all lines are seen")
    rate = number(float, 0, low_open=True)
    told = "learning rate; default: %(default)s"
    training.add_argument("--lr", type=rate, default=defaults["lr"], help=told)
    told = "learning rate of weights that the pretrained model lacks; default: %(default)s"
    training.add_argument("--head-lr", metavar="LR", type=rate, default=1e-3, help=told)
    told = "default: %(default)s"
    training.add_argument("--seed", type=number(int, 0, 2**32 - 1), default=42, help=told)
    told = "save a checkpoint every N steps too, and not after epochs alone"
    count(training, "--save-steps", defaults["save_steps"], told)
    training.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    add_tune(training, ", and the best epoch kept")
    told = "send the training curves to a tracker, which has to be installed; default: %(default)s"
    training.add_argument("--report-to", choices=TRACKERS, default="none", help=told)
    return training


def set_sample_defaults(parser: argparse.ArgumentParser, **values: Any) -> None:
    """What `--sample` changes of the defaults, told at the end of the help."""
    parser.set_defaults(sample_defaults=values)
    told = ", ".join(f"--{name.replace('_', '-')} {value}" for name, value in values.items())
    parser.epilog = f"--sample sets {told}, where they are not given."


def parse_arguments(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> argparse.Namespace:
    """Parse a command line; under `--sample`, with its defaults. Exits with 2 where it is wrong."""
    args = parser.parse_args(argv)
    values = vars(args).pop("sample_defaults", {})
    if getattr(args, "sample", False):
        files = {f"{split}_file": utils.SAMPLE / f"{split}.jsonl" for split in data.SPLITS}
        parser.set_defaults(**{name: file for name, file in files.items() if name in args})
        parser.set_defaults(**values)
        args = parser.parse_args(argv)
        del args.sample_defaults
    return args


# How a run ends


def run_script(
    parser: argparse.ArgumentParser, recipe: Recipe, argv: Sequence[str] | None = None
) -> None:
    """Parse the command line, take the output directory, and do `recipe(args, run)` in it.

    Ends with code 2 and one line for a wrong argument or input file, 1 for a run that cannot go
    on, 130 for an interrupt, each with what to do. A wrong input leaves nothing behind.

    Args:
        argv: the arguments; None: those that the process was started with.
    """
    process.quiet_libraries()
    if os.environ.get("ACCELERATE_USE_CPU") == "":  # which accelerate takes for no answer
        del os.environ["ACCELERATE_USE_CPU"]
    logging.raiseExceptions = False  # a log that cannot be written, as to `| head`, ends no run
    command = process.shell_command(parser.prog, argv)
    say_what_a_console_can()
    args = parse_arguments(parser, argv)
    this = run.Run(args, parser.prog)

    def end_at_once(*_: Any) -> None:
        """On a signal: an exception would not get through the import of torch."""
        message = f"{parser.prog}: interrupted; {what_goes_on(args, command)}\n"
        if process.is_main_process():
            with contextlib.suppress(OSError):  # the terminal may be gone
                os.write(2, message.encode(errors="replace"))
        os._exit(130)

    try:
        with process.signals_handled_by(end_at_once), this:
            recipe(args, this)
    except ENDINGS as error:
        code, told = how_it_ended(error, args, command)
        if code is None:
            raise
        if rank := process.rank():
            time.sleep(3)  # a launcher ends all processes when the first has ended
            told = f"process {rank}: {told}"  # of which it alone knows
        is_alone = process.process_count() > 1 and code != 130  # all are told to stop
        says = process.is_main_process() or is_alone
        parser.exit(code, f"{parser.prog}: {told}\n" if says else None)
    finally:
        process.drop_output()
        for each in process.stop_signals() if argv is None else ():
            signal.signal(each, signal.SIG_IGN)  # all is done, and torch takes a moment to leave


def say_what_a_console_can() -> None:
    """Let a console without Hangul show question marks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def run_tool(
    parser: argparse.ArgumentParser, work: Callable[[Any], None], argv: Sequence[str] | None
) -> None:
    """Parse the command line, and do `work(args)`: for scripts that have no run directory.

    Ends as `run_script` does; a reader of its output that has gone, as of `| head`, is no error.
    """
    say_what_a_console_can()
    if isinstance(sys.stdout, io.TextIOWrapper) and not sys.stdout.isatty():
        sys.stdout.reconfigure(newline="", **outputs.AS_TEXT)  # as --output
    args, rest = parser.parse_known_intermixed_args(argv)  # TEXT may stand behind a flag
    if rest:  # or behind "--", which that does not know
        args = parser.parse_args(argv)
    utils.log.handlers = [logging.StreamHandler(sys.stderr)]
    utils.log.setLevel(logging.WARNING)
    try:
        with process.signals_handled_by(signal.default_int_handler):
            work(args)
        print(end="", flush=True)
    except BrokenPipeError:
        process.drop_output()
    except KeyboardInterrupt:
        parser.exit(130, f"{parser.prog}: interrupted\n")
    except ENDINGS as error:
        code, told = how_it_ended(error, args, "")
        if code is None:
            raise
        parser.exit(code, f"{parser.prog}: {told}\n")


def how_it_ended(
    error: BaseException, args: argparse.Namespace, command: str
) -> tuple[int | None, str]:
    """`drop_output`; the exit code, None for a fault of our own, and the line for what ended it."""
    process.drop_output()
    if isinstance(error, (utils.InputError, utils.RunError)):
        return 2 if isinstance(error, utils.InputError) else 1, f"error: {error}"
    if isinstance(error, process.Interrupted):
        return 130, f"interrupted; {what_goes_on(args, command)}"
    if isinstance(error, OSError) and error.strerror:
        where = error.filename2 or error.filename or "a file or standard output"
        then = what_goes_on(args, command) if command else "start again"
        return 1, f"error: {where}: {error.strerror}; mend that; {then}"
    if command and process.is_lost_peer(error):
        return 1, f"error: another process ended, see what it told; {what_goes_on(args, command)}"
    told = str(error).strip().partition("\n")[0]
    trains = kinds.trains(vars(args))
    names = ("train_batch_size", "batch_size") if trains else ("val_batch_size", "batch_size")
    flag = next((f" smaller --{each.replace('_', '-')}" for each in names if each in args), None)
    mend = f"free some, or take a{flag}" if flag else "free some"
    if trains:
        mend = f"go on with --resume and a{flag} (steps stay), or --val-batch-size if it scored dev"
    told = "the memory is full" + (f" ({told.partition('. ')[0]})" if told else "")
    return 1 if process.is_out_of_memory(error) else None, f"error: {told}; {mend}"


def what_goes_on(args: argparse.Namespace, command: str) -> str:
    """What a user can do after an interrupt, in words."""
    if not kinds.trains(vars(args)):
        mend = "delete it, or give another --output-dir, and start again"
        return f"{args.output_dir} is not complete; {mend}"
    command += "" if args.resume else " --resume"
    whole = run.last_whole_checkpoint(args.output_dir)
    if whole:
        return f"the last whole checkpoint is {whole}; go on with: {command}"
    return f"there is no checkpoint yet; start again with: {command}"
