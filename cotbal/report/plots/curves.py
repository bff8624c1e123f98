"""Training loss per task over the steps of a unit: one small panel per task, the same units in each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullFormatter

from cotbal.report.plots.labels import Floats, short
from cotbal.report.plots.palette import Look
from cotbal.report.plots.svg import MUTED, Picture, drawing, picture

_POINTS = 160  # drawn per line at most; neighbours are averaged beyond
_TREND_FROM = 40  # points: from here on a running mean is drawn over the faint raw line
_LEFT, _TOP, _BOTTOM, _GAP, _PANEL_HEIGHT = 0.75, 0.65, 0.52, 0.5, 1.2  # inches
_LOG_FROM = 15.0  # ratio of the largest to the smallest loss in a panel


@dataclass(frozen=True)
class Line:
    """The loss of one task in one unit.

    Attributes:
        task: the panel it belongs to.
        look: key into the looks handed to `curves_plot`.
        steps: [K] optimizer steps, ascending. losses: [K] mean loss per supervised token, NaN where not logged.
    """

    task: str
    look: str
    steps: Floats
    losses: Floats


def curves_plot(
    name: str,
    title: str,
    tasks: Sequence[str],
    lines: Sequence[Line],
    looks: Mapping[str, Look],
    caption: str,
) -> Picture:
    """Panels in rows of at most four, each with its own loss axis (logarithmic where the losses span far)."""
    columns = min(len(tasks), 4 if len(tasks) > 6 else 3)
    depth = ceil(len(tasks) / columns)
    names = short(tasks, 30 if columns < 4 else 26)
    panel = {1: 4.2, 2: 3.1, 3: 2.4, 4: 1.95}[columns]
    width = _LEFT + columns * panel + (columns - 1) * _GAP + 0.15
    height = _TOP + depth * _PANEL_HEIGHT + (depth - 1) * _GAP + _BOTTOM
    with drawing(name):
        # Placed by hand: letting matplotlib find room for twenty panels takes it as long as drawing them.
        figure = Figure(figsize=(width, height))
        smoothed = False
        first: Axes | None = None
        for place, task in enumerate(tasks):
            row, column = divmod(place, columns)
            left = _LEFT + column * (panel + _GAP)
            bottom = height - _TOP - row * (_PANEL_HEIGHT + _GAP) - _PANEL_HEIGHT
            box = (left / width, bottom / height, panel / width, _PANEL_HEIGHT / height)
            axes = figure.add_axes(box, sharex=first)
            first = first or axes
            mine = [line for line in lines if line.task == task]
            for line in sorted(mine, key=lambda line: -list(looks).index(line.look)):
                smoothed |= _draw(axes, line, looks[line.look])
            _axes(axes, mine)
            axes.text(0, 1.05, names[place], transform=axes.transAxes, fontsize=9.5)
            axes.tick_params(labelbottom=place + columns >= len(tasks))
        middle = (_LEFT + width - 0.15) / 2 / width
        figure.text(middle, 0.1 / height, "optimizer step", ha="center", color=MUTED)
        figure.text(
            0.1 / width,
            (height - _TOP + _BOTTOM) / 2 / height,
            "loss per supervised token",
            rotation=90,
            rotation_mode="anchor",
            ha="center",
            va="top",
            color=MUTED,
        )
        shown = [look for key, look in looks.items() if any(line.look == key for line in lines)]
        handles = [
            Line2D([], [], color=look.colour, linestyle=look.line, linewidth=1.8, label=look.label)
            for look in shown
        ]
        figure.legend(
            handles=handles,
            loc="upper left",
            bbox_to_anchor=(0, 1),
            ncols=min(len(handles), 6),
            handlelength=2.6,
            borderaxespad=0.3,
        )
        note = " Faint lines are the logged values, strong ones their running mean." if smoothed else ""
        return picture(
            figure, name=name, title=title, alt=_alt(title, tasks, lines, looks), caption=caption + note
        )


def _draw(axes: Axes, line: Line, look: Look) -> bool:
    known = np.isfinite(line.losses)
    background = look.marker == ""
    steps, losses = _thin(line.steps[known], line.losses[known], _POINTS // 3 if background else _POINTS)
    style: dict[str, Any] = {"color": look.colour, "linestyle": look.line, "dash_capstyle": "butt"}
    if background:
        axes.plot(steps, losses, linewidth=0.8, alpha=0.35, zorder=1.8, **style)
        return False
    if len(steps) < _TREND_FROM:
        axes.plot(steps, losses, linewidth=1.5, zorder=2.2, **style)
        if len(steps) == 1:
            axes.plot(steps, losses, look.marker, color=look.colour, markersize=4)
        return False
    axes.plot(steps, losses, linewidth=0.7, alpha=0.3, color=look.colour, zorder=2)
    axes.plot(steps, _running_mean(losses, len(losses) // 12), linewidth=1.6, zorder=2.3, **style)
    return True


def _thin(steps: Floats, losses: Floats, most: int) -> tuple[Floats, Floats]:
    """Means of equal groups of neighbours, at most `most` of them."""
    if len(steps) <= most:
        return steps, losses
    groups = np.array_split(np.arange(len(steps)), most)
    return np.array([steps[group].mean() for group in groups]), np.array(
        [losses[group].mean() for group in groups]
    )


def _running_mean(values: Floats, reach: int) -> Floats:
    """Mean over the neighbours up to `reach` on either side.

    At the start, where losses fall fast, as many on the right as there are on the left; at the end, where they are
    flat and noisy, as many on the left as anywhere.
    """
    total = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    left = np.minimum(reach, places)
    right = np.minimum(left, len(values) - 1 - places)
    return np.asarray((total[places + right + 1] - total[places - left]) / (left + right + 1))


def _axes(axes: Axes, lines: Sequence[Line]) -> None:
    axes.grid(axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    axes.tick_params(length=0, labelsize=8, labelcolor=MUTED)
    values = np.concatenate([line.losses[np.isfinite(line.losses)] for line in lines] or [np.empty(0)])
    if values.size == 0:
        axes.text(
            0.5, 0.5, "no values logged", transform=axes.transAxes, ha="center", va="center", color=MUTED
        )
        axes.set_yticks([])
        return
    if values.min() > 0 and values.max() / values.min() > _LOG_FROM:
        axes.set_yscale("log")
        axes.minorticks_off()
        low, high = np.log10(values.min()), np.log10(values.max())
        candidates = [m * 10.0**e for e in range(int(low) - 2, int(high) + 2) for m in (1, 3)]
        axes.set_yticks([tick for tick in candidates if 0.8 * values.min() <= tick <= 1.25 * values.max()])
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(nbins=4))


def _alt(title: str, tasks: Sequence[str], lines: Sequence[Line], looks: Mapping[str, Look]) -> str:
    parts = []
    for task in tasks:
        ends = []
        for key, look in looks.items():
            last = [
                line.losses[np.isfinite(line.losses)][-1:]
                for line in lines
                if (line.task, line.look) == (task, key)
            ]
            values = np.concatenate(last) if last else np.empty(0)
            if values.size and look.marker:
                ends.append(f"{look.label} {values.mean():.3g}")
        if ends:
            parts.append(f"{task}: {', '.join(ends)}")
    return (
        f"{title}, one panel per task. Last losses: {'; '.join(parts)}."
        if parts
        else f"{title}: nothing logged."
    )
