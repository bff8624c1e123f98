"""What a reader must know before believing the rest, in plain words."""

from __future__ import annotations

import numpy as np

from cotbal.method.measurement import UndefinedColumn
from cotbal.report.inputs import ReportInput
from cotbal.report.names import count, score, strategy_label
from cotbal.report.verdict import Judgement

_FEW_SAMPLES = 100  # a share of one half is then known to within 8 percentage points, 9 times in 10


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
        found += [f"Left out of the comparison: {text}." for text in judgement.incomplete]
    if report.comparison is not None and judgement is not None and judgement.verdict.ahead is not None:
        sizes = {task: size for task, size in report.comparison.samples.items() if size < _FEW_SAMPLES}
        if sizes:
            listed = ", ".join(f"{task} {size:,}" for task, size in sizes.items())
            found.append(
                f"Small test sets ({listed} samples): how far a score is due to the samples drawn is not part of the "
                "spread between seeds."
            )
    unfinished = [unit.name for unit in report.provenance.units if unit.state != "scored"]
    if unfinished:
        found.append(
            f"{count(len(unfinished), 'unit is', 'units are')} not finished, so this report is not complete: "
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
