"""Many preparations at once, with known truth: scores of N + 1 models that vary by seed and by validation sample.

In the limit of many validation samples, means of scores are normal, and so are their bootstrap draws around them, so
that a thousand trials are a few array operations. The bootstrap itself is tested on real samples elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from support.method.method_oracle import EPS

from cotbal.method.arrays import FloatArray

TASKS = 4
TEMPERATURE = 0.5


@dataclass(frozen=True)
class Trials:
    """Weights found in `T` trials of S seeds, [T, S, N], their bootstrap draws, [T, S, R, N], and the truth, [N]."""

    weights: FloatArray
    draws: FloatArray
    truth: FloatArray


def equal_scores() -> FloatArray:
    """V[mini] and V[plus_i], [N + 1, N], of tasks that are all alike: every true weight is 1."""
    scores = np.full((TASKS + 1, TASKS), 0.48)
    scores[0] = 0.45
    scores[1:][np.eye(TASKS, dtype=bool)] = 0.75
    return scores


def unequal_scores() -> FloatArray:
    """The same with tasks that differ in what they give and how hard they are."""
    scores = equal_scores()
    scores[1] += [0.0, 0.08, 0.08, 0.08]
    scores[:, 3] -= [0.25, 0.25, 0.25, 0.25, 0.1]
    return scores


def weights_of(scores: FloatArray) -> FloatArray:
    """The method's weights from V [..., N + 1, N], by its formulas: [..., N]."""
    mini, plus = scores[..., 0, :], scores[..., 1:, :]
    own = np.diagonal(plus, axis1=-2, axis2=-1)
    contributions = (plus - mini[..., None, :]) / (own - mini)[..., None, :]
    contributions = contributions * (1 - np.eye(TASKS))
    terms = [
        _softmax(contributions.sum(axis=-1) / (TASKS - 1)),
        _softmax(-contributions.sum(axis=-2) / (TASKS - 1)),
        _softmax(1 - mini / own),
    ]
    return ((terms[0] + terms[1]) / 2 + terms[2]) / 2


def trials(
    scores: FloatArray,
    *,
    seeds: int,
    seed_deviation: float,
    samples: int = 500,
    count: int = 1000,
    draws: int = 200,
    random: np.random.Generator,
) -> Trials:
    """`count` repetitions of a whole measurement.

    Args:
        scores: the true V, [N + 1, N].
        seeds: S.
        seed_deviation: by how much a model's score varies with its seed (standard deviation).
        samples: of every validation set; half of a sample's luck is the same for all models and seeds.
    """
    deviation = np.sqrt(0.25 / 2 / samples)

    def luck(*shape: int) -> FloatArray:
        drawn: FloatArray = random.standard_normal(shape, dtype=np.float32) * deviation
        return drawn

    trained = scores + seed_deviation * random.standard_normal((count, seeds, TASKS + 1, TASKS))
    found = trained + luck(count, seeds, TASKS + 1, TASKS) + luck(count, 1, 1, TASKS)
    weights = np.empty((count, seeds, draws, TASKS))
    for first in range(0, count, 100):  # in parts that fit a cache
        part = found[first : first + 100, :, None]
        size = len(part)
        drawn = part + luck(size, seeds, draws, TASKS + 1, TASKS) + luck(size, 1, draws, 1, TASKS)
        weights[first : first + size] = weights_of(drawn)
    # With the seeds' variance but no samples', over far more seeds than a trial has.
    many = scores + seed_deviation * random.standard_normal((100_000, TASKS + 1, TASKS))
    return Trials(weights_of(found), weights, weights_of(many).mean(axis=0))


def _softmax(values: FloatArray) -> FloatArray:
    exponentials = np.exp((values - values.max(axis=-1, keepdims=True)) / TEMPERATURE)
    weights: FloatArray = TASKS * exponentials / exponentials.sum(axis=-1, keepdims=True)
    assert abs(float(weights.sum(axis=-1).max()) - TASKS) < 100 * TASKS * EPS
    return weights
