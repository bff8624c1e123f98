"""Paired bootstrap over validation samples, by group, vectorised."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cotbal.method.arrays import BoolArray, FloatArray, Labels
from cotbal.method.scores import ScoreTable
from cotbal.tasks import MINI, plus_model

# Entries of the matrix of draw counts in memory at once: 8 bytes each, and three times that while it is made.
_COUNTS_AT_ONCE = 1 << 21


def generator(seed: int, task: str) -> np.random.Generator:
    """Return the generator of one task's validation set; it does not depend on the task's position in the list."""
    name = int.from_bytes(hashlib.sha256(task.encode()).digest()[:8], "little")
    return np.random.default_rng([seed, name])


def group_sums(rows: FloatArray, labels: Labels | None) -> tuple[FloatArray, FloatArray]:
    """Return the sums of `rows` [K, n] over each group's samples, [K, G], and the group sizes, [G]."""
    if labels is None:
        return rows, np.ones(rows.shape[1])
    _, codes = np.unique(labels, return_inverse=True)
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    sizes = np.bincount(codes).astype(np.float64)
    return np.add.reduceat(rows[:, order], starts, axis=1), sizes


def resampled_means(
    rows: FloatArray, labels: Labels | None, replicates: int, random: np.random.Generator
) -> FloatArray:
    """Return the mean of every row under the same resamplings of the columns.

    There are G groups of columns (without `labels`, every column is its own group). Each replicate draws G of them
    with replacement and takes the mean of each row over all drawn columns, so groups count by their size.

    Args:
        rows: float64 [K, n], paired: column s belongs to sample s in every row.
        labels: a label per column, or None.
        replicates: R.

    Returns:
        float64 [R, K].
    """
    sums, sizes = group_sums(rows, labels)
    count = sizes.size
    means = np.empty((replicates, rows.shape[0]))
    step = max(1, _COUNTS_AT_ONCE // count)
    for start in range(0, replicates, step):
        stop = min(start + step, replicates)
        drawn = random.integers(0, count, size=(stop - start, count))
        drawn += np.arange(stop - start)[:, None] * count
        counts = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape).astype(np.float64)
        means[start:stop] = (counts @ sums.T) / (counts @ sizes)[:, None]
    return means


def percentile_interval(
    replicates: FloatArray, confidence: float, kept: BoolArray | None = None
) -> FloatArray:
    """Return the equal-tailed percentile interval of every column, [K, 2], over its finite (and `kept`) replicates.

    A column without such a replicate gets NaN.
    """
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    columns = np.ascontiguousarray((replicates if kept is None else replicates[kept]).T)
    intervals = np.full((columns.shape[0], 2), np.nan)
    if columns.shape[1] == 0:
        return intervals
    whole = np.isfinite(columns).all(axis=1)
    if whole.any():
        intervals[whole] = np.quantile(columns[whole], tails, axis=1).T
    for index in np.flatnonzero(~whole):
        finite = columns[index][np.isfinite(columns[index])]
        if finite.size:
            intervals[index] = np.quantile(finite, tails)
    return intervals


@dataclass(frozen=True, eq=False)
class Resampled:
    """Bootstrap replicates of the weights' components, each [R, N]; NaN where dropped or unavailable."""

    outward: FloatArray
    inward: FloatArray
    difficulty: FloatArray


@dataclass(frozen=True, eq=False)
class ColumnReplicates:
    """One validation set resampled: replicates of the scores of all models on one task.

    Attributes:
        gains: V[plus_i, j] - V[mini, j], raw, [R, N].
        mini: V[mini, j], [R].
        zero: replicates whose denominator gains[:, j] is exactly 0 (but for the rounding of sums), [R].
        samples, groups: size of the validation set.
    """

    gains: FloatArray
    mini: FloatArray
    zero: BoolArray
    samples: int
    groups: int

    def contributions(self, own: int) -> FloatArray:
        """C[:, own] in every replicate, [R, N]; NaN for `own` itself and in dropped replicates."""
        contributions = self.gains / np.where(self.zero, np.nan, self.gains[:, own])[:, None]
        contributions[:, own] = np.nan
        return contributions

    def difficulty(self, own: int, higher_is_better: bool) -> FloatArray:
        """D[own] in every replicate, [R]; NaN where its denominator is 0 or below."""
        return _difficulty(self.mini, self.mini + self.gains[:, own], higher_is_better)


