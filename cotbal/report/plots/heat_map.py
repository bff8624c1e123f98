"""The inter-task contributions C as a map that reads by row, by column and by number."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cotbal.report.plots.labels import Floats, short
from cotbal.report.plots.palette import DIVERGING
from cotbal.report.plots.svg import GRID, INK, MUTED, Picture, drawing, picture

_NUMBERS_UP_TO = 26  # tasks: with more, the cells are too small for figures


def contribution_heat_map(
    tasks: Sequence[str],
    contributions: Floats,
    outward: Floats,
    inward: Floats,
    *,
    lower: Floats | None = None,
    upper: Floats | None = None,
) -> Picture:
    """Plot C[i, j] with row and column means; undefined entries hatched, entries whose interval excludes 0 bold.

    Args:
        tasks: N names.
        contributions: [N, N] float64, NaN on the diagonal and where undefined.
        outward: [N] row means; inward: [N] column means (NaN where undefined).
        lower, upper: [N, N] bounds of the intervals, NaN where there is none.
    """
    count = len(tasks)
    names = short(tasks, 24)
    # The means stand apart: a gap of a third of a cell after the last row and column.
    means_at = count + 0.35
    extent = means_at + 1.0
    cell = 0.52 if count <= 6 else 0.47 if count <= 14 else 0.41 if count <= _NUMBERS_UP_TO else 0.24
    label_width = 0.075 * max(len(name) for name in (*names, "mean (inward)")) + 0.25
    top = 0.66 * (label_width - 0.25) + 0.3  # column labels lean at 45 degrees
    bottom = 0.75
    slant = max(0.2, 0.6 * label_width - 0.35)
    side = max(cell * extent, 3.4)
    cell = side / extent
    width, height = label_width + side + slant, top + side + bottom

    values = contributions[np.isfinite(contributions)]
    largest = float(np.max(np.abs(values))) if values.size else 0.0
    reach = next((step for step in (0.25, 0.5) if largest <= step), 1.0)
    norm = Normalize(-reach, reach)
    signed = _excludes_zero(contributions, lower, upper)
    text_size = 8.5 if cell >= 0.45 else 7.4

    with drawing("contributions"):
        figure = Figure(figsize=(width, height))
        axes = figure.add_axes((label_width / width, bottom / height, side / width, side / height))
        axes.set(xlim=(0, extent), ylim=(extent, 0))
        axes.grid(False)
        for spine in axes.spines.values():
            spine.set_visible(False)

        def cell_at(x: float, y: float, value: float, *, bold: bool = False, own: bool = False) -> None:
            face: Any
            if own:
                face, edge, hatch = GRID, "none", None
            elif np.isfinite(value):
                face, edge, hatch = DIVERGING(norm(value)), "none", None
            else:
                face, edge, hatch = "none", MUTED, "////"
            axes.add_patch(
                Rectangle(
                    (x + 0.03, y + 0.03), 0.94, 0.94, facecolor=face, edgecolor=edge, hatch=hatch, linewidth=0
                )
            )
            if own or not np.isfinite(value) or count > _NUMBERS_UP_TO:
                return
            axes.text(
                x + 0.5,
                y + 0.5,
                _number(value),
                ha="center",
                va="center_baseline",
                fontsize=text_size,
                fontweight="bold" if bold else "normal",
                color=_on(DIVERGING(norm(value))),
            )

        for i in range(count):
            for j in range(count):
                cell_at(j, i, float(contributions[i, j]), bold=bool(signed[i, j]), own=i == j)
            cell_at(means_at, i, float(outward[i]))
            cell_at(i, means_at, float(inward[i]))

        places = [*(np.arange(count) + 0.5), means_at + 0.5]
        axes.xaxis.tick_top()
        axes.set_xticks(places, [*names, "mean (outward)"], rotation=45, ha="left", rotation_mode="anchor")
        axes.set_yticks(places, [*names, "mean (inward)"])
        axes.tick_params(length=0, pad=4, labelsize=8.5 if count <= 14 else 8)
        for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
            for text in labels:
                text.set_color(INK)
            labels[-1].set_color(MUTED)
            labels[-1].set_fontstyle("italic")

        axes.annotate(
            "from ↓ to →",
            (0, 0),
            xytext=(-4, 7),
            textcoords="offset points",
            ha="right",
            fontsize=8,
            color=MUTED,
        )
        _colour_bar(
            figure, label_width / width, 0.36 / height, min(2.6, side) / width, 0.11 / height, reach, largest
        )
        undefined = bool(np.isnan(contributions[~np.eye(count, dtype=bool)]).any())
        if undefined:
            x = (label_width + min(2.6, side) + 0.3) / width
            figure.add_artist(
                Rectangle(
                    (x, 0.36 / height),
                    0.2 / width,
                    0.14 / height,
                    facecolor="none",
                    edgecolor=MUTED,
                    hatch="////",
                    linewidth=0,
                )
            )
            figure.text(x + 0.28 / width, 0.43 / height, "undefined", va="center", fontsize=8, color=MUTED)
        return picture(
            figure,
            name="contributions",
            title="Contribution of each task to the others",
            alt=_alt(tasks, contributions),
            caption=_caption(undefined, largest > reach, bool(signed.any())),
        )


def _colour_bar(
    figure: Figure, x: float, y: float, width: float, height: float, reach: float, largest: float
) -> None:
    bar = figure.add_axes((x, y, width, height))
    edges = np.linspace(-reach, reach, DIVERGING.N + 1)
    for left, right in pairwise(edges):
        # A hair wider than its share, so that no seam shows between neighbours.
        bar.add_patch(
            Rectangle(
                (left, 0),
                (right - left) * 1.12,
                1,
                facecolor=DIVERGING((left + reach) / (2 * reach) + 0.5 / DIVERGING.N),
                linewidth=0,
            )
        )
    bar.set(xlim=(-reach, reach), ylim=(0, 1), yticks=[])
    less, more = ("≤ ", "≥ ") if largest > reach else ("", "")
    bar.set_xticks(
        [-reach, -reach / 2, 0, reach / 2, reach],
        [f"{less}−{reach:g}", f"−{reach / 2:g}", "0", f"{reach / 2:g}", f"{more}{reach:g}"],
    )
    bar.tick_params(length=2, labelsize=8)
    for spine in bar.spines.values():
        spine.set_visible(False)


def _excludes_zero(values: Floats, lower: Floats | None, upper: Floats | None) -> np.ndarray:
    if lower is None or upper is None:
        return np.zeros(values.shape, dtype=bool)
    with np.errstate(invalid="ignore"):
        return np.isfinite(values) & ((lower > 0) | (upper < 0))


def _number(value: float) -> str:
    text = f"{value:.2f}" if abs(value) < 10 else f"{value:.0f}"
    return text.replace("-", "−") if float(text) else text.replace("-", "")


def _on(colour: tuple[float, float, float, float]) -> str:
    """Return black or white, whichever is more legible on `colour` (relative luminance, WCAG 2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#ffffff" if 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.05 else "#101418"


def _caption(undefined: bool, clipped: bool, signed: bool) -> str:
    parts = [
        "Row i, column j: the gain of task j from all of task i's data, as a share of its gain from all of its own "
        "data. 1 is as good as its own data, 0 is no help, below 0 is harm."
    ]
    if signed:
        parts.append("Bold: the interval excludes 0.")
    if undefined:
        parts.append("Hatched: undefined, because the task gained nothing measurable from its own data.")
    if clipped:
        parts.append("Colours stop at the ends of the scale; the figures in the cells do not.")
    return " ".join(parts)


def _alt(tasks: Sequence[str], contributions: Floats) -> str:
    count = len(tasks)
    text = f"Heat map of the contributions of {count} tasks to one another."
    if not np.isfinite(contributions).any():
        return f"{text} No entry is defined."
    highest = divmod(int(np.nanargmax(contributions)), count)
    lowest = divmod(int(np.nanargmin(contributions)), count)
    undefined = int(np.isnan(contributions).sum()) - count
    return (
        f"{text} Highest: {tasks[highest[0]]} to {tasks[highest[1]]}, {_number(float(contributions[highest]))}. "
        f"Lowest: {tasks[lowest[0]]} to {tasks[lowest[1]]}, {_number(float(contributions[lowest]))}. "
        f"{undefined} entries are undefined."
    )
