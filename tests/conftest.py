"""What the tests share: scripts as a user runs them, rows of a corpus, runs that are made once."""

import contextlib
import importlib
import io
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings

import utils

ROOT = Path(__file__).resolve().parents[1]
OFFLINE = {"HF_HUB_OFFLINE": "1"}
IN_WORKER = "PYTEST_XDIST_WORKER" in os.environ
os.environ |= OFFLINE | ({"OMP_NUM_THREADS": "1"} if IN_WORKER else {})  # before torch is imported
settings.register_profile(
    "repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("repeatable")

for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:  # as in a shell's background jobs, under nohup
        signal.signal(number, usual)

EMOTIONS = ("joy", "anticipation", "trust", "surprise", "disgust", "fear", "anger", "sadness")
Outcome = subprocess.CompletedProcess[str]


def run_script(
    script: str | Path, *arguments: Any, cwd: Path = ROOT, **environment: str
) -> Outcome:
    """Run one of the scripts as a user does, in a process of its own."""
    command = [sys.executable, str(ROOT / script), *map(str, arguments)]
    environ = os.environ | OFFLINE | environment
    return subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True)


def call(script: str, *arguments: Any, cwd: Path = ROOT) -> Outcome:
    """Call a script's `main` in this process: for all that needs no process of its own.

    An error that the script does not tell in words is raised. What Python warns of is not in
    `stderr`, for pytest collects it.
    """
    main, argv = importlib.import_module(script.removesuffix(".py")).main, [*map(str, arguments)]
    code, stdout, stderr = 0, io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
    ):
        try:
            main(argv)
        except SystemExit as end:
            code = end.code
    return subprocess.CompletedProcess([script, *argv], code, stdout.getvalue(), stderr.getvalue())


def assert_refused(outcome: Outcome, *told: Any) -> None:
    """Exit code 2, and one line on standard error with all of `told` in it."""
    assert outcome.returncode == 2, outcome.stdout
    assert outcome.stderr.count("\n") == 1, outcome.stderr
    for text in told:
        assert str(text) in outcome.stderr


def make_row(
    id: str = "line-1",
    form: str = "오늘 급식 최고",
    target: str | None = "급식",
    labels: tuple[str, ...] | None = ("joy",),
    **changes: Any,
) -> utils.Row:
    """A valid row of the corpus; `labels=None` leaves it unlabelled."""
    begin = None if target is None else form.index(target)
    end = None if target is None else begin + len(target)
    span = {"form": target, "begin": begin, "end": end}
    row = {"id": id, "input": {"form": form, "target": span}}
    if labels is not None:
        row["output"] = {name: str(name in labels) for name in EMOTIONS}
    return row | changes


def write_rows(path: Path, rows: list[utils.Row]) -> Path:
    """Write rows as a corpus file."""
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def log_of_its_own() -> Iterator[None]:
    """What a script sets of the log is not there for the next test."""
    yield
    utils.log.handlers = []
    utils.log.setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable:
    """A function from (name, make) to (directory, what `make(directory)` returned).

    `make` is called by the first of all workers that asks for the name; the others wait for it.
    """
    root = tmp_path_factory.getbasetemp()
    root = root.parent if IN_WORKER else root

    def get(name: str, make: Callable[[Path], Outcome]) -> tuple[Path, Outcome]:
        directory, record = root / f"made-{name}", root / f"made-{name}.json"
        with FileLock(root / f"made-{name}.lock"):
            if not record.exists():
                outcome = make(directory)
                record.write_text(json.dumps(vars(outcome), default=str), encoding="utf-8")
        return directory, subprocess.CompletedProcess(**json.loads(record.read_text("utf-8")))

    return get


@pytest.fixture(scope="session")
def sample_run(made_once: Callable) -> Callable[..., tuple[Path, Outcome]]:
    """A function from a script's name and more flags to a run with `--sample`, made once for all
    workers: (output directory, finished process). It is not to be changed.
    """

    def get(name: str, *flags: Any) -> tuple[Path, Outcome]:
        def train(directory: Path) -> Outcome:
            return run_script(f"{name}.py", "--sample", *flags, "--output-dir", directory)

        directory, process = made_once(name, train)
        assert process.returncode == 0, process.stderr
        return directory, process

    return get


@pytest.fixture(scope="session")
def small(made_once: Callable) -> Any:
    """The corpus and the runs of small_runs.py."""
    from small_runs import SmallRuns  # which imports this file

    return SmallRuns(made_once)
