"""What tells one run from another, with or without its seed and its fold."""

import collections
import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import utils

CHANGES_NO_WEIGHT = {  # what may differ on --resume
    *("output_dir", "resume", "train_file", "dev_file", "test_file", "soft_labels", "answers"),
    *("val_batch_size", "lines_at_once", "save_steps", "threshold", "report_to"),
    *("precision", "corpus"),  # the one that "auto" came to, and files of the corpus, are compared
}
# What runs did that were begun before these flags were there
BEFORE = {"target": "pair", "tune": "micro", "normalise": "on"}
Group = dict[int, tuple[Path, dict[str, Any]]]  # runs that differ in their fold alone, by that


def in_full(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a run of whatever version; without --head-lr where there is no such head,
    and with directories of models as they are, however they were called.
    """
    told: dict[str, Any] = BEFORE | {"head_lr": arguments.get("lr")} | arguments
    for name in ("model", "adapter"):
        if told.get(name) and os.path.isdir(told[name]):
            told[name] = os.path.realpath(told[name])
    if told.get("objective", "head") != "head":
        del told["head_lr"]  # answers are scored by the model's own head
    return told


def trains(arguments: dict[str, Any]) -> bool:
    """Whether a run with these arguments trains, so that --resume goes on with it."""
    return "resume" in arguments and not arguments.get("model_ckpt_path")


def is_pooled(run: dict[str, Any]) -> bool:
    """Whether its dev is lines of train and dev together: a run of a fold, an average of such."""
    return "fold" in comparable(run) or bool(run.get("out_of_fold"))


def comparable(run: dict[str, Any]) -> dict[str, Any]:
    """What tells a run from others: arguments, with "fold" where it was made with --folds, the
    precision that it computed in, and the number of processes, by which a step has more lines.

    Paths of files, which are another machine's perhaps, do not: SHA-256 tells them apart.
    """
    given = in_full(run["arguments"]).items()
    arguments = {name: each for name, each in given if name not in CHANGES_NO_WEIGHT}
    if arguments.get("folds") is None:
        arguments.pop("fold", None)
    answers = run.get("data", {}).get("answers", {}).get("sha256", run["arguments"].get("answers"))
    return arguments | {
        "script": run["script"],
        "answers": answers,
        "threshold": run["arguments"].get("threshold"),
        "precision": run.get("precision"),
        "processes": run.get("processes", 1),
    }


def kind_of(run: dict[str, Any]) -> str:
    """What tells a run from others, but for its seed and fold."""
    files = {split: file["sha256"] for split, file in run["data"].items()}
    told = {"seed": None, "fold": None, "data": files}
    return json.dumps(comparable(run) | told, sort_keys=True)


def kinds_of(runs: Sequence[dict[str, Any]]) -> list[str]:
    """`kind_of` each run; a seed that comes again begins another kind, as it is no other draw."""
    seen: collections.Counter[tuple[str, Any]] = collections.Counter()
    kinds = []
    for run in runs:
        kind = kind_of(run)
        drawn = kind, run["arguments"].get("seed")
        kinds.append(f"{kind}{seen[drawn] or ''}")
        seen[drawn] += 1
    return kinds


def groups_of(runs: dict[Path, dict[str, Any]]) -> list[Group]:
    """The runs of folds, those together that differ in their fold alone; a fold that comes again
    begins another group.

    Raises:
        utils.InputError: a fold is missing.
    """
    groups: dict[str, list[Group]] = {}
    for path, run in runs.items():
        key = comparable(run)
        alike = groups.setdefault(json.dumps(key | {"fold": None}, sort_keys=True), [])
        group = next((each for each in alike if key["fold"] not in each), None)
        if group is None:
            group = {}
            alike.append(group)
        group[key["fold"]] = path, run
    found = list(itertools.chain.from_iterable(groups.values()))
    for group in found:
        path, run = next(iter(group.values()))
        folds = comparable(run)["folds"]
        if missing := set(range(folds)) - group.keys():
            told = f"fold {min(missing)} of its {folds} is not named; train and name it too"
            strays = (each for each in found if not each.keys() & group.keys())
            for other, its in itertools.chain.from_iterable(each.values() for each in strays):
                if flags := how_it_differs(run, its, min(missing)):
                    told = f"{other} is no fold of the same run, but another in {flags}"
                    told += "; train it with the same"
            raise utils.InputError(f"{path}: {told}")
    return found


def how_it_differs(run: dict[str, Any], other: dict[str, Any], fold: int) -> str:
    """The flags in which a run of this fold differs from another; nothing of other folds."""
    key, of_other = comparable(run), comparable(other)
    if of_other["fold"] != fold:
        return ""
    names = {name for name in key | of_other if key.get(name) != of_other.get(name)}
    return ", ".join(map(name_for_people, sorted(names - {"fold"})))


def name_for_people(name: str) -> str:
    """What a person calls an argument, or what else is compared."""
    noted = {"processes": "the number of processes", "precision": "the precision that it came to"}
    return noted.get(name) or f"--{name.replace('_', '-')}"
