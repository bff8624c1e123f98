"""Plot the weights and their components."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cotbal.report.plots.labels import Floats, mark_reference, rows, short, whiskers, write_undefined
from cotbal.report.plots.palette import GREEN, ORANGE, PURPLE
from cotbal.report.plots.svg import BLUE, PAPER, Picture, drawing, picture

_TERMS = (("outward", "^", GREEN), ("inward", "v", PURPLE), ("difficulty", "D", ORANGE))
_SIZES = {"^": 7.5, "v": 7.5, "D": 6.0}  # of equal visual weight


@dataclass(frozen=True)
class Estimate:
    """One number per task, with the bounds of its interval where there is one.

    Attributes:
        values: [N] float64, NaN where undefined.
        lower, upper: [N] float64 with NaN where there is no interval, or None.
    """

    values: Floats
    lower: Floats | None = None
    upper: Floats | None = None


def weights_plot(tasks: Sequence[str], weights: Estimate, terms: dict[str, Estimate]) -> Picture:
    """Plot the final weights as bars from 0 (left), and the three terms that they average (right).

    Args:
        tasks: N names.
        weights: [N].
        terms: `"outward"`, `"inward"`, `"difficulty"` to [N]; an absent one is left out.
    """
    with drawing("weights"):
        figure, (left, right) = _two_panels(tasks)
        heights = rows(left, tasks)
        left.barh(heights, weights.values, height=0.58, color=BLUE, zorder=2)
        whiskers(left, heights, weights.lower, weights.upper)
        reach = max(1.2, float(np.max(_furthest(weights))))
        for height, value in zip(heights, weights.values, strict=True):
            left.text(1.2 * reach, height, f"{value:.3f}", ha="right", va="center", fontsize=8.5)
        left.set_xlim(0, 1.2 * reach)
        left.set_xticks([tick for tick in left.get_xticks() if tick <= 1.02 * reach])
        left.set_xlabel("final weight")
        mark_reference(left, 1.0, "equal weights")

        rows(right, tasks, labelled=False)
        shown = [(name, marker, colour) for name, marker, colour in _TERMS if name in terms]
        for place, (name, marker, colour) in enumerate(shown):
            shifted = heights + 0.24 * (place - (len(shown) - 1) / 2)
            term = terms[name]
            whiskers(right, shifted, term.lower, term.upper, colour)
            right.plot(
                term.values,
                shifted,
                marker,
                color=colour,
                markersize=_SIZES[marker],
                markeredgecolor=PAPER,
                markeredgewidth=0.6,
            )
        mark_reference(right, 1.0)
        right.set_xlim(left=min(0.0, right.get_xlim()[0]))
        right.set_xlabel("term")
        _legend(right, shown)
        return picture(
            figure,
            name="weights",
            title="Task weights",
            alt=_weights_alt(tasks, weights.values),
            caption="Left: the weight of each of a task's supervised tokens in the loss; the line at 1 is equal "
            "weighting. Right: its three terms; the weight averages the difficulty term and the mean of the other "
            "two." + _interval_note(weights, *terms.values()),
        )


def measures_plot(tasks: Sequence[str], outward: Estimate, inward: Estimate, difficulty: Estimate) -> Picture:
    """Plot panels with one row per task: mean outward contribution, mean inward contribution, difficulty.

    A single task has no contributions, and only the last panel.
    """
    count = len(tasks)
    measures = [
        ("outward contribution", outward, _TERMS[0]),
        ("inward contribution", inward, _TERMS[1]),
        ("difficulty", difficulty, _TERMS[2]),
    ][0 if count > 1 else 2 :]
    with drawing("measures"):
        label_width = 0.075 * max(len(name) for name in short(tasks)) + 0.2
        figure = Figure(figsize=(label_width + 2.2 * len(measures), _height(count)), layout="constrained")
        panels = figure.subplots(1, len(measures), squeeze=False)[0]
        for place, (axes, (title, estimate, (_, marker, colour))) in enumerate(
            zip(panels, measures, strict=True)
        ):
            heights = rows(axes, tasks, labelled=place == 0)
            whiskers(axes, heights, estimate.lower, estimate.upper, colour)
            known = np.isfinite(estimate.values)
            axes.hlines(heights[known], 0, estimate.values[known], color=colour, linewidth=2.2, alpha=0.45)
            axes.plot(
                estimate.values,
                heights,
                marker,
                color=colour,
                markersize=_SIZES[marker],
                markeredgecolor=PAPER,
                markeredgewidth=0.6,
            )
            for height in heights[~known]:
                write_undefined(axes, float(height))
            mark_reference(axes, 0.0)
            axes.set_title(title, loc="left")
        # Both kinds of contribution share one scale, so that they compare at a glance.
        for group in (panels[:-1], panels[-1:]):
            limits = [axes.get_xlim() for axes in group]
            for axes in group:
                axes.set_xlim(
                    min(-0.02, *(low for low, _ in limits)), max(0.25, *(high for _, high in limits))
                )
        return picture(
            figure,
            name="measures",
            title="Components of the weights",
            alt=_measures_alt(tasks, outward.values, inward.values, difficulty.values),
            caption="Outward: what a task gives to the others, on average. Inward: what it gets from them. "
            "Difficulty: the share of its own score that a small subset of its data does not reach. A task weighs "
            "more if it gives more, gets less or is harder." + _interval_note(outward, inward, difficulty),
        )


def _two_panels(tasks: Sequence[str]) -> tuple[Figure, tuple[Axes, Axes]]:
    label_width = 0.075 * max(len(name) for name in short(tasks)) + 0.2
    figure = Figure(figsize=(label_width + 6.6, _height(len(tasks)) + 0.3), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
    return figure, (left, right)


def _height(count: int) -> float:
    return 0.34 * count + 0.85


def _furthest(estimate: Estimate) -> Floats:
    if estimate.upper is None:
        return estimate.values
    return np.fmax(estimate.values, estimate.upper)


def _legend(axes: Axes, entries: Sequence[tuple[str, str, str]]) -> None:
    handles = [
        Line2D(
            [],
            [],
            linestyle="none",
            marker=marker,
            color=colour,
            markersize=_SIZES[marker],
            label=f"{name} term",
            markeredgecolor=PAPER,
        )
        for name, marker, colour in entries
    ]
    axes.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(-0.03, 1.0),
        ncols=3,
        handletextpad=0.1,
        columnspacing=0.9,
    )


def _interval_note(*estimates: Estimate) -> str:
    if any(estimate.lower is not None and np.isfinite(estimate.lower).any() for estimate in estimates):
        return " Whiskers are bootstrap intervals over the validation samples."
    return ""


def _weights_alt(tasks: Sequence[str], weights: Floats) -> str:
    pairs = ", ".join(f"{task} {weight:.3f}" for task, weight in zip(tasks, weights, strict=True))
    return f"Bar chart of the task weights: {pairs}."


def _measures_alt(tasks: Sequence[str], outward: Floats, inward: Floats, difficulty: Floats) -> str:
    def say(value: float) -> str:
        return f"{value:.2f}" if np.isfinite(value) else "undefined"

    lines = "; ".join(
        f"{task} {say(o)}, {say(i)}, {say(d)}"
        for task, o, i, d in zip(tasks, outward, inward, difficulty, strict=True)
    )
    return f"Outward contribution, inward contribution and difficulty of each task: {lines}."
