import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
settings.register_profile("repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("repeatable")

import utils

utils.quiet_libraries()  # before torch is imported, as in the scripts
OFFLINE = {"HF_HUB_OFFLINE": "1"}


def run_script(script, *arguments, cwd=ROOT, **environment):
    """Run one of the scripts as a user does; returns the finished process with its output as text."""
    command = [sys.executable, str(ROOT / script), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=os.environ | OFFLINE | environment, capture_output=True, text=True)


def make_row(id="line-1", form="오늘 급식 최고", target="급식", labels=("joy",), **changes):
    """A valid row of the corpus; `labels=None` leaves it unlabelled."""
    begin = None if target is None else form.index(target)
    end = None if target is None else begin + len(target)
    row = {"id": id, "input": {"form": form, "target": {"form": target, "begin": begin, "end": end}}}
    if labels is not None:
        row["output"] = {name: str(name in labels) for name in utils.EMOTIONS}
    return row | changes


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def sample_runs(tmp_path_factory):
    """Output directories and standard output of `--sample` runs of both BERT scripts, made once."""
    runs = {}
    for name in ("bert_plain", "bert_GRU"):
        directory = tmp_path_factory.mktemp("runs") / name
        process = run_script(f"{name}.py", "--sample", "--output-dir", directory)
        assert process.returncode == 0, process.stderr
        runs[name] = directory, process
    return runs
