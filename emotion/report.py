"""Tables and pictures that people look at."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import utils
from emotion.prompt_words import KOREAN
from emotion.statistics import show_constant, show_interval
from emotion.systems import System

KOREAN_FONTS = (
    *("Noto Sans CJK KR", "Noto Sans CJK JP", "Noto Sans KR", "NanumGothic", "NanumBarunGothic"),
    *("Malgun Gothic", "Apple SD Gothic Neo", "AppleGothic", "UnDotum", "Baekmuk Dotum"),
)


def comparison_table(
    split: str, gold: np.ndarray, comparison: dict[str, Any], constant_answer: Sequence[str]
) -> str:
    """The comparison of one split, of `statistics.compare`, as text for the screen.

    Pairs are those of kinds of systems, where some differ in their seeds alone.
    """
    labels = list(next(iter(comparison["systems"].values()))["per_emotion"])
    kinds = comparison.get("kinds")
    shown = comparison["systems"] | (kinds["systems"] if kinds else {})
    width = max(map(len, shown)) + 2
    count = f"{len(gold)} lines of {comparison['sentences']} sentences"
    drawn = "these, and of seeds where several are meant" if kinds else "these"
    lines = [
        f"{split}, {count}, 95 % intervals from {comparison['resamples']} resamples of {drawn}:"
    ]
    named = "".join(f"{name[:9]:>10}" for name in labels)
    lines.append(f"{'':<{width}}{'micro-F1':<24}{'macro-F1':<24}{named}")
    for name, figures in shown.items():
        each = "".join(f"{figures['per_emotion'][label]['value']:>10.3f}" for label in labels)
        micro, macro = show_interval(figures["micro_f1"]), show_interval(figures["macro_f1"])
        lines.append(f"{name:<{width}}{micro:<24}{macro:<24}{each}")
    lines += filter(None, [show_constant(gold, labels, constant_answer)])
    pairs = (kinds or comparison)["pairs"]
    if pairs:
        told = "paired bootstrap, two-sided; by Holm's correction for their number"
        lines.append(f"difference of micro-F1, and p-values ({told}):")
    lines += [
        f"  {show_interval(pair)}  p {pair['p_value']:.4f}, corrected {pair['p_holm']:.4f}  "
        f"{pair['a']} - {pair['b']}"
        for pair in pairs
    ]
    return "\n".join(lines)


def draw_report(
    path: Path,
    systems: Sequence[System],
    gold: dict[str, np.ndarray],
    comparisons: dict[str, dict[str, Any]],
    labels: Sequence[str],
) -> None:
    """Draw F1 of each label with intervals, micro-F1 against the threshold, training curves.

    The eight emotions are named in Korean too where a font for it is installed.

    Args:
        gold, comparisons: by labelled split.
    """
    import matplotlib
    from matplotlib.figure import Figure

    font = korean_font()
    shown = [
        f"{name}\n{KOREAN.get(name, '')}" if font else name if name.isascii() else f"label {n}"
        for n, name in enumerate(labels, start=1)
    ]
    names = [
        each.name if font or each.name.isascii() else f"run {n}"
        for n, each in enumerate(systems, start=1)
    ]
    curves = any(system.history for system in systems)
    fonts = [font, "DejaVu Sans"] if font else ["DejaVu Sans"]
    with matplotlib.rc_context({"font.family": fonts}):
        rows = len(gold) + curves
        figure = Figure(figsize=(14, 4.5 * rows), layout="constrained")
        panels = figure.subplots(rows, 2, squeeze=False, width_ratios=(3, 2))
        for (bars, curve), (split, values) in zip(panels, gold.items(), strict=False):
            draw_labels(bars, split, shown, comparisons[split])
            draw_thresholds(curve, split, systems, values)
        if curves:
            draw_history(panels[-1], systems)
        handles = panels[0][0].get_legend_handles_labels()[0]
        columns = min(3, len(names))
        figure.legend(handles, names, loc="outside lower center", ncols=columns)
        figure.savefig(path, dpi=120, format="png")


def korean_font() -> str | None:
    """The name of an installed font that has Hangul, or None."""
    from matplotlib.font_manager import fontManager

    installed = {font.name for font in fontManager.ttflist}
    return next((name for name in KOREAN_FONTS if name in installed), None)


def draw_labels(axes: Any, split: str, shown: Sequence[str], comparison: dict[str, Any]) -> None:
    """F1 of each label with its interval, a mark for each system."""
    systems = comparison["systems"].values()
    for index, figures in enumerate(systems):
        per_label = [list(figure.values()) for figure in figures["per_emotion"].values()]
        values, low, high = np.array(per_label).T
        place = np.arange(len(shown)) + 0.7 * ((index + 0.5) / len(systems) - 0.5)
        error = (values - low, high - values)
        axes.errorbar(place, values, error, fmt="o", markersize=4, label=str(index))
    axes.set_xticks(range(len(shown)), shown)
    axes.set(title=f"{split}: F1 of each emotion, 95 % intervals", ylabel="F1", ylim=(0, 1))
    axes.grid(axis="y", alpha=0.3)


def draw_thresholds(axes: Any, split: str, systems: Sequence[System], gold: np.ndarray) -> None:
    """Micro-F1 against the threshold, a line for each system."""
    thresholds = np.linspace(0.02, 0.98, 49)
    for system in systems:
        decisions = (utils.decide(system.scores[split], value) for value in thresholds)
        axes.plot(thresholds, [utils.micro_f1(gold, each) for each in decisions])
    title = f"{split}: micro-F1 against the threshold"
    axes.set(title=title, xlabel="threshold", ylabel="micro-F1")
    axes.grid(alpha=0.3)


def draw_history(panels: Any, systems: Sequence[System]) -> None:
    """Training loss and dev micro-F1 by epoch, a line for each system."""
    losses, scores = panels
    for system in systems:
        for axes, name, mark in ((losses, "loss", "-"), (scores, "micro_f1", "o-")):
            logged = [(each["epoch"], each[name]) for each in system.history if name in each]
            # an empty line keeps the colours in step
            axes.plot(*zip(*logged, strict=True) if logged else ([], []), mark)
    losses.set(title="training loss", xlabel="epoch", yscale="log")
    title = "dev: micro-F1 at the threshold that serves the epoch best"
    scores.set(title=title, xlabel="epoch")
    for axes in (losses, scores):
        axes.grid(alpha=0.3)
