"""report.html: one page that stands alone, of a run or of several."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import utils
from emotion import outputs
from emotion.prompt_words import KOREAN
from emotion.statistics import show_constant

HARDEST = 50  # lines that are shown
SETTINGS = (
    *("model", "epochs", "lr", "head_lr", "seed", "objective", "pooling", "target", "normalise"),
    *("tune", "soft_labels"),
)
LEAST_LIKELY = "The hardest lines: the least likely labels first"
DOUBTED = "Lines whose labels look wrong: scored out of fold, the least likely labels first"
BINS = 10  # of the calibration curve


class Shown(NamedTuple):
    """A system on the page: scores and decisions by split [lines, labels], and its training."""

    name: str
    scores: dict[str, np.ndarray]
    decisions: dict[str, np.ndarray]
    history: Sequence[dict[str, float]]


def write(
    directory: Path,
    record: dict[str, Any],
    systems: Sequence[Any],
    rows: Mapping[str, Iterable[utils.Row]],
    gold: Mapping[str, np.ndarray],
    comparisons: Mapping[str, dict[str, Any]],
    labels: Sequence[str],
    out_of_fold: bool = False,
) -> None:
    """Write `report.html`.

    Args:
        record: what run.json holds.
        systems: of `Shown` or `systems.System`; details are of the last.
        rows, gold, comparisons: by labelled split; gold [lines, labels], comparisons as of
            `statistics.compare`.
        out_of_fold: whether each line of dev was scored by runs that had not learnt it.
    """
    from jinja2 import Environment, FileSystemLoader

    here = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(here), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    parts = [
        describe(split, systems, list(rows[split]), gold[split], comparisons[split], labels)
        | {
            "constant": show_constant(gold[split], labels, record.get("constant_answer") or []),
            "title": "train and dev" if out_of_fold and split == "dev" else split,
            "hardest_title": DOUBTED if out_of_fold and split == "dev" else LEAST_LIKELY,
        }
        for split in gold
    ]
    text = environment.get_template("report.html").render(
        title=f"{record['script']}: {directory.resolve().name}",
        facts=list(facts_of(directory, record)),
        parts=parts,
        curves=curves_of(systems),
    )
    with outputs.whole_file(directory / "report.html") as file:
        file.write(text)


def facts_of(directory: Path, record: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    """What was run on what, and how it decides, as the page shows it."""
    arguments = record["arguments"]
    shown: Sequence[str] = SETTINGS if "model" in arguments else ()
    if arguments.get("model_ckpt_path"):
        shown = ("model_ckpt_path",)  # and no arguments of a training that did not take place
    for name in shown:
        if arguments.get(name) is not None:
            yield name, arguments[name]
    if arguments.get("fold") is not None:
        told = "train and dev together are parted in {folds}; part {fold} is dev here"
        yield "folds", told.format_map(arguments)
    if arguments.get("soft_labels"):
        yield "its teachers", "have learnt dev, so that figures of dev are hopeful"
    if members := record.get("members"):
        named = (f"{member['run']} {member['weight']:.3f}" for member in members)
        yield "averaged, by weight", ", ".join(named)
    if rule := record.get("rule"):
        yield "rule", rule
    decision = outputs.read_json(directory / "best" / "decision.json") or {}
    tuned = decision.get("tuned_for", "")
    for name, told in ((tuned, "dev, tuned on it"), (f"{tuned}_cross_fitted", "cross-fitted")):
        if name in decision:
            yield f"{tuned.replace('_f1', '-F1')}, {told}", f"{decision[name]:.4f}"
    for split, file in record.get("data", {}).items():
        yield split, f"{Path(file['file']).name}, {file['lines']:,} lines, {file['sha256'][:12]}…"
    yield "commit", (record.get("git_commit") or "unknown")[:12]


def describe(
    split: str,
    systems: Sequence[Any],
    rows: list[utils.Row],
    gold: np.ndarray,
    comparison: dict[str, Any],
    labels: Sequence[str],
) -> dict[str, Any]:
    """What the page shows of a split; arguments as of `write`."""
    shown = systems[-1]
    scores, decisions, present = shown.scores[split], shown.decisions[split], gold.astype(bool)
    per_label = comparison["systems"][shown.name]["per_emotion"]
    named = [f"{name} {KOREAN[name]}" if name in KOREAN else name for name in labels]
    mistakes = count_mistakes(present, decisions)
    return {
        "split": split,
        "count": len(rows),
        "systems": comparison["systems"],
        "resamples": comparison["resamples"],
        "shown": shown.name,
        "labels": [
            {"name": full, "support": int(present[:, k].sum())} | per_label[labels[k]]
            for k, full in enumerate(named)
        ],
        "thresholds": [
            {"name": each.name, "points": against_thresholds(gold, each.scores[split])}
            for each in systems
        ],
        "calibration": [
            {"name": each.name, "points": calibration(present, each.scores[split])}
            for each in systems
        ],
        "columns": [*named, "nothing"],
        "mistakes": list(zip([*named, "nothing"], mistakes.tolist(), strict=True)),
        "most_mistakes": max(1, mistakes.max()),
        "slices": slices(rows, gold, decisions),
        "hardest": hardest(rows, present, scores, decisions, labels),
    }


def against_thresholds(gold: np.ndarray, scores: np.ndarray) -> list[tuple[float, float]]:
    """(threshold, micro-F1) from 0.02 to 0.98."""
    thresholds = np.linspace(0.02, 0.98, 49)
    return [(t, utils.micro_f1(gold, utils.decide(scores, t))) for t in thresholds.tolist()]


def calibration(present: np.ndarray, scores: np.ndarray) -> list[tuple[float, float]]:
    """(mean score, share present) of the labels whose scores fall into each of BINS."""
    bins = np.minimum((scores * BINS).astype(int), BINS - 1)
    inside = [bins == number for number in range(BINS)]
    return [(float(scores[i].mean()), float(present[i].mean())) for i in inside if i.any()]


def count_mistakes(present: np.ndarray, decisions: np.ndarray) -> np.ndarray:
    """How often a label was missed (row) while another was predicted wrongly (column).

    The last column counts labels missed with nothing wrong in their place, the last row labels
    predicted wrongly where nothing was missed.
    """
    missed, extra = (present & ~decisions).astype(int), (decisions & ~present).astype(int)
    missed = np.column_stack([missed, ~missed.any(1)])
    extra = np.column_stack([extra, ~extra.any(1)])
    counts = missed.T @ extra
    counts[-1, -1] = 0  # lines that are right
    return counts


def slices(
    rows: Sequence[utils.Row], gold: np.ndarray, decisions: np.ndarray
) -> list[tuple[str, int, float]]:
    """(name, lines, micro-F1) by quarters of length, and with and without a target."""
    lengths = np.array([len(row["input"]["form"]) for row in rows])
    targets = np.array([utils.text_and_target(row)[1] is not None for row in rows])
    ends = np.quantile(lengths, (0.25, 0.5, 0.75)).astype(int).tolist()
    bounds = itertools.pairwise([0, *ends, int(lengths.max())])
    parts = {
        f"{a + 1} to {b} characters": (a < lengths) & (lengths <= b) for a, b in bounds if a < b
    }
    parts |= {"with a target": targets, "without": ~targets}
    return [
        (name, int(part.sum()), utils.micro_f1(gold[part], decisions[part]))
        for name, part in parts.items()
        if part.any()
    ]


def hardest_first(present: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The numbers of lines, that with the least likely label, given or left out, first.

    Args:
        present, scores: [lines, labels]; whether a label is given, and its probability.
    """
    return np.argsort(np.where(present, scores, 1 - scores).min(-1), kind="stable")


