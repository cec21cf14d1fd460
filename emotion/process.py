"""This process: its place among others, the signals that stop it, how far it has come."""

import contextlib
import importlib.metadata
import logging
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import utils

AfterBatch = Callable[[int], object]  # is told of how many lines have been scored
ScoreRows = Callable[[Sequence[utils.Row], AfterBatch], Any]  # to an array [rows, labels]
SECONDS_BETWEEN_LINES = 30  # where no terminal shows a bar
SECONDS_BETWEEN_NOTES = 5  # beside a bar
PACKAGES = (
    *("torch", "transformers", "peft", "bitsandbytes", "accelerate", "tokenizers"),
    *("scikit-learn", "numpy", "jinja2", "regex"),
)


class Interrupted(Exception):
    """A run was told to stop, and has saved what it had."""


def process_count() -> int:
    """How many processes torchrun or accelerate launched; 1 without them."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def wants_cpu() -> bool:
    """Whether GPUs are to be left alone: ACCELERATE_USE_CPU, which `accelerate launch` sets.

    Raises:
        utils.InputError: it is neither true nor false, in accelerate's words for these.
    """
    words = dict.fromkeys(("1", "true", "t", "yes", "y", "on"), True)
    words |= dict.fromkeys(("0", "false", "f", "no", "n", "off"), False)
    given = os.environ.get("ACCELERATE_USE_CPU") or "false"
    if given.lower() not in words:
        told = "is neither true nor false; give one of these, or leave it out"
        raise utils.InputError(f"ACCELERATE_USE_CPU={given}: {told}")
    return words[given.lower()]


def local_process_count() -> int:
    """How many of the launched processes are on this machine, each with a GPU of its own."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def rank() -> int:
    """The number of this process among those launched, from 0."""
    return int(os.environ.get("RANK", "0"))


def is_main_process() -> bool:
    """Whether this process writes the files of a run: the only one, or the first launched."""
    return rank() == 0


def stop_signals() -> list[signal.Signals]:
    """The signals that ask a process to stop, but for those that it was started to ignore."""
    names = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP, nohup ignores it
    known = [getattr(signal, name) for name in names if hasattr(signal, name)]
    return [each for each in known if signal.getsignal(each) is not signal.SIG_IGN]


@contextlib.contextmanager
def signals_handled_by(handler: Callable[..., Any]) -> Iterator[dict[signal.Signals, Any]]:
    """Inside, `handler` is called on the signals that ask the process to stop.

    Yields the handlers before it, by signal.
    """
    before = {each: signal.signal(each, handler) for each in stop_signals()}
    try:
        yield before
    finally:
        for each, previous in before.items():
            signal.signal(each, previous)


def shell_command(script: str, argv: Sequence[str] | None) -> str:
    """The command that started this process, its launcher (torchrun, accelerate) included."""
    if argv is not None:
        return shlex.join(["python", script, *argv])
    own, device = sys.argv, os.environ.get("ACCELERATE_USE_CPU")
    command = ["python", *own]
    if "RANK" in os.environ:  # which launchers set, of one process too
        import psutil

        parent = psutil.Process().parent()
        command = parent.cmdline() if parent else []
        if command[-len(own) :] != own:
            module = f"-m torch.distributed.run --nproc_per_node {process_count()}"
            return shlex.join(["python", *module.split(), *own])
    return f"ACCELERATE_USE_CPU={device} " * bool(device) + shlex.join(command)


