"""What a measurement shows about the weights, and what it would take to show more."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cotbal.method.arrays import BoolArray, FloatArray, positive
from cotbal.method.bootstrap import generator
from cotbal.method.measurement import Measurement
from cotbal.method.seeds import SeedMean, over_seeds
from cotbal.method.weighing import seed_terms

LEVEL = 0.05
"""How often weights that are truly equal may be called different."""
POWER = 0.8
"""How often a difference as large as the one seen should be found by what `needed` asks for."""
_DRAWS = 20_000


@dataclass(frozen=True, eq=False)
class Certainty:
    """How sure the weights of N tasks are; of the plain weights, whether or not they are shrunk later.

    Attributes:
        tasks: names.
        seeds: of the preparations; empty for one, whose seed variance is not known.
        weights: their mean over seeds, with its variances.
        chance: how often equal true weights would give weights as far from 1 as these (to the accuracy of the
            bootstrap), by the sum over tasks of (w - 1)^2 / variance.
        ranked: pairs (heavier, lighter) whose weights differ; all of them right at once, `confidence` of the time.
        confidence: of the ranking.
        spread: of the true weights around 1 (standard deviation over the tasks), as far as it rises over the noise.
        needed_samples: how many times the validation samples would show that the weights differ, with these seeds;
            None where no number would, or none can be told.
        needed_seeds: how many seeds would, with these validation samples; None as above, and with one preparation.
    """

    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    weights: SeedMean
    chance: float
    ranked: tuple[tuple[str, str], ...]
    confidence: float
    spread: float
    needed_samples: float | None
    needed_seeds: int | None

    @property
    def differ(self) -> bool:
        """Whether the weights are shown to differ from equal ones."""
        return self.chance <= LEVEL

    @property
    def dominant(self) -> Literal["seeds", "samples"] | None:
        """Which variance of the weights is the larger one; None with one preparation."""
        return self.weights.dominant


def certainty_of(measurement: Measurement, temperature: float = 0.5) -> Certainty | None:
    """What the measurement shows; None with one task, or without replicates to show it with.

    Raises:
        ValueError: temperature is not above 0.
    """
    terms = seed_terms(measurement, positive("temperature", temperature))
    draws = terms.weight_replicates
    if len(measurement.tasks) < 2 or draws is None:
        return None
    # A draw without a denominator is no draw of the weights.
    draws = draws[:, np.isfinite(draws).all(axis=(0, 2))]
    if draws.shape[1] < 2:
        return None

    def mean(*, pooled: bool) -> SeedMean:
        random = generator(measurement.seed, "seeds of the weights")
        return over_seeds(terms.weights, draws, random, fixed_sum=True, pooled=pooled)

    weights, tested = mean(pooled=False), mean(pooled=True)
    spread = _spread(weights)
    chance = float(chance_of_equal(tested.values, tested.replicates))
    samples, seeds = _needed(weights, spread, generator(measurement.seed, "needed"))
    return Certainty(
        tasks=measurement.tasks,
        seeds=measurement.seeds,
        weights=weights,
        chance=chance,
        ranked=tuple(
            (measurement.tasks[i], measurement.tasks[j])
            for i, j in np.argwhere(
                heavier(tested.values, tested.replicates, measurement.confidence)
            ).tolist()
        ),
        confidence=measurement.confidence,
        spread=math.sqrt(spread),
        needed_samples=samples,
        needed_seeds=seeds,
    )


def chance_of_equal(values: FloatArray, replicates: FloatArray) -> FloatArray:
    """How often draws around 1 lie as far from it as `values` [..., N] do, by `replicates` [..., R, N]: [...]."""
    deviations = replicates - values[..., None, :]
    variance = (deviations**2).mean(axis=-2)

    def distance(from_one: FloatArray, scale: FloatArray) -> FloatArray:
        squares = np.divide(from_one**2, scale, out=np.zeros_like(from_one), where=scale > 0)
        total: FloatArray = squares.sum(axis=-1)
        return total

    drawn = distance(deviations, np.broadcast_to(variance[..., None, :], deviations.shape))
    seen = distance(values - 1, variance)
    chance: FloatArray = (1 + (drawn >= seen[..., None]).sum(axis=-1)) / (1 + drawn.shape[-1])
    return chance


def heavier(values: FloatArray, replicates: FloatArray, confidence: float) -> BoolArray:
    """[N, N]: whether task i weighs more than task j, all pairs judged at once by the largest t of every draw."""
    count = values.size
    deviations = replicates - values
    largest = np.zeros(len(replicates))
    scales = np.zeros((count, count))
    for i in range(count):
        apart = deviations[:, [i]] - deviations
        scales[i] = np.sqrt((apart**2).mean(axis=0))
        t = np.divide(np.abs(apart), scales[i], out=np.zeros_like(apart), where=scales[i] > 0)
        largest = np.maximum(largest, t.max(axis=1))
    found: BoolArray = values[:, None] - values > np.quantile(largest, confidence) * scales
    return found


def _spread(weights: SeedMean) -> float:
    """Variance of the true weights around 1."""
    return max(0.0, float(((weights.values - 1) ** 2 - weights.variance).mean()))


def _needed(weights: SeedMean, spread: float, random: np.random.Generator) -> tuple[float | None, int | None]:
    """Samples (as a factor) and seeds that would show this spread, each with the other left as it is."""
    if spread == 0:
        return None, None
    wanted = spread * weights.values.size / noncentrality(weights.values.size - 1, random)
    by_seed = float(np.where(np.isnan(weights.seed_variance), 0.0, weights.seed_variance).mean())
    by_samples = float(weights.sample_variance.mean())
    room = wanted - by_seed / weights.seeds
    samples = max(1.0, by_samples / room) if room > 0 else None
    if weights.seeds == 1:
        return samples, None
    room = wanted - float(weights.shared_variance.mean())
    per_seed = by_seed + float(weights.mixed_variance.mean())
    return samples, max(weights.seeds, math.ceil(per_seed / room)) if room > 0 else None


def noncentrality(degrees: int, random: np.random.Generator) -> float:
    """Of a chi-square with so many degrees of freedom that a test at `LEVEL` finds with `POWER`."""
    threshold = np.quantile(random.chisquare(degrees, _DRAWS), 1 - LEVEL)
    low, high = 0.0, 10.0 * (degrees + 10)
    for _ in range(20):
        middle = (low + high) / 2
        found = (random.noncentral_chisquare(degrees, middle, _DRAWS) > threshold).mean()
        low, high = (middle, high) if found < POWER else (low, middle)
    return (low + high) / 2