def hardest(
    rows: Sequence[utils.Row],
    present: np.ndarray,
    scores: np.ndarray,
    decisions: np.ndarray,
    labels: Sequence[str],
) -> list[dict[str, Any]]:
    """The first of `hardest_first`, as the page shows them."""
    found = []
    for index in hardest_first(present, scores)[:HARDEST].tolist():
        text, target = utils.text_and_target(rows[index], normalise=False)
        given, predicted = (
            [name for name, it in zip(labels, each[index], strict=True) if it]
            for each in (present, decisions)
        )
        ranked = sorted(zip(labels, scores[index].tolist(), strict=True), key=lambda it: -it[1])
        told = [each for n, each in enumerate(ranked) if n < 3 or each[0] in given]
        line: dict[str, Any] = {"text": text, "target": target, "scores": told}
        found.append(line | {"gold": given, "predicted": predicted})
    return found


def curves_of(systems: Sequence[Any]) -> dict[str, Any] | None:
    """Training loss and dev micro-F1 by epoch, a curve for each system; None where none trained."""
    curves = {
        what: [
            {
                "name": each.name,
                "points": [(it["epoch"], it[name]) for it in each.history if name in it],
            }
            for each in systems
        ]
        for what, name in (("losses", "loss"), ("scores", "micro_f1"))
    }
    points = [point for curve in curves["losses"] for point in curve["points"]]
    if not points:
        return None
    epochs, losses = zip(*points, strict=True)
    return curves | {"epochs": max(epochs), "highest": max(losses)}
