"""Published splits, three seeds a row, from one command a table.

    python tests/benchmarks/published.py TABLE --corpus DIR --model DIR --output-dir DIR [--jobs 2]

TABLE is a key of TABLES; rows of one name, in two of them, are the same runs in one OUTPUT_DIR.
The corpus is what data/convert.py writes, all of it labelled; with --lines N, train is the first N
of its lines shuffled, and --without LABEL leaves a label out, both written to OUTPUT_DIR/corpus.
With --student come models that learn the scores of folds beside the labels, in twice the epochs, in
OUTPUT_DIR/student-NAME-SEED: of each row five folds, folds-NAME-FOLD, are trained with the first
seed, and all of them averaged in average-folds.
Every run is a command of the scripts, in OUTPUT_DIR/NAME-SEED, with one thread; one that is
finished is not made again, but for the average, and one that was begun goes on, so the command may
be stopped and repeated. The table is that of results.py.
"""

import argparse
import contextlib
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

import results

import utils
from emotion import cli, outputs
from emotion.data import SPLITS
from emotion.outputs import identify

SEEDS, FOLDS, AVERAGE = (42, 43, 44), 5, "average-folds"
BERT = ("bert_plain.py", "--lr", "1e-4")
MEAN = (*BERT, "--pooling", "mean", "--head-lr", "1e-2", "--train-batch-size", "32")
CLS = (*BERT, "--head-lr", "1e-3", "--epochs", "3")
GPT = ("gpt_train.py", "--language", "en", "--lr", "1e-3", "--target-modules", "all-linear")
GPT = (*GPT, "--head-lr", "1e-2", "--epochs", "1")
TABLES: dict[str, dict[str, tuple[str, ...]]] = {  # rows: a name, a script and its flags
    "goemotions": {"mean": (*MEAN, "--epochs", "2", "--tune", "macro")},
    "goemotions-ko": {"mean": (*MEAN, "--epochs", "3", "--tune", "macro")},
    "target": {each: (*CLS, "--target", each) for each in ("pair", "marked")},
    "target-gpt": {
        "head": (*GPT, "--objective", "head"),
        "head-marked": (*GPT, "--objective", "head", "--target", "marked"),
    },
    "objective": {
        "answer": (*GPT, "--objective", "answer"),
        "multilabel": (*GPT, "--objective", "multilabel"),
        "head": (*GPT, "--objective", "head"),
        "head-rank-32": (*GPT, "--objective", "head", "--rank", "32"),
    },
}


def take_part(corpus: Path, lines: int | None, label: str | None, part: Path) -> None:
    """Write a corpus with some lines of another's train, and all of its labels but one.

    Raises:
        utils.InputError: there is no such label, or another part where this is to be.
    """
    part.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        rows = utils.read_corpus(corpus / f"{split}.jsonl", labelled=True)
        if label and label not in utils.labels_of(rows):
            told = f"has no label {label}; give one of {', '.join(utils.labels_of(rows))}"
            raise utils.InputError(f"{corpus}: {told}")
        if split == "train" and lines:
            random.Random(42).shuffle(rows)
            rows = rows[:lines]
        for row in rows:
            row["output"].pop(label, None)
        write(part / f"{split}.jsonl", rows)


def write(path: Path, rows: list[utils.Row]) -> None:
    """Write a corpus file, or find the same there.

    Raises:
        utils.InputError: there is another.
    """
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise utils.InputError(f"{path}: holds other lines; give another --output-dir")
    with outputs.whole_file(path) as file:
        file.write(text)


def runs_of(options: argparse.Namespace, corpus: Path) -> list[dict[str, tuple[str, ...]]]:
    """Commands by the names of their runs, in stages: one needs the runs of those before.

    Raises:
        utils.InputError: students are asked for where none can be taught.
    """
    rows, output, seeds = TABLES[options.table], options.output_dir, options.seeds
    if options.student and any(command[0] != BERT[0] for command in rows.values()):
        told = f"--student: {options.table} has other rows than of {BERT[0]}; leave it out"
        raise utils.InputError(told)
    files = [f"--{split}-file={corpus / split}.jsonl" for split in SPLITS]
    given = (*files, "--model", options.model, "--seed")
    tune = ("--tune", "macro" if all("macro" in each for each in rows.values()) else "micro")
    runs = {"linear": ("linear.py", "--corpus", str(corpus), *tune)}
    for (name, command), seed in itertools.product(rows.items(), seeds):
        runs[f"{name}-{seed}"] = (*command, *given, str(seed))
    if not options.student:
        return [runs]
    folds, students = {}, {}
    for (name, command), fold in itertools.product(rows.items(), range(FOLDS)):
        parted = ("--folds", str(FOLDS), "--fold", str(fold))
        folds[f"folds-{name}-{fold}"] = (*command, *given, str(seeds[0]), *parted)
    average = ("ensemble.py", *(str(output / name) for name in folds), *tune)
    for (name, command), seed in itertools.product(rows.items(), seeds):
        epochs = 2 * int(command[command.index("--epochs") + 1])
        learnt = ("--epochs", str(epochs), "--soft-labels", str(output / AVERAGE))
        students[f"student-{name}-{seed}"] = (*command, *given, str(seed), *learnt)
    return [runs | folds, {AVERAGE: average}, students]


