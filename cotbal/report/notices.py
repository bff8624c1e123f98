"""What a reader must know before relying on the rest, in plain words."""

from __future__ import annotations

from cotbal.method.undefined import UndefinedColumn
from cotbal.report.inputs import ReportInput
from cotbal.report.names import count, score, strategy_label
from cotbal.report.sections.certainty import certainty, equality
from cotbal.report.verdict import Judgement

_FEW_SAMPLES = 100  # then a share of one half is known to within 8 percentage points, 9 times in 10


def notices(report: ReportInput, judgement: Judgement | None) -> tuple[str, ...]:
    """Return all warnings of a report: undefined columns, weights within noise, omissions, broken records."""
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
                f"Small test sets ({listed} samples): the spread between seeds does not show how much "
                "a score depends on the choice of samples."
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
            f"{count(len({problem.file for problem in report.problems}), 'file')} could not be used; see "
            "Problems in the data."
        )
    return tuple(dict.fromkeys(found))


def _undefined(column: UndefinedColumn) -> str:
    where = there = ""
    if column.seeds:
        where = f" with {'seed' if len(column.seeds) == 1 else 'seeds'} {', '.join(map(str, column.seeds))}"
        there = "there "
    return (
        f"Contributions to task {column.task} are undefined{where}: {column.reason} (mini {score(column.mini)}, "
        f"plus_{column.task} {score(column.plus)}). Its inward term is {there}1, and it is left out of the outward "
        "contributions of the others. More validation samples, a larger step from the mini to the full subset, or "
        "another metric can make it measurable."
    )


def _noise(report: ReportInput) -> list[str]:
    found = certainty(report)
    return [] if found is None or found.differ else [equality(found)]
