"""The lead of one strategy over another with its interval: differences paired by seed and by test sample."""

from __future__ import annotations

import numpy as np

from cotbal.method.arrays import FloatArray
from cotbal.method.bootstrap import generator, resampled_means
from cotbal.method.seeds import SeedMean, over_seeds
from cotbal.report.inputs import SINGLE, Comparison, StrategyScores

CONFIDENCE = 0.9
_REPLICATES = 1000


def lead_interval(
    comparison: Comparison, ahead: str, behind: str, reference: str, tasks: tuple[str, ...]
) -> tuple[float, float] | None:
    """90% interval of dI(ahead) - dI(behind), in percentage points; None where it cannot be known. See `lead`."""
    found = lead(comparison, ahead, behind, reference, tasks)
    if found is None:
        return None
    interval = found.interval(CONFIDENCE)[0]
    return (float(interval[0]), float(interval[1]))


def lead(
    comparison: Comparison, ahead: str, behind: str, reference: str, tasks: tuple[str, ...]
) -> SeedMean | None:
    """dI(ahead) - dI(behind) in percentage points, as a mean over seeds [1]; None where it cannot be known.

    dI is over `tasks`, against the mean of `reference` over its seeds. Every draw takes the test samples again (whole
    groups; the same ones for both strategies, all seeds and the reference), and the deviation of the seeds' mean from
    a t distribution (`cotbal.method.seeds.over_seeds`). It needs per-sample scores and two seeds of both strategies.
    """
    first, second = ({row.seed: row for row in comparison.of(name)} for name in (ahead, behind))
    seeds = sorted(first.keys() & second.keys())
    references = comparison.of(reference)
    pairs = [(first[seed], second[seed]) for seed in seeds]
    if len(seeds) < 2 or not tasks:
        return None
    values = np.zeros((len(seeds), 1))
    draws = np.zeros((len(seeds), _REPLICATES, 1))
    for task in tasks:
        higher = comparison.higher_is_better[comparison.tasks.index(task)]
        rows = _rows(pairs, references, task, single=reference == SINGLE)
        if rows is None:
            return None
        drawn = resampled_means(rows, comparison.groups.get(task), _REPLICATES, generator(0, task))
        sign = 100 * (1 if higher else -1) / len(tasks)
        values[:, 0] += sign * _relative(rows.mean(axis=1))
        draws[:, :, 0] += sign * _relative(drawn)
    return over_seeds(values, draws, generator(0, "seeds of the lead"))


def _rows(
    pairs: list[tuple[StrategyScores, StrategyScores]],
    references: tuple[StrategyScores, ...],
    task: str,
    *,
    single: bool,
) -> FloatArray | None:
    """Differences of the pairs, [S, n], and the reference's mean over its seeds, [1, n]; None where samples lack."""
    against = [row.samples.get(task) for row in references if not single or task in row.scores]
    found = [(one.samples.get(task), other.samples.get(task)) for one, other in pairs]
    known = [row for row in (*against, *(row for pair in found for row in pair)) if row is not None]
    if not against or len(known) < len(against) + 2 * len(found) or len({row.size for row in known}) > 1:
        return None
    differences = [known[i] - known[i + 1] for i in range(len(against), len(known), 2)]
    return np.stack([*differences, np.mean(known[: len(against)], axis=0)])


def _relative(means: FloatArray) -> FloatArray:
    """Differences over the reference, the last one: [..., S + 1] -> [S, ...]; NaN where it is not above 0."""
    against = means[..., -1:]
    divided = np.divide(
        means[..., :-1], against, out=np.full_like(means[..., :-1], np.nan), where=against > 0
    )
    relative: FloatArray = np.moveaxis(divided, -1, 0)
    return relative
