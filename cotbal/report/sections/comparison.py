"""What was tuned, on the test sets: per task, summed up, and seed by seed."""

from __future__ import annotations

import numpy as np

from cotbal.report.document import Block, Cell, Section, Table, Text, absent, name_cell
from cotbal.report.inputs import SINGLE, Comparison, ReportInput
from cotbal.report.names import UNDEFINED, percent, score, strategy_label
from cotbal.report.plots.comparison import Series, changes_plot, summary_plot
from cotbal.report.plots.palette import looks
from cotbal.report.verdict import Judgement, StrategyResult


def comparison_section(report: ReportInput, judgement: Judgement | None) -> Section | None:
    """Test scores and their summary; None where nothing was compared."""
    comparison = report.comparison
    if comparison is None or judgement is None:
        return None
    blocks: list[Block] = []
    if judgement.results:
        blocks.append(_task_table(report, comparison, judgement))
        if judgement.reference is not None:
            reference = strategy_label(judgement.reference)
            series = _series(judgement)
            blocks.append(summary_plot(series, reference))
            blocks.append(changes_plot(judgement.tasks, series, reference))
    blocks.append(_seed_table(comparison, judgement))
    if judgement.reference is not None:
        blocks.append(Text(_definition(judgement.reference)))
    return Section("comparison", "Comparison on the test sets", tuple(blocks))


def _definition(reference: str) -> str:
    against = (
        "single-task tuning (its mean over seeds)"
        if reference == SINGLE
        else f"{strategy_label(reference)} (mean)"
    )
    return (
        f"With s the test score of {against} and m that of a strategy, a task's change is r = 100 (m − s) / s, its "
        "sign turned where lower is better. dI is the mean of r over the tasks, dE the mean of max(−r, 0). The "
        "spread between seeds is the largest minus the smallest dI of a strategy."
    )


def _series(judgement: Judgement) -> list[Series]:
    styles = looks(tuple(result.strategy for result in judgement.results))
    return [
        Series(styles[result.strategy], result.changes, result.improvement, result.error)
        for result in judgement.results
    ]


def _task_table(report: ReportInput, comparison: Comparison, judgement: Judgement) -> Table:
    with_single = judgement.reference == SINGLE or bool(comparison.of(SINGLE))
    columns = ["Task", "Metric", *(["Samples"] if comparison.samples else [])]
    columns += ["single-task"] if with_single else []
    blanks = (Cell(""),) * (len(columns) - 1)
    columns += [strategy_label(result.strategy) for result in judgement.results]
    rows = []
    for index, task in enumerate(judgement.tasks):
        higher = comparison.higher_is_better[index]
        metric = report.task(task).metric or "score"
        cells = [name_cell(task), Cell(f"{metric} {'↑' if higher else '↓'}", kind="words")]
        if comparison.samples:
            cells.append(
                Cell(f"{comparison.samples[task]:,}") if task in comparison.samples else absent("unknown")
            )
        if with_single:
            single = [row.scores[task] for row in comparison.of(SINGLE) if task in row.scores]
            cells.append(Cell(score(float(np.mean(single)))) if single else absent("not tuned"))
        means = [float(result.scores[:, index].mean()) for result in judgement.results]
        best = max(means) if higher else min(means)
        for result, mean in zip(judgement.results, means, strict=True):
            change = _mean(result.changes[:, index])
            small = (
                "" if np.isnan(change) or result.strategy == judgement.reference else f"{percent(change)}%"
            )
            kind = "strong" if mean == best and len(means) > 1 else ""
            cells.append(Cell(score(mean), small, kind))
        rows.append(tuple(cells))
    foot = [
        (name_cell("dI, %"), *blanks, *(_over_seeds(r.improvement, sign=True) for r in judgement.results)),
        (name_cell("dE, %"), *blanks, *(_over_seeds(r.error, sign=False) for r in judgement.results)),
    ]
    against = strategy_label(judgement.reference) if judgement.reference else None
    note = "Mean over seeds; bold: the best strategy. ↑ higher is better, ↓ lower is better."
    if against:
        note += (
            f" Beside each score: its change against {against}. Beside dI and dE: their range over the seeds."
        )
    return Table("Test scores", tuple(columns), tuple(rows), note, tuple(foot) if against else ())


def _over_seeds(values: np.ndarray, *, sign: bool) -> Cell:
    if np.isnan(values).any():
        return absent(UNDEFINED)
    ends = f"{percent(float(values.min()), sign=sign)} to {percent(float(values.max()), sign=sign)}"
    return Cell(percent(float(values.mean()), sign=sign), ends if values.size > 1 else "", "strong")


def _seed_table(comparison: Comparison, judgement: Judgement) -> Table:
    found = {result.strategy: result for result in judgement.results}
    rows = []
    for strategy in (*comparison.strategies, SINGLE):
        for row in comparison.of(strategy):
            cells = [name_cell(strategy_label(strategy)), Cell(str(row.seed))]
            cells += _summary_cells(found.get(strategy), row.seed)
            cells += [
                Cell(score(row.scores[task])) if task in row.scores else absent("not scored")
                for task in comparison.tasks
            ]
            rows.append(tuple(cells))
    return Table(
        "Test scores, seed by seed",
        ("Strategy", "Seed", "dI, %", "dE, %", *comparison.tasks),
        tuple(rows),
        folded=bool(judgement.results),
    )


def _summary_cells(result: StrategyResult | None, seed: int) -> list[Cell]:
    if result is None or seed not in result.seeds:
        return [Cell(""), Cell("")]
    index = result.seeds.index(seed)
    values = ((float(result.improvement[index]), True), (float(result.error[index]), False))
    return [
        absent(UNDEFINED) if np.isnan(value) else Cell(percent(value, sign=sign)) for value, sign in values
    ]


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")
