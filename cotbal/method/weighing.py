"""From contributions and difficulties to one weight per task.

    w_out = N softmax(out / T)    w_in = N softmax(-in / T)    w_dif = N softmax(D / T)
    w     = ((w_out + w_in) / 2 + w_dif) / 2

Source: CoTBal, arXiv 2403.04343 (the general task weighting of VisATB, its third version); T = 0.5 there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from cotbal.method.arrays import BoolArray, FloatArray, float_array, positive, same_length
from cotbal.method.bootstrap import Resampled, percentile_interval
from cotbal.method.measurement import Measurement
from cotbal.method.weights import Provenance, TaskWeights
from cotbal.tasks import check_task_names

__all__ = ["combine_terms", "weigh"]


def combine_terms(
    outward: npt.ArrayLike,
    inward: npt.ArrayLike,
    difficulty: npt.ArrayLike,
    temperature: float = 0.5,
    *,
    tasks: Sequence[str] | None = None,
) -> TaskWeights:
    """One weight per task from its contributions and its difficulty; the N weights sum to N.

    A NaN in `outward` or `inward` is an undefined contribution: that term of that task is 1, and the softmax
    over the K others sums to K (an extension; the paper assumes all are defined).

    Args:
        outward: out, [N]: the larger, the larger the weight.
        inward: in, [N]: the larger, the smaller the weight.
        difficulty: D, [N]: the larger, the larger the weight.
        temperature: T, above 0; the larger, the closer all weights are to 1.
        tasks: names; default `task_0`, `task_1`, ...

    Raises:
        ValueError: unequal lengths, an infinite entry, a NaN difficulty, bad names, or T not above 0.
        TypeError: not numbers.

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
    """The weights of the measured tasks, with bootstrap intervals where the measurement has replicates.

    With `shrink`, each term w of a task is pulled toward 1 by its own uncertainty: 1 + k (w - 1) with
    k = v / (v + s^2), s its bootstrap standard deviation and v the spread of the true terms around 1, estimated
    over the tasks as max(0, mean((w - 1)^2 - s^2)); then the term is scaled to its old sum. Noise alone thus
    gives weights of 1. (Not in the paper.)

    Args:
        measurement: from `measure`.
        temperature: T, above 0.
        shrink: as above; needs a measurement with bootstrap replicates.
        explicit: weights, at least 0, of further tasks that are not measured (text-only data, say).

    Raises:
        ValueError: T not above 0; `shrink` without replicates; an explicit weight that is negative or not
            finite, or that is given to a measured task.
        TypeError: `measurement` is no Measurement.

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
    weights = combine_terms(
        measurement.outward, measurement.inward, measurement.difficulty, t, tasks=measurement.tasks
    )
    terms = [weights.outward, weights.inward, weights.difficulty]
    resampled = (
        None if measurement.resampled is None else _resampled_terms(measurement, measurement.resampled, t)
    )
    if shrink:
        if resampled is None:
            raise ValueError(
                "shrink=True needs bootstrap replicates, and the measurement has none: measure per-sample scores "
                "with replicates above 0"
            )
        for index, found in enumerate((measurement.outward, measurement.inward, measurement.difficulty)):
            defined = ~np.isnan(found)
            factors = _shrink_factors(terms[index], resampled[index], defined)
            terms[index] = _shrunk(terms[index], factors, defined)
            resampled[index] = _shrunk(resampled[index], factors, defined)
    intervals = None
    if resampled is not None:
        intervals = percentile_interval(_combined(*resampled), measurement.confidence)
        intervals = None if np.isnan(intervals).all() else intervals
    result = TaskWeights(
        measurement.tasks,
        _combined(*terms),
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
            undefined=tuple(lost.task for lost in measurement.undefined),
        ),
    )
    return result.with_explicit(explicit) if explicit else result


def _term(values: FloatArray, temperature: float) -> FloatArray:
    """K softmax(values / T) over the K entries that are not NaN along the last axis; 1 for the others."""
    defined = ~np.isnan(values)
    if not defined.any():
        return np.ones_like(values)
    peak = np.max(values, axis=-1, keepdims=True, where=defined, initial=-math.inf)
    # T may be so small that the division overflows: to -inf, whose exponential is the right 0.
    with np.errstate(over="ignore"):
        scaled = np.where(defined, (values - peak) / temperature, -math.inf)
    exponentials = np.exp(scaled)
    count = defined.sum(axis=-1, keepdims=True)
    return np.where(defined, count * exponentials / exponentials.sum(axis=-1, keepdims=True), 1.0)


def _combined(outward: FloatArray, inward: FloatArray, difficulty: FloatArray) -> FloatArray:
    return ((outward + inward) / 2 + difficulty) / 2


def _resampled_terms(measurement: Measurement, resampled: Resampled, temperature: float) -> list[FloatArray]:
    """The three terms in every replicate, [R, N] each.

    What is undefined on the full sample is undefined in every replicate; a replicate that lacks a value the
    full sample has (its denominator was 0) is NaN throughout the term.
    """
    terms = []
    for sign, found, replicates in (
        (1, measurement.outward, resampled.outward),
        (-1, measurement.inward, resampled.inward),
        (1, measurement.difficulty, resampled.difficulty),
    ):
        defined = ~np.isnan(found)
        lacking = (np.isnan(replicates) & defined).any(axis=1)
        term = np.full_like(replicates, np.nan)
        term[~lacking] = _term(np.where(defined, sign * replicates, np.nan)[~lacking], temperature)
        terms.append(term)
    return terms


def _shrink_factors(term: FloatArray, replicates: FloatArray, defined: BoolArray) -> FloatArray:
    """k of every task, [N], as `weigh` says; 1 where there is neither spread nor noise."""
    kept = np.isfinite(replicates).all(axis=1)
    if kept.sum() < 2:
        raise ValueError(
            "shrink=True needs bootstrap replicates of every term, and they are missing: some task has scores "
            "without samples, or every replicate was dropped. Give every task per-sample scores, and more of them"
        )
    noise = replicates[kept].var(axis=0, ddof=1)
    spread = max(0.0, float(((term - 1) ** 2 - noise)[defined].mean())) if defined.any() else 0.0
    factors = np.ones_like(term)
    np.divide(spread, spread + noise, out=factors, where=spread + noise > 0)
    return factors


def _shrunk(term: FloatArray, factors: FloatArray, defined: BoolArray) -> FloatArray:
    pulled = np.where(defined, 1 + factors * (term - 1), 0.0)
    total = pulled.sum(axis=-1, keepdims=True)
    scale = np.divide(defined.sum(), total, out=np.ones_like(total), where=total != 0)
    return np.where(defined, pulled * scale, 1.0)
