"""Shorten task names for a picture; the tables beside it have them in full."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from cotbal.report.plots.svg import GRID, INK, MUTED

Floats = NDArray[np.float64]


def short(names: Sequence[str], limit: int = 26) -> tuple[str, ...]:
    """Cut each name in its middle to `limit` characters, unless two would then read the same.

    >>> short(["caption", "visual-question-answering-on-charts"], limit=17)
    ('caption', 'visual-q…n-charts')
    """
    cut = tuple(_cut(name, limit) for name in names)
    return cut if len(set(cut)) == len(set(names)) else tuple(names)


def _cut(name: str, limit: int) -> str:
    if len(name) <= limit:
        return name
    left = limit // 2
    return f"{name[:left]}…{name[len(name) - (limit - left - 1) :]}"


def rows(axes: Axes, names: Sequence[str], *, labelled: bool = True) -> Floats:
    """Turn `axes` into one row per name, the first on top, and return the rows' heights."""
    heights = np.arange(len(names), dtype=np.float64)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(heights, short(names) if labelled else [""] * len(names))
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    if len(names) > 1:
        axes.hlines(heights[:-1] + 0.5, 0, 1, transform=axes.get_yaxis_transform(), color=GRID, linewidth=0.4)
    return heights


def mark_reference(axes: Axes, at: float, text: str = "") -> None:
    """Draw a thin vertical line at the reference value, with its name above the axes."""
    axes.axvline(at, color=MUTED, linewidth=0.9, zorder=1.5)
    if text:
        axes.annotate(
            text,
            (at, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=8,
            color=MUTED,
        )


def whiskers(
    axes: Axes, heights: Floats, lower: Floats | None, upper: Floats | None, colour: str = INK
) -> None:
    """Draw intervals as thin lines with end strokes; rows without an interval get none."""
    if lower is None or upper is None:
        return
    known = np.isfinite(lower) & np.isfinite(upper)
    axes.hlines(heights[known], lower[known], upper[known], color=colour, linewidth=1.1, zorder=2.5)
    for ends in (lower, upper):
        axes.plot(
            ends[known], heights[known], "|", color=colour, markersize=5, markeredgewidth=1.1, zorder=2.5
        )


def write_undefined(axes: Axes, height: float, at: float = 0.0) -> None:
    """Write the word itself in place of a mark."""
    axes.annotate(
        "undefined",
        (at, height),
        xytext=(5, 0),
        textcoords="offset points",
        va="center",
        fontsize=8,
        color=MUTED,
        style="italic",
    )
