"""What the terminal shows in the end: one table, and the last line of the report."""

from __future__ import annotations

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from cotbal.report.inputs import SINGLE, ReportInput
from cotbal.report.names import number, percent, score, strategy_label
from cotbal.report.verdict import Judgement, Verdict, judge

_NARROWEST = 16  # characters a task's name gets at least
_CHANGES_UP_TO = 2  # strategies: with more, a terminal of 80 columns has no room for the changes


def print_summary(report: ReportInput, console: Console | None = None) -> None:
    """Print `summary(report)`."""
    (console or Console()).print(summary(report))


def summary(report: ReportInput) -> RenderableType:
    """Weight and test scores of every task, dI and dE, then who was ahead; less where there is less to say.

    Scores are means over seeds; with up to two strategies, each has its change in percent against the reference of dI
    beside it.
    """
    judgement = None if report.comparison is None else judge(report.comparison)
    parts: list[RenderableType] = []
    if report.weights is not None or (judgement is not None and judgement.results):
        parts.append(_table(report, judgement))
    last = None if judgement is None else judgement.verdict
    parts.append(_last_line(report, last))
    return Group(*parts)


def _table(report: ReportInput, judgement: Judgement | None) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", footer_style="bold")
    rows = [[Text(task.name)] for task in report.tasks]
    weights = {} if report.all_weights is None else report.all_weights.as_dict()
    footer = "dI, %\ndE, %" if judgement is not None and judgement.reference else ""
    longest = max(len(task.name) for task in report.tasks)
    table.add_column("task", footer, overflow="fold", min_width=min(longest, _NARROWEST))
    if weights:
        table.add_column("weight", justify="right", no_wrap=True)
        for task, row in zip(report.tasks, rows, strict=True):
            row.append(Text(number(weights[task.name]) if task.name in weights else ""))
    if judgement is not None and judgement.results:
        _add_scores(table, rows, report, judgement)
    table.show_footer = bool(judgement is not None and judgement.reference)
    for row in rows:
        table.add_row(*row)
    return table


def _add_scores(table: Table, rows: list[list[Text]], report: ReportInput, judgement: Judgement) -> None:
    comparison = report.comparison
    single = () if comparison is None else comparison.of(SINGLE)
    if single:
        table.add_column(strategy_label(SINGLE), justify="right", no_wrap=True)
        for task, row in zip(report.tasks, rows, strict=True):
            found = [row.scores[task.name] for row in single if task.name in row.scores]
            row.append(Text(score(float(np.mean(found))) if found else ""))
    with_changes = len(judgement.results) <= _CHANGES_UP_TO
    place = {task: index for index, task in enumerate(judgement.tasks)}
    for result in judgement.results:
        sums = ""
        if judgement.reference:
            sums = f"{percent(result.mean_improvement)}\n{percent(result.mean_error, sign=False)}"
        table.add_column(strategy_label(result.strategy), sums, justify="right", no_wrap=True)
        for task, row in zip(report.tasks, rows, strict=True):
            if task.name not in place:
                row.append(Text(""))
                continue
            index = place[task.name]
            cell = Text(score(float(result.scores[:, index].mean())))
            change = float(result.changes[:, index].mean())
            if with_changes and judgement.reference not in (None, result.strategy):
                text = "" if np.isnan(change) else f"{percent(change)}%"
                cell.append(f"{text:>9}", style="dim")
            row.append(cell)


def _last_line(report: ReportInput, verdict: Verdict | None) -> Text:
    if verdict is None:
        missing = (
            "nothing has been weighed yet" if report.weights is None else "nothing has been compared yet"
        )
        return Text(f"{missing[0].upper()}{missing[1:]}.")
    styles = {"more than the spread": "bold green", "within the spread": "bold yellow"}
    return Text(f"\n{verdict.sentence}", style=styles.get(verdict.outcome, "bold"))