def start(command: Sequence[str], directory: Path, errors: IO[str]) -> subprocess.Popen[str] | None:
    """Start a run, or go on with it, which --resume refuses where it is another; None where a
    linear model is there already. An average is always made anew: its runs may have been.
    """
    record, (script, *flags) = directory / "run.json", command
    path = ROOT / ("tests/benchmarks" if script == "linear.py" else "") / script
    if script == "linear.py" and "seconds" in (outputs.read_json(record) or {}):
        check_lines(directory, Path(flags[flags.index("--corpus") + 1]))
        asked = {"tune": flags[flags.index("--tune") + 1], "encoder": None, "threshold": "auto"}
        for name, value in outputs.read_json(record)["arguments"].items():
            if value != asked.get(name, value):
                told = f"has another --{name}; give another --output-dir"
                raise utils.InputError(f"{directory}: {told}")
        return None
    if script in ("linear.py", "ensemble.py") and record.exists():
        if (outputs.read_json(record) or {}).get("script", script) != script:
            told = f"is a run of another script than {script}"
            raise utils.InputError(f"{directory}: {told}; give another --output-dir")
        shutil.rmtree(directory)
    resume = ["--resume"] * record.exists()
    given = [sys.executable, str(path), *flags, "--output-dir", str(directory), *resume]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    apart = {"env": environment, "start_new_session": True}  # Ctrl-C is for this process
    return subprocess.Popen(given, stdout=subprocess.DEVNULL, stderr=errors, text=True, **apart)


def check_lines(directory: Path, corpus: Path) -> None:
    """Raise InputError where a finished run saw other lines than those of a corpus."""
    data = (outputs.read_json(directory / "run.json") or {}).get("data", {})
    for split in SPLITS:
        if data.get(split, {}).get("sha256") != identify(corpus / f"{split}.jsonl")["sha256"]:
            raise utils.InputError(f"{directory}: is of other lines; give another --output-dir")


def make(commands: dict[str, tuple[str, ...]], output: Path, jobs: int) -> Iterator[str]:
    """Make runs, so many side by side, and yield the names of those that are done.

    Where one fails, or this is stopped, the others are told to stop, and can be gone on with.

    Raises:
        utils.RunError: one failed.
    """
    # all rows with one seed, or of one fold, before the next: what is stopped can be compared
    waiting = sorted(commands.items(), key=lambda each: each[0].rpartition("-")[2])
    running: dict[str, tuple[subprocess.Popen[str], IO[str]]] = {}
    with contextlib.ExitStack() as ending:
        ending.callback(stop, running)
        while waiting or running:
            if waiting and len(running) < jobs:
                name, command = waiting.pop(0)
                errors = ending.enter_context(tempfile.TemporaryFile("w+", errors="replace"))
                if child := start(command, output / name, errors):
                    running[name] = child, errors
                else:
                    yield name
                continue
            time.sleep(0.1)
            for name in [name for name, (child, _) in running.items() if child.poll() is not None]:
                child, errors = running.pop(name)
                errors.seek(0)
                if child.returncode:
                    told = errors.read().strip() or f"ended with code {child.returncode}"
                    raise utils.RunError(f"{output / name}: {told}")
                yield name


def stop(running: dict[str, tuple[subprocess.Popen[str], IO[str]]]) -> None:
    """Tell runs to stop, and wait for what they save."""
    for child, _ in running.values():
        child.terminate()
    for child, _ in running.values():
        child.wait()


def main() -> None:
    """Make all runs of a table, and print it."""
    parser = cli.ArgumentParser("published.py", __doc__)
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--model", required=True, help="a from_pretrained directory")
    parser.add_argument("--output-dir", type=Path, required=True)
    cli.count(parser, "--jobs", 2, "runs side by side")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    cli.count(parser, "--lines", None, "of train; default: all")
    told = "models taught by folds beside the others, of tables of BERT"
    parser.add_argument("--student", action="store_true", help=told)
    parser.add_argument("--without", metavar="LABEL", help="as neutral, whose lines have none then")
    cli.run_tool(parser, make_table, None)


def make_table(options: argparse.Namespace) -> None:
    """Make the runs, several side by side, and print the table."""
    began, corpus = time.perf_counter(), options.corpus
    if options.lines or options.without:
        corpus = options.output_dir / "corpus"
        take_part(options.corpus, options.lines, options.without, corpus)
    train = corpus / "train.jsonl"
    if not train.is_file():
        raise utils.InputError(f"{train}: no such file; give --corpus a directory that holds it")
    directories = []
    for commands in runs_of(options, corpus):
        for name in make(commands, options.output_dir, options.jobs):
            print(f"{name}, {time.perf_counter() - began:.0f} s", flush=True)
        directories += [
            options.output_dir / name for name in commands if not name.startswith("folds-")
        ]
    print(f"\n{results.tables(directories, options.output_dir.parent)}")


if __name__ == "__main__":
    main()
