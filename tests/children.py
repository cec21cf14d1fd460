"""Scripts in processes of their own that need not import torch anew: forked from one that has.

A child can be sent signals at named moments: when its script is about to touch a file.
"""

import importlib
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tqdm

from emotion import process

process.quiet_libraries()  # before torch is imported, as in the scripts
for name in ("sklearn.model_selection", "emotion.causal", "emotion.memory", "emotion.training"):
    importlib.import_module(name)
tqdm.tqdm.get_lock()  # one made in a child that is killed would be told of as leaked

ROOT = Path(__file__).resolve().parents[1]
Outcome = subprocess.CompletedProcess[str]
Disturbance = tuple[str, str, int, int]  # audit event, end of a path, how often met, signal
context = multiprocessing.get_context("forkserver")


def run_child(script: str | Path, *arguments: Any, **settings: Any) -> Outcome:
    """Run a script in a child; settings as of `start`."""
    return finish(start(script, *arguments, **settings))


def start(
    script: str | Path,
    *arguments: Any,
    output: Path,
    disturbances: Sequence[Disturbance] = (),
    environment: dict[str, str] | None = None,
) -> tuple[Any, Path]:
    """Start a script as a user does, from the root of the repository.

    Args:
        output: a file for standard output; standard error goes beside it.
        disturbances: signals that the child sends to itself, each before a path is touched: where
            the named audit event of Python tells of a path with this end for the n-th time.
        environment: variables to set.

    Returns:
        What `finish` takes.
    """
    argv = [str(ROOT / script), *map(str, arguments)]
    settings = output, disturbances, environment or {}
    child = context.Process(target=_run, args=(argv, *settings), daemon=True)
    context.set_forkserver_preload(["children"])
    with pytest.MonkeyPatch.context() as patch:  # the first start starts the server
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, (ROOT, ROOT / "tests"))))
        child.start()
    return child, output


def finish(started: tuple[Any, Path]) -> Outcome:
    """Wait for the end of a child."""
    child, output = started
    child.join(120)
    assert not child.is_alive(), output.read_text(encoding="utf-8")
    streams = [output, output.with_suffix(".err")]
    told = [file.read_text(encoding="utf-8") if file.exists() else "" for file in streams]
    return subprocess.CompletedProcess(output.name, child.exitcode, *told)


def ranks(count: int) -> list[dict[str, str]]:
    """The environment that a launcher gives to each of so many processes."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    shared |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    return [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]


def _run(
    argv: list[str], output: Path, disturbances: list[Disturbance], environment: dict[str, str]
) -> None:
    for number, file in ((1, output), (2, output.with_suffix(".err"))):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.chdir(ROOT)
    os.environ.update(environment)
    sys.argv = argv
    sys.path.insert(0, os.path.dirname(argv[0]))
    met: dict[int, int] = {}

    def disturb(event: str, arguments: tuple[Any, ...]) -> None:
        for index, (wanted, end, times, number) in enumerate(disturbances):
            if event == wanted and any(str(argument).endswith(end) for argument in arguments):
                met[index] = met.get(index, 0) + 1
                if met[index] == times:
                    os.kill(os.getpid(), number)

    if disturbances:
        sys.addaudithook(disturb)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    runpy.run_path(argv[0], run_name="__main__")
