"""Compare strategies on the test sets: dI and dE by seed, and the change on every task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cotbal.report.plots.labels import Floats, mark_reference, rows, short, write_undefined
from cotbal.report.plots.palette import Look
from cotbal.report.plots.svg import PAPER, Picture, drawing, picture


@dataclass(frozen=True)
class Series:
    """One strategy's results.

    Attributes:
        look: how it is drawn and named.
        changes: [S, N] percent, the change of each task's test score against the reference, by seed.
        improvement, error: [S] percent, dI and dE by seed.
    """

    look: Look
    changes: Floats
    improvement: Floats
    error: Floats


def summary_plot(series: Sequence[Series], reference: str) -> Picture:
    """Plot dI (more is better) and dE (less is better): one row per strategy, a small dot per seed, a large mean."""
    labels = [one.look.label for one in series]
    with drawing("summary"):
        label_width = 0.08 * max(len(text) for text in labels) + 0.2
        figure = Figure(figsize=(label_width + 6.6, 0.36 * len(series) + 0.75), layout="constrained")
        panels = figure.subplots(1, 2, width_ratios=(1.25, 1))
        for axes, title, pick in (
            (panels[0], "dI, mean improvement in % (more is better)", "improvement"),
            (panels[1], "dE, mean loss in % (less is better)", "error"),
        ):
            heights = rows(axes, labels, labelled=axes is panels[0])
            means = []
            for height, one in zip(heights, series, strict=True):
                values = getattr(one, pick)
                means.append(_dots(axes, values, float(height), one.look))
            axes.set_title(title, loc="left")
            mark_reference(axes, 0.0)
            low, high = axes.get_xlim()
            reach = max(high, 1.0)
            low = min(low, -0.02 * reach)
            end = reach + 0.24 * (reach - low)
            for height, mean in zip(heights, means, strict=True):
                axes.text(
                    end,
                    height,
                    _signed(mean, sign=pick == "improvement"),
                    ha="right",
                    va="center",
                    fontsize=8.5,
                )
            axes.set_xlim(low, reach)
            ticks = [tick for tick in axes.get_xticks() if low <= tick <= reach]
            axes.set_xlim(low, end)
            axes.set_xticks(ticks)
        return picture(
            figure,
            name="summary",
            title=f"Improvement and error against {reference}",
            alt="; ".join(
                f"{one.look.label}: dI {_signed(_mean(one.improvement))}, dE {_signed(_mean(one.error), sign=False)}"
                for one in series
            )
            + f" (percent against {reference}, mean over seeds).",
            caption="Small marks are seeds, large ones their mean.",
        )


def changes_plot(tasks: Sequence[str], series: Sequence[Series], reference: str) -> Picture:
    """Plot each task's change against the reference in percent: small marks per seed, large marks for the mean."""
    with drawing("changes"):
        label_width = 0.075 * max(len(name) for name in short(tasks)) + 0.2
        each = 0.17 * max(2, len(series))
        figure = Figure(figsize=(label_width + 6.6, each * len(tasks) + 0.95), layout="constrained")
        axes = figure.subplots()
        heights = rows(axes, tasks)
        limit = _limit(series)
        known = np.any([np.isfinite(one.changes).any(axis=0) for one in series], axis=0)
        for height in heights[~known]:
            write_undefined(axes, float(height))
        for place, one in enumerate(series):
            shift = 0.72 * ((place + 0.5) / len(series) - 0.5)
            for height, values in zip(heights[known], one.changes.T[known], strict=True):
                _dots(axes, values, float(height) + shift, one.look, limit)
        mark_reference(axes, 0.0, reference)
        low, high = axes.get_xlim()
        axes.set_xlim(min(low, -1.0), max(high, 1.0))
        if limit is not None:
            axes.set_xlim(max(low, -1.22 * limit), min(high, 1.22 * limit))
        axes.set_xlabel(f"change of the test score against {reference}, in % (right is better)")
        handles = [
            Line2D(
                [],
                [],
                linestyle="none",
                marker=one.look.marker,
                color=one.look.colour,
                label=one.look.label,
                markersize=7,
            )
            for one in series
        ]
        figure.legend(handles=handles, loc="outside upper left", ncols=6, handletextpad=0.2)
        caption = "Small marks are seeds, large ones their mean."
        if limit is not None:
            caption += " Values beyond the edge are written out there."
        return picture(
            figure,
            name="changes",
            title=f"Test scores against {reference}, task by task",
            alt=_changes_alt(tasks, series, reference),
            caption=caption,
        )


def _dots(axes: Axes, values: Floats, height: float, look: Look, limit: float | None = None) -> float:
    known = values[np.isfinite(values)]
    mean = _mean(values)
    if known.size == 0:
        write_undefined(axes, height)
        return mean
    inside = known if limit is None else known[np.abs(known) <= limit]
    if inside.size > 1:
        axes.hlines(height, inside.min(), inside.max(), color=look.colour, linewidth=1.0, alpha=0.7)
    if known.size > 1:
        axes.plot(
            inside, np.full(inside.shape, height), look.marker, color=look.colour, markersize=3.6, alpha=0.75
        )
    if limit is not None and abs(mean) > limit:
        at = float(np.copysign(limit * 1.04, mean))
        axes.plot(at, height, ">" if mean > 0 else "<", color=look.colour, markersize=6)
        axes.annotate(
            _signed(mean, digits=0),
            (at, height),
            xytext=(6 if mean > 0 else -6, 0),
            textcoords="offset points",
            ha="left" if mean > 0 else "right",
            va="center",
            fontsize=8,
        )
        return mean
    axes.plot(
        mean,
        height,
        look.marker,
        color=look.colour,
        markersize=7.5,
        markeredgecolor=PAPER,
        markeredgewidth=0.7,
        zorder=3,
    )
    return mean


def _limit(series: Sequence[Series]) -> float | None:
    """Return where to cut the axis so that one enormous change does not flatten the others, or None."""
    sizes = np.abs(np.concatenate([one.changes.ravel() for one in series]))
    sizes = sizes[np.isfinite(sizes)]
    if sizes.size == 0:
        return None
    limit = max(10.0, 5 * float(np.median(sizes)))
    return float(sizes[sizes <= limit].max(initial=1.0)) if sizes.max() > 1.5 * limit else None


def _mean(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")


def _signed(value: float, *, sign: bool = True, digits: int = 2) -> str:
    if not np.isfinite(value):
        return "undefined"
    text = f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"
    return text.replace("-", "−")


def _changes_alt(tasks: Sequence[str], series: Sequence[Series], reference: str) -> str:
    lines = []
    for place, task in enumerate(tasks):
        values = ", ".join(f"{one.look.label} {_signed(_mean(one.changes[:, place]))}" for one in series)
        lines.append(f"{task}: {values}")
    return f"Change of each task's test score against {reference} in percent, mean over seeds. {'; '.join(lines)}."
