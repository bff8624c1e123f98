"""The weights, first of all sections: a table, and a picture of what each is averaged from."""

from __future__ import annotations

import numpy as np

from cotbal.method.weights import TaskWeights
from cotbal.report.document import Block, Cell, Section, Table, Text, absent, name_cell
from cotbal.report.inputs import ReportInput
from cotbal.report.names import interval, number
from cotbal.report.plots.weights import Estimate, weights_plot

_MARK = "†"


def weights_section(report: ReportInput) -> Section:
    """Table and picture of the weights."""
    weights = report.all_weights
    if weights is None:
        return Section("weights", "Weights", (Text(_why_none(report)),))
    blocks: list[Block] = [_table(report, weights)]
    if weights.measured.any():
        bounds = weights.intervals
        lower, upper = (None, None) if bounds is None else (bounds[:, 0], bounds[:, 1])
        terms = {name: Estimate(getattr(weights, name)) for name in ("outward", "inward", "difficulty")}
        blocks.append(weights_plot(weights.tasks, Estimate(weights.values, lower, upper), terms))
    return Section("weights", "Weights", tuple(blocks))


def _why_none(report: ReportInput) -> str:
    if not any(task.is_measured for task in report.tasks):
        return "No task has a validation set, so no weight is measured; all are the config's."
    return "The tasks have not been weighed yet. Preparation has to be finished first; then `cotbal weigh` does it."


def _table(report: ReportInput, weights: TaskWeights) -> Table:
    lost_in, lost_out = _undefined_terms(report)
    bounds = weights.intervals
    rows = []
    for index, task in enumerate(weights.tasks):
        metric = report.task(task).metric
        if not weights.measured[index]:
            given = absent("given")
            rows.append(
                (
                    name_cell(task),
                    Cell("not measured", kind="quiet words"),
                    Cell(number(float(weights.values[index])), kind="strong"),
                )
                + (given,) * 3
            )
            continue
        small = "" if bounds is None else interval(float(bounds[index, 0]), float(bounds[index, 1]))
        rows.append(
            (
                name_cell(task),
                Cell(metric or "", kind="words"),
                Cell(number(float(weights.values[index])), small, "strong"),
                Cell(number(float(weights.outward[index])) + (_MARK if task in lost_out else "")),
                Cell(number(float(weights.inward[index])) + (_MARK if task in lost_in else "")),
                Cell(number(float(weights.difficulty[index]))),
            )
        )
    notes = [f"Temperature {weights.temperature:g}."]
    if bounds is not None and weights.provenance.confidence is not None:
        notes.append(
            f"In brackets: {weights.provenance.confidence:.0%} intervals from the validation samples."
        )
    if weights.provenance.shrink:
        notes.append("Each term is shrunk toward 1 by its own uncertainty.")
    if lost_in or lost_out:
        notes.append(f"{_MARK} The contribution is undefined, so the term is 1.")
    return Table(
        "Weight of each task",
        ("Task", "Metric", "Weight", "Outward term", "Inward term", "Difficulty term"),
        tuple(rows),
        " ".join(notes),
    )


def _undefined_terms(report: ReportInput) -> tuple[set[str], set[str]]:
    """Tasks whose inward, and whose outward, term is 1 for want of a defined contribution."""
    found = report.measurement
    if found is None:
        return set(report.weights.provenance.undefined if report.weights else ()), set()
    if len(found.tasks) == 1:
        return set(), set()
    inward = {task for task, value in zip(found.tasks, found.inward, strict=True) if np.isnan(value)}
    outward = {task for task, value in zip(found.tasks, found.outward, strict=True) if np.isnan(value)}
    return inward, outward
