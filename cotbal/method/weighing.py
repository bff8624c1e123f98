"""From contributions and difficulties to one weight per task.

    w_out = N softmax(out / T)    w_in = N softmax(-in / T)    w_dif = N softmax(D / T)
    w     = ((w_out + w_in) / 2 + w_dif) / 2

Source: CoTBal, arXiv 2403.04343 (the general task weighting of VisATB, its third version); T = 0.5 there.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cotbal.method.arrays import BoolArray, FloatArray, float_array, positive, same_length
from cotbal.method.bootstrap import Resampled, generator
from cotbal.method.measurement import Measurement
from cotbal.method.seeds import SeedMean, over_seeds
from cotbal.method.weights import Provenance, TaskWeights
from cotbal.tasks import check_task_names

__all__ = ["OneSeedWarning", "SeedTerms", "combine_terms", "seed_terms", "weigh"]


class OneSeedWarning(UserWarning):
    """Something was asked that one preparation cannot know: how far another seed would move the result."""


def combine_terms(
    outward: npt.ArrayLike,
    inward: npt.ArrayLike,
    difficulty: npt.ArrayLike,
    temperature: float = 0.5,
    *,
    tasks: Sequence[str] | None = None,
) -> TaskWeights:
    """Combine contributions and difficulty into one weight per task; the N weights sum to N.

    A NaN in `outward` or `inward` is an undefined contribution: that term of that task is 1, and the softmax
    over the K others sums to K. (An extension: the paper assumes that all are defined.)

    Args:
        outward: out, [N]: the larger, the larger the weight.
        inward: in, [N]: the larger, the smaller the weight.
        difficulty: D, [N]: the larger, the larger the weight.
        temperature: T, above 0; the larger, the closer all weights are to 1.
        tasks: names; default `task_0`, `task_1`, ...

    Raises:
        ValueError: lengths differ, an entry is infinite, a difficulty is NaN, a name is not allowed, or T is not
            above 0.
        TypeError: the entries are not numbers.

    >>> combine_terms([0.2, 0.1], [0.1, 0.1], [0.5, 0.1]).values.round(3)
    array([1.215, 0.785])
    """
    out = float_array("outward", outward, ndim=1, allow_nan=True)
    into = float_array("inward", inward, ndim=1, allow_nan=True)
    hard = float_array("difficulty", difficulty, ndim=1)
    same_length(out.size, inward=into, difficulty=hard)
    if tasks is None:
        tasks = [f"task_{i}" for i in range(out.size)]
    names = check_task_names(tasks)
    if len(names) != out.size:
        raise ValueError(f"tasks has {len(names)} names; there are {out.size} task(s)")
    t = positive("temperature", temperature)
    w_out, w_in, w_dif = _term(out, t), _term(-into, t), _term(hard, t)
    return TaskWeights(
        names, _combined(w_out, w_in, w_dif), w_out, w_in, w_dif, t, None, Provenance.here("arrays")
    )


def weigh(
    measurement: Measurement,
    temperature: float = 0.5,
    *,
    shrink: bool = False,
    explicit: Mapping[str, float] | None = None,
) -> TaskWeights:
    """The weights of the measured tasks, with intervals where the measurement has replicates.

    With seeds, the weights and their terms are means over them, and the intervals hold both variances; with one
    preparation the intervals cover the validation samples only.

    With `shrink`, each term w of a task is pulled toward 1 by its own uncertainty: 1 + k (w - 1) with
    k = v / (v + s^2), s its standard deviation (of the validation samples, and of the seeds where there are several)
    and v the spread of the true terms around 1, estimated over the tasks as max(0, mean((w - 1)^2 - s^2)); then the
    term is scaled to its old sum. Noise alone thus gives weights of 1. (Not in the paper.)

    Args:
        measurement: from `measure`.
        temperature: T, above 0.
        shrink: as above; needs a measurement with bootstrap replicates.
        explicit: weights, at least 0, of further tasks that are not measured (text-only data, say).

    Raises:
        ValueError: T is not above 0, `shrink` is set without replicates, or an explicit weight is negative, not
            finite, or given to a measured task.
        TypeError: `measurement` is not a Measurement.

    Warns:
        OneSeedWarning: `shrink` with one preparation.

    >>> from cotbal.method.measurement import measure
    >>> from cotbal.method.scores import ScoreTable
    >>> table = ScoreTable.from_means([0.5, 0.2], [[0.7, 0.3], [0.6, 0.6]], tasks=["caption", "vqa"])
    >>> weigh(measure(table), explicit={"text-only": 1}).as_dict()["text-only"]
    1.0
    """
    if not isinstance(measurement, Measurement):
        raise TypeError(
            f"measurement must be a Measurement; found {type(measurement).__name__}. Make one with measure(scores)"
        )
    t = positive("temperature", temperature)
    found = seed_terms(measurement, t)
    values, draws = found.values, found.replicates
    if shrink:
        values, draws = _shrunk_terms(measurement, found)
    intervals = None
    if draws is not None:
        random = generator(measurement.seed, "seeds of the weights")
        combined = over_seeds(_combined_terms(values), _combined_terms(draws), random, fixed_sum=True)
        intervals = combined.interval(measurement.confidence)
        intervals = None if np.isnan(intervals).all() else intervals
    terms = values.mean(axis=0)
    result = TaskWeights(
        measurement.tasks,
        _combined(terms[0], terms[1], terms[2]),
        terms[0],
        terms[1],
        terms[2],
        t,
        intervals,
        Provenance.here(
            "means" if measurement.replicates == 0 else "samples",
            scores_sha256=measurement.scores_sha256,
            confidence=measurement.confidence,
            replicates=measurement.replicates,
            seed=measurement.seed,
            shrink=shrink,
            undefined=tuple(
                lost.task for lost in measurement.undefined if len(lost.seeds) == len(measurement.seeds)
            ),
            seeds=measurement.seeds,
        ),
    )
    return result.with_explicit(explicit) if explicit else result


def _term(values: FloatArray, temperature: float) -> FloatArray:
    """Return K softmax(values / T) over the K entries that are not NaN along the last axis, and 1 for the others."""
    defined = ~np.isnan(values)
    if not defined.any():
        return np.ones_like(values)
    peak = np.max(values, axis=-1, keepdims=True, where=defined, initial=-math.inf)
    # A tiny T makes the division overflow to -inf, whose exponential is the correct 0.
    with np.errstate(over="ignore"):
        scaled = np.where(defined, (values - peak) / temperature, -math.inf)
    exponentials = np.exp(scaled)
    count = defined.sum(axis=-1, keepdims=True)
    total = np.where(count > 0, exponentials.sum(axis=-1, keepdims=True), 1.0)
    return np.where(defined, count * exponentials / total, 1.0)


def _combined(outward: FloatArray, inward: FloatArray, difficulty: FloatArray) -> FloatArray:
    return ((outward + inward) / 2 + difficulty) / 2


def _combined_terms(terms: FloatArray) -> FloatArray:
    """Terms [S, 3, ..., N] to weights [S, ..., N]."""
    return _combined(terms[:, 0], terms[:, 1], terms[:, 2])


@dataclass(frozen=True, eq=False)
class SeedTerms:
    """The terms w_out, w_in, w_dif that each of S preparations gives N tasks.

    Attributes:
        values: [S, 3, N]; 1 where undefined.
        defined: which are not, [S, 3, N].
        replicates: over the bootstrap draws, [S, 3, R, N]; None where there are none.
    """

    values: FloatArray
    defined: BoolArray
    replicates: FloatArray | None

    @property
    def weights(self) -> FloatArray:
        """The weights of each preparation, [S, N]."""
        return _combined_terms(self.values)

    @property
    def weight_replicates(self) -> FloatArray | None:
        """The weights in every draw, [S, R, N]."""
        return None if self.replicates is None else _combined_terms(self.replicates)


def seed_terms(measurement: Measurement, temperature: float) -> SeedTerms:
    """The terms of every preparation of a measurement, for the means over seeds and for how sure they are."""
    values, defined, replicates = [], [], []
    for part in measurement.preparations:
        found = np.stack([part.outward, -part.inward, part.difficulty])
        values.append(_term(found, temperature))
        defined.append(~np.isnan(found))
        if part.resampled is not None:
            replicates.append(_resampled_terms(found, part.resampled, temperature))
    whole = len(replicates) == len(values)
    return SeedTerms(np.stack(values), np.stack(defined), np.stack(replicates) if whole else None)


def _resampled_terms(found: FloatArray, resampled: Resampled, temperature: float) -> FloatArray:
    """The three terms in every replicate, [3, R, N].

    What is undefined on the full sample is undefined in every replicate. If a replicate lacks a value that the full
    sample has (its denominator was 0), its whole term is NaN.
    """
    terms = np.full((3, *resampled.outward.shape), np.nan)
    signed = (resampled.outward, -resampled.inward, resampled.difficulty)
    for term, values, replicates in zip(terms, found, signed, strict=True):
        defined = ~np.isnan(values)
        lacking = (np.isnan(replicates) & defined).any(axis=1)
        term[~lacking] = _term(np.where(defined, replicates, np.nan)[~lacking], temperature)
    return terms


def _shrunk_terms(measurement: Measurement, found: SeedTerms) -> tuple[FloatArray, FloatArray]:
    """Values and replicates of the terms, pulled toward 1 as `weigh` says."""
    if found.replicates is None:
        raise ValueError(
            "shrink=True needs bootstrap replicates, and the measurement has none: measure per-sample scores "
            "with replicates above 0"
        )
    if len(found.values) == 1:
        warnings.warn(
            "shrink knows the noise of the validation samples only: with one preparation it cannot know how far "
            "another seed would move the weights, which is often more. Give `preparation.seeds` two or more",
            OneSeedWarning,
            stacklevel=3,
        )
    values, replicates = np.empty_like(found.values), np.empty_like(found.replicates)
    for index, name in enumerate(("outward", "inward", "difficulty")):
        term, draws, defined = found.values[:, index], found.replicates[:, index], found.defined[:, index]
        if (np.isfinite(draws).all(axis=-1).sum(axis=-1) < 2).any():
            raise ValueError(
                "shrink=True needs bootstrap replicates of every term, and they are missing: some task has scores "
                "without samples, or every replicate was dropped. Give every task per-sample scores, and more of them"
            )
        random = generator(measurement.seed, f"seeds of the {name} term")
        mean = over_seeds(np.where(defined, term, np.nan), draws, random, fixed_sum=True)
        factors = _shrink_factors(mean)
        values[:, index] = _shrunk(term, factors, defined)
        replicates[:, index] = _shrunk(draws, factors, defined[:, None])
    return values, replicates


def _shrink_factors(term: SeedMean) -> FloatArray:
    """k of every task, [N]; 1 where there is neither spread nor noise."""
    known = ~np.isnan(term.values)
    noise = np.where(known, term.variance, 0.0)
    spread = max(0.0, float(((term.values - 1) ** 2 - noise)[known].mean())) if known.any() else 0.0
    factors = np.ones_like(noise)
    np.divide(spread, spread + noise, out=factors, where=spread + noise > 0)
    return factors


def _shrunk(term: FloatArray, factors: FloatArray, defined: BoolArray) -> FloatArray:
    pulled = np.where(defined, 1 + factors * (term - 1), 0.0)
    total = pulled.sum(axis=-1, keepdims=True)
    count = np.broadcast_to(defined.sum(axis=-1, keepdims=True), total.shape)
    scale = np.divide(count, total, out=np.ones_like(total), where=total != 0)
    return np.where(defined, pulled * scale, 1.0)
