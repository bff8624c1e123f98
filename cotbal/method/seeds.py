"""Means over repeated preparations, with the variance of the seeds and that of the validation samples told apart.

With q_s a quantity (a weight, a contribution, ...) found by the preparation of seed s, all scored on the same
validation samples:

    q_s = q + a_s + b + c_s        a: the seed, b: the samples, c: what of the samples' part differs by seed

The bootstrap over samples shows `b + c_s`, for one seed and for the mean over seeds; the spread of the q_s shows
`a_s + c_s`. Their variances follow, and the mean over S seeds varies by (A + C) / S + B.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from cotbal.method.arrays import FloatArray
from cotbal.method.bootstrap import percentile_interval

# A task's own seed variance is known from S - 1 differences only; what all tasks show together counts as this many.
_SHARED_DIFFERENCES = 4


@dataclass(frozen=True, eq=False)
class SeedMean:
    """A quantity of N tasks, as the mean over S seeds.

    Attributes:
        values: the means, [..., N].
        seeds: S.
        seed_variance: A, of one seed, [..., N]; NaN with one seed, which cannot know it.
        mixed_variance: C, of one seed, [..., N]; 0 with one seed, where it is part of `shared_variance`.
        shared_variance: B, of the samples, [..., N].
        replicates: draws of the mean that hold every variance that is known, [..., R, N].
    """

    values: FloatArray
    seeds: int
    seed_variance: FloatArray
    mixed_variance: FloatArray
    shared_variance: FloatArray
    replicates: FloatArray

    @property
    def sample_variance(self) -> FloatArray:
        """Of the mean, by the validation samples: B + C / S, [..., N]."""
        return self.shared_variance + self.mixed_variance / self.seeds

    @property
    def variance(self) -> FloatArray:
        """Of the mean, by all that is known, [..., N]."""
        return self.variance_with(1.0, self.seeds)

    def variance_with(self, samples: float, seeds: float) -> FloatArray:
        """What it would be with `samples` times the validation samples and that many seeds, [..., N]."""
        by_samples = (self.shared_variance + self.mixed_variance / seeds) / samples
        return by_samples + np.where(np.isnan(self.seed_variance), 0.0, self.seed_variance) / seeds

    @property
    def dominant(self) -> Literal["seeds", "samples"] | None:
        """Which part of the mean's variance is the larger one over all tasks; None with one seed."""
        if self.seeds == 1:
            return None
        by_seed = float(np.nansum(self.seed_variance)) / self.seeds
        return "seeds" if by_seed > float(np.nansum(self.sample_variance)) else "samples"

    def interval(self, confidence: float) -> FloatArray:
        """Equal-tailed interval of every task, [N, 2]; for one quantity, not a stack of them."""
        return percentile_interval(self.replicates, confidence)


def over_seeds(
    values: FloatArray,
    replicates: FloatArray,
    random: np.random.Generator,
    *,
    fixed_sum: bool = False,
    pooled: bool = False,
) -> SeedMean:
    """Combine what S preparations found into their mean.

    The replicates of the mean are those of the samples, averaged over seeds (draw r is of the same samples for every
    seed), plus a deviation of the seeds' mean drawn from a t distribution. Drawing the seeds themselves again, as a
    plain hierarchical bootstrap does, cannot do for so few: of two seeds, half of the draws would have no spread.

    The seed variance of a task is that of its own S - 1 differences, moderated by the mean over the tasks (after
    Smyth, 2004, with a fixed prior of 4 degrees of freedom), so that two seeds are enough to say something.

    Args:
        values: of each seed, [..., S, N]; NaN where undefined, which leaves the means.
        replicates: of each seed over the same draws of samples, [..., S, R, N].
        random: draws the deviations.
        fixed_sum: the tasks' values sum to a constant (weights do), so their deviations cancel.
        pooled: one seed variance for all tasks, for statements about all of them at once.
    """
    seeds, tasks = values.shape[-2:]
    if seeds == 1:
        kept = replicates[..., 0, :, :]
        unknown = np.full_like(values[..., 0, :], np.nan)
        return SeedMean(values[..., 0, :], 1, unknown, np.zeros_like(unknown), _variance(kept), kept)
    mean, count = _mean(values, axis=-2)
    sampled, _ = _mean(replicates, axis=-3)
    of_one, _ = _mean(_variance(replicates), axis=-2)
    of_mean = _variance(sampled)
    mixed = np.clip((of_one - of_mean) * seeds / (seeds - 1), 0.0, of_one)
    shared = np.maximum(of_mean - mixed / seeds, 0.0)
    between, degrees = _moderated(_spread(values, mean, count), seeds, tasks, pooled)
    by_seed = np.maximum(between - mixed, 0.0)
    # `c_s` stays with the samples' draws; for a test, which must not find too much, it goes to the fewer seeds.
    kept = np.zeros_like(mixed) if pooled else mixed
    draws = sampled.shape
    deviation = random.standard_normal(draws) * np.sqrt((by_seed + mixed - kept) / seeds)[..., None, :]
    if fixed_sum and tasks > 1:
        deviation -= np.nanmean(deviation, axis=-1, keepdims=True)
        deviation *= np.sqrt(tasks / (tasks - 1))
    # One denominator for all tasks of a draw: their variances were estimated together.
    deviation /= np.sqrt(random.chisquare(degrees, (*draws[:-1], 1)) / degrees)
    left = np.divide(shared + kept / seeds, of_mean, out=np.ones_like(shared), where=of_mean > 0)
    drawn = mean[..., None, :] + np.sqrt(left)[..., None, :] * (sampled - mean[..., None, :]) + deviation
    return SeedMean(mean, seeds, by_seed, mixed, shared, drawn)


def _moderated(own: FloatArray, seeds: int, tasks: int, pooled: bool) -> tuple[FloatArray, int]:
    """The seeds' variances [..., N] with what the tasks show together mixed in, and their degrees of freedom."""
    together = np.broadcast_to(_mean(own, axis=-1)[0][..., None], own.shape)
    own = np.where(np.isnan(own), together, own)
    if pooled:
        return together, (seeds - 1) * max(1, tasks - 1)
    # The other tasks cannot lend more than they have.
    lent = min(_SHARED_DIFFERENCES, max(0, tasks - 2) * (seeds - 1))
    return (lent * together + (seeds - 1) * own) / (lent + seeds - 1), lent + seeds - 1


def _spread(values: FloatArray, mean: FloatArray, count: FloatArray) -> FloatArray:
    """Variance over the seeds, [..., N]; NaN where fewer than two of them have a value."""
    squares = np.nansum((values - mean[..., None, :]) ** 2, axis=-2)
    variance: FloatArray = np.divide(squares, count - 1, out=np.full_like(squares, np.nan), where=count > 1)
    return variance


def _variance(replicates: FloatArray) -> FloatArray:
    """Over the draws, [..., R, N] -> [..., N]; NaN without two of them."""
    mean, count = _mean(replicates, axis=-2)
    return _spread(replicates, mean, count)


def _mean(values: FloatArray, axis: int) -> tuple[FloatArray, FloatArray]:
    """Mean and number of the values that are not NaN; NaN where there are none."""
    count = (~np.isnan(values)).sum(axis=axis).astype(np.float64)
    total = np.nansum(values, axis=axis)
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0), count
