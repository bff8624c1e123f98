"""Tasks to which contributions cannot be measured: why, and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cotbal.method.arrays import FloatArray
from cotbal.method.scores import ScoreTable

__all__ = [
    "UndefinedColumn",
    "UndefinedContributionsWarning",
    "advice",
    "undefined_column",
    "undefined_in_some",
]


class UndefinedContributionsWarning(UserWarning):
    """Contributions to a task could not be measured; its inward weight falls back to 1."""


@dataclass(frozen=True)
class UndefinedColumn:
    """A task to which contributions cannot be measured, with the numbers behind it.

    `interval` is the bootstrap interval of its gain, or None where only means are known. `seeds` are those whose
    preparations could not measure it; empty where there was one preparation.
    """

    task: str
    mini: float
    plus: float
    interval: tuple[float, float] | None
    reason: str
    seeds: tuple[int, ...] = ()


def undefined_in_some(
    seeds: tuple[int, ...], parts: Sequence[Sequence[UndefinedColumn]]
) -> tuple[UndefinedColumn, ...]:
    """The tasks that some preparation could not measure: the first such reason, and all such seeds."""
    found: dict[str, list[tuple[int, UndefinedColumn]]] = {}
    for seed, part in zip(seeds, parts, strict=True):
        for lost in part:
            found.setdefault(lost.task, []).append((seed, lost))
    return tuple(
        replace(columns[0][1], seeds=tuple(seed for seed, _ in columns)) for columns in found.values()
    )


def undefined_column(scores: ScoreTable, j: int, interval: FloatArray, confidence: float) -> UndefinedColumn:
    """Say why contributions to the j-th task are undefined; `interval` is that of its gain, NaN if unknown."""
    task = scores.tasks[j]
    if np.isnan(interval[0]):
        bounds, reason = None, "its own full training did not improve it"
    else:
        bounds = (float(interval[0]), float(interval[1]))
        reason = (
            f"the {confidence:.0%} interval of the improvement from its own full training, "
            f"[{bounds[0]:.4g}, {bounds[1]:.4g}], reaches 0"
        )
        if bounds[1] < 0:
            reason = f"its own full training made it worse, by [{-bounds[1]:.4g}, {-bounds[0]:.4g}]"
    return UndefinedColumn(task, float(scores.mini[j]), float(scores.plus[j, j]), bounds, reason)


def advice(lost: UndefinedColumn, seeds: tuple[int, ...]) -> str:
    """What a warning says of an undefined column, and what to do; `seeds` are those of all preparations."""
    where = there = ""
    if seeds:
        where = (
            f" with seed {lost.seeds[0]}" if len(lost.seeds) == 1 else f" with seeds {_listed(lost.seeds)}"
        )
        where += f" (of {_listed(seeds)})"
        there = "There, its" if len(lost.seeds) < len(seeds) else ""
    return (
        f"contributions to task {lost.task!r} are undefined{where}: {lost.reason} (V[mini] {lost.mini:.6g}, "
        f"V[plus_{lost.task}] {lost.plus:.6g}). {there or 'Its'} inward weight is 1 and it is left out of the other "
        "tasks' outward contributions. Give it more validation samples, a larger step from the mini to the full "
        "subset, or another metric"
    )


def _listed(seeds: tuple[int, ...]) -> str:
    return ", ".join(map(str, seeds))