def _difficulty(mini: FloatArray, plus: FloatArray, higher_is_better: bool) -> FloatArray:
    part, whole = (mini, plus) if higher_is_better else (plus, mini)
    ratio = np.full(whole.shape, np.nan)
    np.divide(part, whole, out=ratio, where=whole > 0)
    return 1 - ratio


def replicate_difficulty(scores: ScoreTable, task: str, replicates: int, seed: int) -> FloatArray | None:
    """D of `task` in every replicate, [R], of the same draws as `replicate_column` of a table with the same samples.

    None where it would be None for this task's own two models.
    """
    mini, plus = scores.samples(MINI, task), scores.samples(plus_model(task), task)
    labels = scores.groups.get(task)
    if replicates == 0 or mini is None or plus is None:
        return None
    if (mini.size if labels is None else np.unique(labels).size) < 2:
        return None
    means = resampled_means(np.stack([mini, plus]), labels, replicates, generator(seed, task))
    return _difficulty(means[:, 0], means[:, 1], scores.higher_is_better[scores.tasks.index(task)])


def replicate_column(scores: ScoreTable, task: str, replicates: int, seed: int) -> ColumnReplicates | None:
    """Resample the validation set of `task`.

    None when that says nothing: replicates is 0, some model has only a mean there, or there is one group.
    """
    mini = scores.samples(MINI, task)
    plus = [samples for i in scores.tasks if (samples := scores.samples(plus_model(i), task)) is not None]
    labels = scores.groups.get(task)
    if replicates == 0 or mini is None or len(plus) < len(scores.tasks):
        return None
    groups = mini.size if labels is None else np.unique(labels).size
    if groups < 2:
        return None
    own = scores.tasks.index(task)
    count = len(plus)
    rows = np.empty((count + 2, mini.size))
    for row, samples in zip(rows[:count], plus, strict=True):
        np.subtract(samples, mini, out=row)
    rows[count] = mini
    np.abs(rows[own], out=rows[count + 1])
    means = resampled_means(rows, labels, replicates, generator(seed, task))
    # |rounding of a sum of n terms| <= n eps sum |term|: below that, a gain of 0 cannot be told from 0.
    zero = np.abs(means[:, own]) <= mini.size * np.finfo(np.float64).eps * means[:, count + 1]
    means[zero, own] = 0.0
    return ColumnReplicates(means[:, :count], means[:, count], zero, mini.size, groups)


class Gathered:
    """Replicates of out, in and D of all tasks, gathered by column so that C is never in memory R times."""

    def __init__(self, count: int, replicates: int) -> None:
        self._outward_sum = np.zeros((replicates, count))
        self._kept = np.zeros((replicates, count), dtype=np.bool_)
        self._outward_known = True
        self._inward = np.full((replicates, count), np.nan)
        self._difficulty = np.full((replicates, count), np.nan)
        self.dropped: npt.NDArray[np.int64] = np.zeros(count, dtype=np.int64)
        self.samples: npt.NDArray[np.int64] = np.zeros(count, dtype=np.int64)
        self.groups: npt.NDArray[np.int64] = np.zeros(count, dtype=np.int64)

    def take(
        self,
        own: int,
        column: ColumnReplicates,
        contributions: FloatArray | None,
        difficulty: FloatArray,
    ) -> None:
        """Add the column of task `own`; `contributions` [R, N] is None where the column is undefined."""
        self.samples[own], self.groups[own] = column.samples, column.groups
        self._difficulty[:, own] = difficulty
        if contributions is None:
            return
        self.dropped[own] = column.zero.sum()
        self._kept[:, own] = ~column.zero
        others = contributions.shape[1] - 1
        if others == 0:
            return
        counted = contributions.copy()
        counted[:, own] = 0.0
        self._inward[:, own] = counted.sum(axis=1) / others
        counted[column.zero] = 0.0
        self._outward_sum += counted

    def lose_outward(self) -> None:
        """A defined column has no replicates: outward contributions depend on it and have none either."""
        self._outward_known = False

    def result(self) -> Resampled:
        """All replicates; a replicate of `outward` is the mean over the entries that were not dropped in it."""
        columns = self._kept.sum(axis=1, keepdims=True) - self._kept
        known = (columns > 0) & self._outward_known
        outward = np.full(known.shape, np.nan)
        np.divide(self._outward_sum, columns, out=outward, where=known)
        return Resampled(outward, self._inward, self._difficulty)
