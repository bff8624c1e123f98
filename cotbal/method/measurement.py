"""What each task gives to the others and how hard it is, from validation scores.

With V[m, j] the validation score of model m on task j (CoTBal, arXiv 2403.04343, section 3; VisATB in its third
version):

    C[i, j] = (V[plus_i, j] - V[mini, j]) / (V[plus_j, j] - V[mini, j])      i != j
    D[i]    = 1 - V[mini, i] / V[plus_i, i]
    out[i]  = mean over j != i of C[i, j]        in[j] = mean over i != j of C[i, j]

The hybrid estimator (not in the paper) takes the V of C from teacher-forced token accuracies and that of D from the
task's metric.
"""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from cotbal.method.arrays import FloatArray
from cotbal.method.bootstrap import (
    Gathered,
    Resampled,
    generator,
    percentile_interval,
    replicate_column,
    replicate_difficulty,
)
from cotbal.method.formulas import (
    contributions_where,
    intra_task_difficulty,
    is_zero_gain,
)
from cotbal.method.scores import ScoreTable
from cotbal.method.seeds import over_seeds
from cotbal.method.text_table import decimal, text_table
from cotbal.method.undefined import (
    UndefinedColumn,
    UndefinedContributionsWarning,
    advice,
    undefined_column,
    undefined_in_some,
)
from cotbal.tasks import MINI

__all__ = [
    "Estimator",
    "Measurement",
    "measure",
]

Estimator = Literal["full", "hybrid"]

# With fewer replicates, a 90% percentile interval is just the extremes of a handful of draws.
_FEWEST_REPLICATES = 100


@dataclass(frozen=True, eq=False)
class Measurement:
    """The result of `measure`, in the order of `tasks`; an unavailable interval is NaN.

    Attributes:
        tasks: names of the N measured tasks.
        higher_is_better: direction of each task's metric.
        mini: V[mini, j], raw, [N].
        plus: V[plus_i, j], raw, [N, N]; with the hybrid estimator the diagonal alone, and NaN elsewhere.
        contributions: C, [N, N]; NaN on the diagonal and in undefined columns.
        outward, inward: means of C over the defined entries of each row and of each column, [N]; NaN without any.
        difficulty: D, [N].
        gains: how much plus_j improves on task j (the denominators of C), positive if better, [N]; with the hybrid
            estimator in token accuracy.
        undefined: tasks whose column of C is undefined, with the reason.
        gain_intervals, outward_intervals, inward_intervals, difficulty_intervals: [N, 2].
        contribution_intervals: [N, N, 2].
        dropped: replicates left out of each column because their denominator was exactly 0, [N] int64.
        samples, groups: validation samples of each task, and groups they are resampled by; 0: means only. [N].
        confidence, replicates, seed: of the bootstrap; replicates is 0 when there was none.
        resampled: the replicates, when every defined column has some; else None. With seeds, `by_seed` has them.
        scores_sha256: hash of the score table.
        seeds: of the preparations, where there were several: then everything above is a mean over them, an entry of
            C over those that define it, and the intervals hold both variances, the seeds' and the samples'.
            Empty for one preparation, whose intervals cover the validation samples only.
        by_seed: what each of them found alone.
        estimator: "full", or "hybrid" where contributions are of token accuracies.
    """

    tasks: tuple[str, ...]
    higher_is_better: tuple[bool, ...]
    mini: FloatArray
    plus: FloatArray
    contributions: FloatArray
    outward: FloatArray
    inward: FloatArray
    difficulty: FloatArray
    gains: FloatArray
    undefined: tuple[UndefinedColumn, ...]
    gain_intervals: FloatArray
    contribution_intervals: FloatArray
    outward_intervals: FloatArray
    inward_intervals: FloatArray
    difficulty_intervals: FloatArray
    dropped: npt.NDArray[np.int64]
    samples: npt.NDArray[np.int64]
    groups: npt.NDArray[np.int64]
    confidence: float
    replicates: int
    seed: int
    resampled: Resampled | None
    scores_sha256: str
    seeds: tuple[int, ...] = ()
    by_seed: tuple[Measurement, ...] = ()
    estimator: Estimator = "full"

    @property
    def preparations(self) -> tuple[Measurement, ...]:
        """One measurement per preparation: of each seed, or this one."""
        return self.by_seed or (self,)

    def __str__(self) -> str:
        """Contributions, one line per giving task and one column per receiving one; then what they sum up to."""
        rows = [
            [
                task,
                *map(decimal, self.contributions[index].tolist()),
                decimal(self.outward[index]),
                decimal(self.inward[index]),
                decimal(self.difficulty[index]),
            ]
            for index, task in enumerate(self.tasks)
        ]
        headings = ["from", *(f"to {task}" for task in self.tasks), "outward", "inward", "difficulty"]
        lines = [text_table(headings, rows)]
        lines += [f"contributions to {lost.task} are undefined: {lost.reason}" for lost in self.undefined]
        return "\n".join(lines)

    def __repr__(self) -> str:
        undefined = f", {len(self.undefined)} undefined" if self.undefined else ""
        return f"Measurement({', '.join(self.tasks)}{undefined}; {self.replicates} replicates)"