def drop_output() -> None:
    """Write no more to standard output, if it takes none; Python tries again when it ends."""
    with contextlib.suppress(OSError, AttributeError):
        sys.stdout.flush()
        return
    with contextlib.suppress(OSError, AttributeError):  # one that is no file, or none
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def tell(text: str) -> None:
    """Print what was made: it stays so where standard output takes nothing."""
    with contextlib.suppress(OSError):
        print(text)
    drop_output()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether what torch or Python raised says that the memory is full."""
    names = ("OutOfMemoryError", "MemoryError")
    said = str(error).lower() if isinstance(error, RuntimeError) else ""
    told = ("cpuallocator", "allocate memory", "out of memory", "cublas_status_alloc_failed")
    return type(error).__name__ in names or any(each in said for each in told)


def is_lost_peer(error: BaseException) -> bool:
    """Whether torch says that another process, which this one waits for, is gone."""
    told = ("by peer", "ncclRemoteError", "Broken pipe", "Connection was likely closed")
    return isinstance(error, RuntimeError) and any(each in str(error) for each in told)


def cause(error: Exception) -> str:
    """What went wrong in a library, in one line; a full memory is raised again."""
    if is_out_of_memory(error):
        raise error
    lines = str(error).strip().splitlines()
    told = lines[0].partition(". ")[0] if lines else ""  # torch goes on with advice
    return f"{type(error).__name__}: {told}" if told else type(error).__name__


def quiet_libraries() -> None:
    """Silence what libraries say in a healthy run that concerns nobody."""
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is dep", FutureWarning)  # peft
    warnings.filterwarnings("ignore", "`broadcast_buffers` is dep", FutureWarning)  # of DDP
    warnings.filterwarnings("ignore", "You passed `quantization_config`")  # of a base in 4 bits
    warnings.filterwarnings("ignore", "The PEFT config's `base_model_name_or_path` was")  # told
    warnings.filterwarnings("ignore", "`log_with=")  # of a tracker that the scripts tell of too
    warnings.filterwarnings("ignore", "Detected call of `lr_scheduler")  # a step left out in fp16
    warnings.filterwarnings("ignore", "Attempting to run cuBLAS, but there was no current CUDA")
    for name in ("backends.cpu.ops", "nn.modules"):
        logging.getLogger(f"bitsandbytes.{name}").addFilter(is_of_use)  # which is added once


def is_of_use(record: logging.LogRecord) -> bool:
    """Whether what bitsandbytes logs concerns anybody: not kernels for 4 bits on a CPU, nor a base
    that is refused in our own words.
    """
    needless = ("Failed to load CPU gemm_4bit_forward", "quantization state not initialized")
    return not any(each in record.getMessage() for each in needless)


def lock(file: Any) -> bool:
    """Whether an open file is this process's alone from now on, until it is closed or the process
    ends; True too where there are no such locks.
    """
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):  # Windows; some file systems
        return True
    return True


def peak_memory_gib() -> dict[str, float]:
    """Peak memory of this process so far, in GiB: {"host": resident, "gpu": allocated by torch}."""
    peak = {"host": round(resident_peak() / 2**30, 2)}
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_available():
        peak["gpu"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    return peak


def resident_peak() -> int:
    """The most bytes that this process has held in memory; by getrusage, where /proc does not tell,
    also what the process held that started it.
    """
    with contextlib.suppress(OSError):
        status = Path("/proc/self/status").read_text()
        if found := re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE):
            return int(found[1]) * 2**10
    try:
        import resource

        unit = 1 if sys.platform == "darwin" else 2**10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    except ImportError:  # Windows
        import psutil

        return psutil.Process().memory_info().peak_wset


class Progress:
    """How far something has come: a bar on a terminal, elsewhere a line now and then.

    Args:
        total, done: in units.
    """

    def __init__(self, total: int, unit: str, name: str, done: int = 0) -> None:
        from tqdm import tqdm

        silent = None if is_main_process() else True  # None: where no terminal is
        bar = tqdm(total=total, unit=unit, desc=name, initial=done, leave=False, disable=silent)
        self.bar, self.total, self.unit, self.name, self.done = bar, total, unit, name, done
        self.last = (time.monotonic(), done)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: Any) -> None:
        self.bar.close()

    def per_second(self) -> float:
        """Units a second since the last line, or the start."""
        seconds, done = self.last
        return (self.done - done) / max(time.monotonic() - seconds, 1e-9)

    def update(self, count: int, tell: Callable[[], str] = lambda: "") -> None:
        """`count` more units are done; `tell` is called where something is shown."""
        self.done += count
        self.bar.update(count)
        pause = SECONDS_BETWEEN_LINES if self.bar.disable else SECONDS_BETWEEN_NOTES
        if time.monotonic() - self.last[0] < pause:
            return
        told = tell()
        self.bar.set_postfix_str(told)
        if self.bar.disable:
            left = self.bar.format_interval((self.total - self.done) / max(self.per_second(), 1e-9))
            utils.log.info(
                "%s: %d of %d %ss, %.1f a second, %s left%s",
                *(self.name, self.done, self.total, self.unit, self.per_second(), left),
                f", {told}" * bool(told),
            )
        self.last = (time.monotonic(), self.done)


def versions() -> dict[str, str | None]:
    """Of Python and the packages in use; None for one that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return dict.fromkeys(PACKAGES) | found


def git_commit() -> str | None:
    """The commit of this repository, with "-dirty" where files differ; None outside git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        described = subprocess.run(command, cwd=utils.ROOT, capture_output=True, text=True)
    except OSError:
        return None
    return described.stdout.strip() or None
