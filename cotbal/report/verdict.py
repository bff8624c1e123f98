"""Which strategy was ahead on the test sets, by how much, and whether that exceeds the spread between seeds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from cotbal.method.arrays import FloatArray
from cotbal.method.formulas import improvement_and_error, relative_improvements
from cotbal.report.inputs import SINGLE, Comparison
from cotbal.report.names import percent, strategy_label
from cotbal.report.paired import CONFIDENCE, lead_interval

Outcome = Literal[
    "more than the spread", "within the spread", "unknown spread", "level", "nothing to compare"
]


@dataclass(frozen=True, eq=False)
class StrategyResult:
    """The results of one strategy on the test sets, with S seeds and N tasks.

    Attributes:
        strategy: its name; seeds: [S].
        scores: [S, N], raw.
        changes: r, [S, N], percent against the reference; NaN for tasks that are left out.
        improvement, error: dI and dE by seed, [S], percent; NaN without a reference.
    """

    strategy: str
    seeds: tuple[int, ...]
    scores: FloatArray
    changes: FloatArray
    improvement: FloatArray
    error: FloatArray

    @property
    def mean_improvement(self) -> float:
        """The mean of dI over the seeds."""
        return float(self.improvement.mean())

    @property
    def mean_error(self) -> float:
        """The mean of dE over the seeds."""
        return float(self.error.mean())

    @property
    def spread(self) -> float:
        """The largest minus the smallest dI over the seeds."""
        return float(np.ptp(self.improvement))


@dataclass(frozen=True)
class Verdict:
    """The verdict of a report, and its numbers.

    Attributes:
        outcome: how the lead compares with the spread between seeds.
        sentence: the verdict in words.
        ahead, behind: the two strategies, or None if there are not two.
        lead: difference of their mean dI, percentage points.
        spread: the larger of the two spreads of dI over seeds, percentage points; NaN with one seed.
        interval: of the lead, paired by seed and test sample, where that is known; then the outcome goes by it.
    """

    outcome: Outcome
    sentence: str
    ahead: str | None = None
    behind: str | None = None
    lead: float = float("nan")
    spread: float = float("nan")
    interval: tuple[float, float] | None = None


@dataclass(frozen=True, eq=False)
class Judgement:
    """The summary of a comparison.

    Attributes:
        tasks: [N]. reference: what dI and dE compare with, `"single"` or a strategy, or None.
        reference_scores: its test scores, mean over its seeds, [N]; NaN where missing.
        results: one per strategy.
        left_out: tasks that dI and dE leave out, with the reason.
        incomplete: seeds of a strategy that lack a task's score and are left out, in words.
        verdict: the verdict.
    """

    tasks: tuple[str, ...]
    reference: str | None
    reference_scores: FloatArray
    results: tuple[StrategyResult, ...]
    left_out: tuple[tuple[str, str], ...]
    incomplete: tuple[str, ...]
    verdict: Verdict

    def result(self, strategy: str) -> StrategyResult:
        """Return the result of one strategy."""
        return next(result for result in self.results if result.strategy == strategy)


def judge(comparison: Comparison) -> Judgement:
    """Sum up a comparison.

    dI and dE of a seed are `cotbal.improvement_and_error` of its test scores against single-task tuning (mean over
    its seeds), or against equal weights where there is no single-task tuning. Tasks without a reference score above 0
    are left out, for every strategy alike. The **spread between seeds** is the largest minus the smallest dI of one
    strategy, the larger of the two strategies compared; a lead is more than the spread when it exceeds it. Where
    per-sample scores are known, the lead's interval, paired by seed and test sample, decides in its place.

    CoTBal is compared with equal weights if both exist; otherwise the two best strategies are compared.
    """
    tasks = comparison.tasks
    complete, incomplete = {}, []
    for strategy in comparison.strategies:
        rows = comparison.of(strategy)
        complete[strategy] = [row for row in rows if set(row.scores) == set(tasks)]
        incomplete += [
            f"{strategy_label(strategy)}, seed {row.seed}: not scored on "
            + ", ".join(task for task in tasks if task not in row.scores)
            for row in rows
            if set(row.scores) != set(tasks)
        ]
    strategies = [strategy for strategy, rows in complete.items() if rows]
    tables = {s: np.array([[row.scores[task] for task in tasks] for row in complete[s]]) for s in strategies}
    reference, reference_scores = _reference(comparison, tables)
    used, left_out = _usable(tasks, reference, reference_scores)
    higher = np.array(comparison.higher_is_better)
    results = []
    for strategy in strategies:
        scores = tables[strategy]
        changes = np.full(scores.shape, np.nan)
        summary = np.full((scores.shape[0], 2), np.nan)
        for row in range(scores.shape[0]) if used.any() else ():
            against = (scores[row, used], reference_scores[used], higher[used].tolist())
            changes[row, used] = relative_improvements(*against)
            summary[row] = improvement_and_error(*against)
        seeds = tuple(row.seed for row in complete[strategy])
        results.append(StrategyResult(strategy, seeds, scores, changes, summary[:, 0], summary[:, 1]))
    return Judgement(
        tasks,
        reference if used.any() else None,
        reference_scores,
        tuple(results),
        left_out,
        tuple(incomplete),
        _verdict(
            results,
            reference if used.any() else None,
            comparison,
            tuple(task for task, ok in zip(tasks, used, strict=True) if ok),
        ),
    )


def _reference(comparison: Comparison, tables: dict[str, FloatArray]) -> tuple[str | None, FloatArray]:
    single = comparison.of(SINGLE)
    if single:
        found = [[row.scores[task] for row in single if task in row.scores] for task in comparison.tasks]
        return SINGLE, np.array([np.mean(scores) if scores else np.nan for scores in found])
    if "ew" in tables:
        return "ew", tables["ew"].mean(axis=0)
    return None, np.full(len(comparison.tasks), np.nan)


def _usable(
    tasks: tuple[str, ...], reference: str | None, scores: FloatArray
) -> tuple[np.ndarray, tuple[tuple[str, str], ...]]:
    with np.errstate(invalid="ignore"):
        used = scores > 0
    if reference is None:
        return used, ()
    name = strategy_label(reference)
    reasons = [
        f"it has no {name} score"
        if np.isnan(score)
        else f"its {name} score is {score:g}, and a change in percent needs one above 0"
        for score in scores
    ]
    left_out = tuple((task, reason) for task, reason, ok in zip(tasks, reasons, used, strict=True) if not ok)
    return used, left_out


def _verdict(
    results: list[StrategyResult], reference: str | None, comparison: Comparison, tasks: tuple[str, ...]
) -> Verdict:
    if not results:
        return Verdict("nothing to compare", "No strategy has been tuned and tested on every task yet.")
    if reference is None:
        names = _listed([strategy_label(result.strategy) for result in results])
        return Verdict(
            "nothing to compare",
            f"No verdict: {names} can be compared in percent only with single-task tuning or EW, and neither has "
            "test scores above 0 to compare with.",
        )
    against = strategy_label(reference)
    if len(results) == 1:
        only = results[0]
        return Verdict(
            "nothing to compare",
            f"{strategy_label(only.strategy)} has dI {percent(only.mean_improvement)}% and dE {only.mean_error:.2f}% "
            f"against {against} ({_over(only)}); no other strategy was tuned to compare it with.",
        )
    ranked = sorted(results, key=lambda result: -result.mean_improvement)
    by_name = {result.strategy: result for result in results}
    pair = [by_name["cotbal"], by_name["ew"]] if {"cotbal", "ew"} <= set(by_name) else ranked[:2]
    ahead, behind = sorted(pair, key=lambda result: -result.mean_improvement)
    interval = lead_interval(comparison, ahead.strategy, behind.strategy, reference, tasks)
    verdict = _between(ahead, behind, against, interval)
    best = ranked[0]
    if best not in pair:
        more = (
            f" Of all {len(results)} strategies, {strategy_label(best.strategy)} had the highest dI "
            f"({percent(best.mean_improvement)}%)."
        )
        return Verdict(
            verdict.outcome,
            verdict.sentence + more,
            verdict.ahead,
            verdict.behind,
            verdict.lead,
            verdict.spread,
            verdict.interval,
        )
    return verdict


def _between(
    ahead: StrategyResult, behind: StrategyResult, against: str, interval: tuple[float, float] | None
) -> Verdict:
    first, second = strategy_label(ahead.strategy), strategy_label(behind.strategy)
    lead = ahead.mean_improvement - behind.mean_improvement
    values = _over(ahead, behind)
    if against not in (first, second):
        both = f"dI {percent(ahead.mean_improvement)}% and {percent(behind.mean_improvement)}%"
        values = f"{both} against {against}, {values}"
    fewest = min(len(ahead.seeds), len(behind.seeds))
    spread = max(ahead.spread, behind.spread) if fewest > 1 else float("nan")
    if lead == 0:
        sentence = f"{first} and {second} were level ({values})."
        return Verdict("level", sentence, ahead.strategy, behind.strategy, 0.0, spread)
    sentence = f"{first} was ahead of {second} by {_points(lead)} of dI ({values})"
    shared = sorted(set(ahead.seeds) & set(behind.seeds))
    if len(shared) > 1:
        wins = sum(
            ahead.improvement[ahead.seeds.index(seed)] > behind.improvement[behind.seeds.index(seed)]
            for seed in shared
        )
        sentence += f", with {wins} of {len(shared)} seeds in its favour"
    outcome: Outcome
    if fewest == 1:
        outcome = "unknown spread"
        sentence += (
            ". One seed does not show the spread between seeds, so this does not show which is better."
        )
    elif interval is not None:
        outcome = "more than the spread" if interval[0] > 0 else "within the spread"
        sentence += (
            f". Paired by seed and test sample, the lead lies between {percent(interval[0])} and "
            f"{percent(interval[1])} points ({CONFIDENCE:.0%} interval)"
        )
        sentence += (
            ": more than the chance of seeds and samples explains."
            if interval[0] > 0
            else ", so chance alone can explain it: these units do not show which is better."
        )
        if interval[0] > 0 and "cotbal" in (ahead.strategy, behind.strategy):
            sentence += " That holds for these task weights; another preparation could give others."
    elif lead > spread:
        outcome = "more than the spread"
        sentence += f". That is more than the spread between seeds ({_points(spread)})."
    else:
        outcome = "within the spread"
        sentence += (
            f". That is not more than the spread between seeds ({_points(spread)}), so these units do not show which "
            "is better."
        )
    return Verdict(outcome, sentence, ahead.strategy, behind.strategy, lead, spread, interval)


def _over(*results: StrategyResult) -> str:
    counts = sorted({len(result.seeds) for result in results})
    if counts == [1]:
        return "one seed"
    return f"means over {' and '.join(map(str, counts))} seeds"


def _points(value: float) -> str:
    return f"{value:.2f} percentage points"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