def measure(
    scores: ScoreTable,
    *,
    accuracies: ScoreTable | None = None,
    confidence: float = 0.9,
    replicates: int = 1000,
    seed: int = 0,
    plain: bool = False,
) -> Measurement:
    """Compute every task's contributions and difficulty, with intervals, from the scores of the N + 1 models.

    The intervals are percentile intervals of a paired bootstrap. Each task's validation samples are resampled on
    their own (in whole groups if the table has groups), and every model gets the same draws. A column of C is
    **undefined** if the interval of its denominator reaches 0, decided once on the full sample; if only means are
    known, it is undefined if the denominator shows no improvement. A denominator wholly below 0 (training on all of
    a task made it worse) counts as undefined too: in the ratio, the most harmful task would get the largest
    contribution. Undefined entries leave the means, and an `UndefinedContributionsWarning` names each such task.
    Replicates whose denominator is exactly 0 are dropped and counted.

    A table with seeds is measured seed by seed, and what is found is averaged. Its intervals hold the variance of the
    seeds as well (see `cotbal.method.seeds.over_seeds`); those of a table without seeds cannot: they say how the
    result would change with other validation samples, not with another order of training.

    With `accuracies`, the estimator is hybrid: contributions are of them, difficulties of `scores`, which then needs
    no more than `mini` on every task and each `plus_<task>` on its own. Both are resampled by the same draws.

    Args:
        scores: a table with the models `mini` and `plus_<task>` for every task.
        accuracies: teacher-forced token accuracies of all these models on the same samples; None: contributions are
            of `scores` too.
        confidence: the confidence of the intervals.
        replicates: R, the number of bootstrap replicates; 0 for no bootstrap, so that the means alone decide.
        seed: the bootstrap's seed.
        plain: use the paper's formula unchanged: a column is undefined only if its denominator is 0.

    Raises:
        ValueError: a model or score is missing, a score that difficulty divides by is 0 or below (see
            `intra_task_difficulty`), or confidence, replicates or seed is out of range.
        TypeError: `scores` or `accuracies` is not a ScoreTable.

    >>> table = ScoreTable.from_means([0.5, 0.2], [[0.7, 0.3], [0.6, 0.6]], tasks=["caption", "vqa"])
    >>> found = measure(table)
    >>> found.outward.round(2), found.inward.round(2), found.difficulty.round(2)
    (array([0.25, 0.5 ]), array([0.5 , 0.25]), array([0.29, 0.67]))
    >>> print(found)
    from     to caption  to vqa  outward  inward  difficulty
    caption           -   0.250    0.250   0.500       0.286
    vqa           0.500       -    0.500   0.250       0.667
    """
    _check_arguments(scores, confidence, replicates, seed)
    if accuracies is not None:
        _check_accuracies(scores, accuracies)
    settings = (confidence, replicates, seed, plain)
    measured = _over_seeds if scores.seeds else _measure_one
    found = measured(scores, accuracies, *settings)
    for lost in found.undefined:
        warnings.warn(advice(lost, found.seeds), UndefinedContributionsWarning, stacklevel=2)
    return found


