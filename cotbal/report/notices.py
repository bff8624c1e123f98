"""What a reader must know before believing the rest, in plain words."""

from __future__ import annotations

import numpy as np

from cotbal.measure import UndefinedColumn
from cotbal.report.inputs import ReportInput
from cotbal.report.names import count, score, strategy_label
from cotbal.report.verdict import Judgement


def notices(report: ReportInput, judgement: Judgement | None) -> tuple[str, ...]:
    """All warnings of a report: undefined columns, weights within noise, what was left out, broken records."""
    found: list[str] = list(report.warnings)
    if report.measurement is not None:
        found += [_undefined(column) for column in report.measurement.undefined]
    found += _noise(report)
    if judgement is not None:
        reference = strategy_label(judgement.reference or "")
        found += [
            f"dI and dE leave out task {task} for every strategy: {reason}."
            for task, reason in judgement.left_out
            if reference
        ]
        found += [f"A run is left out of the comparison: {text}." for text in judgement.incomplete]
    unfinished = [unit.name for unit in report.provenance.units if unit.state != "scored"]
    if unfinished:
        found.append(
            f"{count(len(unfinished), 'run is', 'runs are')} not finished, so this report is not complete: "
            f"{', '.join(unfinished)}."
        )
    if report.problems:
        found.append(
            f"{count(len(report.problems), 'record')} in "
            f"{count(len({problem.file for problem in report.problems}), 'file')} could not be used; see the "
            "problems in the data."
        )
    return tuple(dict.fromkeys(found))


def _undefined(column: UndefinedColumn) -> str:
    return (
        f"Contributions to task {column.task} are undefined: {column.reason} (mini {score(column.mini)}, "
        f"plus_{column.task} {score(column.plus)}). Its inward term is 1, and it is left out of the outward "
        "contributions of the others. More validation samples, a larger step from the mini to the full subset, or "
        "another metric can make it measurable."
    )


def _noise(report: ReportInput) -> list[str]:
    weights = report.weights
    if weights is None or weights.intervals is None:
        return []
    bounds = weights.intervals[weights.measured]
    known = np.isfinite(bounds).all(axis=1)
    if len(bounds) < 2 or not known.all():
        return []
    if ((bounds[:, 0] > 1) | (bounds[:, 1] < 1)).any():
        return []
    return [
        "The interval of every weight holds 1: these validation sets do not show that any task should weigh more or "
        "less than another. Larger validation sets would."
    ]
