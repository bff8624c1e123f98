"""The plain formulas: contributions, difficulties, and the summary of a benchmark.

Source: CoTBal, arXiv 2403.04343 (VisATB in its third version).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cotbal.method.arrays import BoolArray, FloatArray, directions, float_array, same_length

# Two means of equal samples may differ by the rounding of their sums; so much counts as equal.
_ROUNDING = 64 * np.finfo(np.float64).eps


def inter_task_contributions(
    mini: npt.ArrayLike, plus: npt.ArrayLike, higher_is_better: bool | Sequence[bool] = True
) -> FloatArray:
    """C[i, j] = (V[plus_i, j] - V[mini, j]) / (V[plus_j, j] - V[mini, j]), by the plain formula.

    A column whose denominator is 0 (up to rounding) is NaN.

    Args:
        mini: V[mini, j], [N].
        plus: V[plus_i, j], [N, N], one row per trained task i.
        higher_is_better: one bool, or one per task, as in the other functions. It has no effect here, because a
            metric's sign cancels between numerator and denominator.

    Returns:
        float64 [N, N] with NaN on the diagonal.

    Raises:
        ValueError: the shapes do not fit, or a score is NaN or infinite.
        TypeError: the scores are not numbers.

    >>> inter_task_contributions([0.5, 0.2], [[0.7, 0.3], [0.6, 0.6]]).round(2)
    array([[ nan, 0.25],
           [0.5 ,  nan]])
    """
    mini_scores = float_array("mini", mini, ndim=1)
    plus_scores = float_array("plus", plus, ndim=2)
    same_length(mini_scores.size, plus=plus_scores)
    directions(higher_is_better, mini_scores.size)
    return contributions_where(mini_scores, plus_scores, is_zero_gain(mini_scores, plus_scores))


def intra_task_difficulty(
    mini: npt.ArrayLike,
    plus: npt.ArrayLike,
    higher_is_better: bool | Sequence[bool] = True,
    *,
    tasks: Sequence[str] | None = None,
) -> FloatArray:
    """D[i] = 1 - V[mini, i] / V[plus_i, i]; for lower-is-better metrics 1 - V[plus_i, i] / V[mini, i].

    D is 0 if the mini model is as good as the one trained on all of the task, and 1 if V[mini, i] = 0.

    Args:
        mini: V[mini, i], [N], raw.
        plus: V[plus_i, j], [N, N], or its diagonal alone, [N]; raw.
        higher_is_better: one bool, or one per task.
        tasks: names, for error messages.

    Returns:
        float64 [N].

    Raises:
        ValueError: the shapes do not fit, a score is NaN or infinite, or a task's denominator is 0 or below.
        TypeError: the scores are not numbers.

    >>> intra_task_difficulty([0.4, 0.0], [0.5, 0.5]).round(2)
    array([0.2, 1. ])
    >>> intra_task_difficulty([2.0], [[1.0]], higher_is_better=False)
    array([0.5])
    """
    mini_scores = float_array("mini", mini, ndim=1)
    own = float_array("plus", plus, ndim=2 if np.ndim(plus) == 2 else 1)
    same_length(mini_scores.size, plus=own)
    own = np.diagonal(own) if own.ndim == 2 else own
    higher = np.array(directions(higher_is_better, mini_scores.size))
    names = [f"task {i}" for i in range(own.size)] if tasks is None else [f"task {name!r}" for name in tasks]
    for index in np.flatnonzero(np.where(higher, own, mini_scores) <= 0):
        which = "plus" if higher[index] else "mini"
        raise ValueError(
            f"difficulty of {names[index]} is undefined: V[{which}] is "
            f"{(own if higher[index] else mini_scores)[index]:g} and must be above 0 "
            f"(V[mini] {mini_scores[index]:g}, V[plus] {own[index]:g}, "
            f"{'higher' if higher[index] else 'lower'} is better). Choose a metric with a finer scale, train longer, "
            "or give the task an explicit weight"
        )
    return np.where(higher, 1 - _ratio(mini_scores, own, higher), 1 - _ratio(own, mini_scores, ~higher))


class ImprovementAndError(NamedTuple):
    """dI and dE, in percent."""

    improvement: float
    error: float


def improvement_and_error(
    scores: npt.ArrayLike,
    single_task_scores: npt.ArrayLike,
    higher_is_better: bool | Sequence[bool] = True,
) -> ImprovementAndError:
    """Compare one model on all tasks with single-task tuning: dI = mean r_i, dE = mean max(-r_i, 0).

    r_i = 100 (m_i - s_i) / s_i, with m_i the score of the method and s_i that of single-task tuning; the sign
    changes where lower is better (CoTBal, arXiv 2403.04343, section 4).

    Args:
        scores: m, [N].
        single_task_scores: s, [N], all above 0.
        higher_is_better: one bool, or one per task.

    Returns:
        `(improvement, error)` in percent.

    Raises:
        ValueError: the shapes do not fit, a score is NaN or infinite, or a single-task score is 0 or below.
        TypeError: the scores are not numbers.

    >>> improvement, error = improvement_and_error([0.55, 0.38], [0.50, 0.40])
    >>> round(improvement, 3), round(error, 3)
    (2.5, 2.5)
    """
    relative = relative_improvements(scores, single_task_scores, higher_is_better)
    return ImprovementAndError(float(relative.mean()), float(np.maximum(-relative, 0).mean()))


def relative_improvements(
    scores: npt.ArrayLike,
    single_task_scores: npt.ArrayLike,
    higher_is_better: bool | Sequence[bool] = True,
) -> FloatArray:
    """Return r_i = 100 (m_i - s_i) / s_i in percent, [N]; arguments and errors as in `improvement_and_error`.

    >>> relative_improvements([0.55, 0.9], [0.50, 1.2], [True, False]).round(2)
    array([10., 25.])
    """
    method = float_array("scores", scores, ndim=1)
    single = float_array("single_task_scores", single_task_scores, ndim=1)
    same_length(method.size, single_task_scores=single)
    for index in np.flatnonzero(single <= 0):
        raise ValueError(
            f"single_task_scores[{index}] is {single[index]:g}; a relative improvement needs it above 0. "
            "Leave the task out of this summary, or use another metric"
        )
    sign = np.where(directions(higher_is_better, method.size), 1.0, -1.0)
    return 100 * sign * (method - single) / single


def is_zero_gain(mini: FloatArray, plus: FloatArray) -> BoolArray:
    """Mark the tasks j whose V[plus_j, j] equals V[mini, j] up to rounding, [N]."""
    own = np.diagonal(plus)
    close: BoolArray = np.abs(own - mini) <= _ROUNDING * np.maximum(np.abs(own), np.abs(mini))
    return close


def contributions_where(mini: FloatArray, plus: FloatArray, is_undefined: BoolArray) -> FloatArray:
    """Return C with NaN on the diagonal and in the columns that `is_undefined` [N] marks."""
    denominators = np.diagonal(plus) - mini
    denominators[is_undefined | (denominators == 0)] = np.nan
    contributions = (plus - mini) / denominators
    np.fill_diagonal(contributions, np.nan)
    return contributions


def _ratio(numerator: FloatArray, denominator: FloatArray, where: BoolArray) -> FloatArray:
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=where)