def _measure_one(
    scores: ScoreTable,
    accuracies: ScoreTable | None,
    confidence: float,
    replicates: int,
    seed: int,
    plain: bool,
) -> Measurement:
    """One preparation."""
    given = scores if accuracies is None else accuracies
    mini, plus = given.mini, given.plus
    count = len(scores.tasks)
    difficulty = intra_task_difficulty(scores.mini, scores.own, scores.higher_is_better, tasks=scores.tasks)
    signs = np.where(given.higher_is_better, 1.0, -1.0)
    gains = signs * (np.diagonal(plus) - mini)
    is_undefined = is_zero_gain(mini, plus)

    gathered = Gathered(count, replicates)
    gain_intervals = np.full((count, 2), np.nan)
    contribution_intervals = np.full((count, count, 2), np.nan)
    for j, task in enumerate(scores.tasks):
        column = replicate_column(given, task, replicates, seed)
        hard = (
            replicate_difficulty(scores, task, replicates, seed)
            if accuracies is not None
            else None
            if column is None
            else column.difficulty(j, scores.higher_is_better[j])
        )
        if column is not None:
            gain_intervals[j] = percentile_interval(signs[j] * column.gains[:, [j]], confidence)[0]
        if not plain:
            is_undefined[j] |= (gains[j] if column is None else gain_intervals[j, 0]) <= 0
        if count == 1:
            is_undefined[j] = False  # A single task has no contribution that could be undefined.
        if column is None or hard is None:
            if not is_undefined[j]:
                gathered.lose_outward()
            continue
        contributions_to = None if is_undefined[j] else column.contributions(j)
        gathered.take(j, column, contributions_to, hard)
        if contributions_to is not None:
            contribution_intervals[:, j] = percentile_interval(
                contributions_to, confidence, kept=~column.zero
            )

    undefined = tuple(
        undefined_column(given, int(j), gain_intervals[j], confidence) for j in np.flatnonzero(is_undefined)
    )
    contributions = contributions_where(mini, plus, is_undefined)
    resampled = gathered.result()
    return Measurement(
        tasks=scores.tasks,
        higher_is_better=scores.higher_is_better,
        mini=scores.mini,
        plus=scores.plus if accuracies is None else _diagonal(scores.own),
        contributions=contributions,
        outward=_mean_of_defined(contributions, axis=1),
        inward=_mean_of_defined(contributions, axis=0),
        difficulty=difficulty,
        gains=gains,
        undefined=undefined,
        gain_intervals=gain_intervals,
        contribution_intervals=contribution_intervals,
        outward_intervals=percentile_interval(resampled.outward, confidence),
        inward_intervals=percentile_interval(resampled.inward, confidence),
        difficulty_intervals=percentile_interval(resampled.difficulty, confidence),
        dropped=gathered.dropped,
        samples=gathered.samples,
        groups=gathered.groups,
        confidence=confidence,
        replicates=replicates if gathered.groups.any() else 0,
        seed=seed,
        resampled=resampled if gathered.groups.any() else None,
        scores_sha256=_sha256(scores, accuracies),
        estimator="full" if accuracies is None else "hybrid",
    )


def _over_seeds(
    scores: ScoreTable,
    accuracies: ScoreTable | None,
    confidence: float,
    replicates: int,
    seed: int,
    plain: bool,
) -> Measurement:
    """The mean of several preparations."""
    given = scores if accuracies is None else accuracies
    parts = []
    for preparation in scores.seeds:
        try:
            table = scores.of_seed(preparation)
            shares = None if accuracies is None else accuracies.of_seed(preparation)
            parts.append(_measure_one(table, shares, confidence, replicates, seed, plain))
        except ValueError as error:
            raise ValueError(f"seed {preparation}: {error}") from None
    count = len(scores.tasks)

    def interval(values: list[FloatArray], draws: list[FloatArray] | None, name: str) -> FloatArray:
        if draws is None:
            return np.full((count, 2), np.nan)
        random = generator(seed, f"seeds of {name}")
        return over_seeds(np.stack(values), np.stack(draws), random).interval(confidence)

    gains = [np.full((replicates, count), np.nan) for _ in parts]
    contribution_intervals = np.full((count, count, 2), np.nan)
    for j, task in enumerate(scores.tasks):
        columns = [replicate_column(given.of_seed(s), task, replicates, seed) for s in given.seeds]
        known = [column for column in columns if column is not None]
        if len(known) < len(parts):
            continue
        sign = 1.0 if given.higher_is_better[j] else -1.0
        draws = []
        for part, column, row in zip(parts, known, gains, strict=True):
            row[:, j] = sign * column.gains[:, j]
            lost = any(task == undefined.task for undefined in part.undefined)
            draws.append(np.full_like(column.gains, np.nan) if lost else column.contributions(j))
        contribution_intervals[:, j] = interval([p.contributions[:, j] for p in parts], draws, f"C {task}")
    resampled = [part.resampled for part in parts if part.resampled is not None]
    terms = resampled if len(resampled) == len(parts) else None
    mean = {
        name: _mean_of_defined(np.stack([getattr(part, name) for part in parts]), axis=0)
        for name in ("contributions", "outward", "inward", "difficulty", "gains", "mini", "plus")
    }
    return Measurement(
        tasks=scores.tasks,
        higher_is_better=scores.higher_is_better,
        **mean,
        undefined=undefined_in_some(scores.seeds, [part.undefined for part in parts]),
        gain_intervals=interval([p.gains for p in parts], gains if terms else None, "gains"),
        contribution_intervals=contribution_intervals,
        outward_intervals=interval(
            [p.outward for p in parts], [r.outward for r in terms] if terms else None, "outward"
        ),
        inward_intervals=interval(
            [p.inward for p in parts], [r.inward for r in terms] if terms else None, "inward"
        ),
        difficulty_intervals=interval(
            [p.difficulty for p in parts], [r.difficulty for r in terms] if terms else None, "difficulty"
        ),
        dropped=np.sum([part.dropped for part in parts], axis=0),
        samples=parts[0].samples,
        groups=parts[0].groups,
        confidence=confidence,
        replicates=parts[0].replicates,
        seed=seed,
        resampled=None,
        scores_sha256=_sha256(scores, accuracies),
        seeds=scores.seeds,
        by_seed=tuple(parts),
        estimator=parts[0].estimator,
    )


def _diagonal(values: FloatArray) -> FloatArray:
    found = np.full((values.size, values.size), np.nan)
    np.fill_diagonal(found, values)
    return found


def _sha256(scores: ScoreTable, accuracies: ScoreTable | None) -> str:
    if accuracies is None:
        return scores.sha256
    return hashlib.sha256(f"{scores.sha256} {accuracies.sha256}".encode()).hexdigest()


def _check_accuracies(scores: ScoreTable, accuracies: ScoreTable) -> None:
    if not isinstance(accuracies, ScoreTable):
        raise TypeError(f"accuracies must be a ScoreTable; found {type(accuracies).__name__}")
    if not all(accuracies.higher_is_better):
        raise ValueError("accuracies has a task for which lower is better; token accuracies are shares")
    samples = [
        {task: None if (found := table.samples(MINI, task)) is None else found.size for task in table.tasks}
        for table in (scores, accuracies)
    ]
    groups = [{t: labels.tolist() for t, labels in table.groups.items()} for table in (scores, accuracies)]
    for what, one, two in (
        ("tasks", scores.tasks, accuracies.tasks),
        ("seeds", scores.seeds, accuracies.seeds),
        ("numbers of samples", *samples),
        ("groups", *groups),
    ):
        if one != two:
            raise ValueError(
                f"scores and accuracies have other {what}; score every model on the same samples both ways"
            )


def _check_arguments(scores: ScoreTable, confidence: float, replicates: int, seed: int) -> None:
    if not isinstance(scores, ScoreTable):
        raise TypeError(
            f"scores must be a ScoreTable; found {type(scores).__name__}. Make one with "
            "ScoreTable.from_samples, .from_means or .from_csv"
        )
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; a number between 0 and 1 is needed")
    if replicates != 0 and replicates < _FEWEST_REPLICATES:
        raise ValueError(
            f"replicates is {replicates}; 0 (no bootstrap) or at least {_FEWEST_REPLICATES} is needed"
        )
    if seed < 0:
        raise ValueError(f"seed is {seed}; a whole number of at least 0 is needed")


def _mean_of_defined(contributions: FloatArray, axis: int) -> FloatArray:
    defined = ~np.isnan(contributions)
    counts = defined.sum(axis=axis)
    sums = np.where(defined, contributions, 0.0).sum(axis=axis)
    means = np.full(counts.shape, np.nan)
    np.divide(sums, counts, out=means, where=counts > 0)
    return means
