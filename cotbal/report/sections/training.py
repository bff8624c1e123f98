"""Training losses per task: of the units that are compared, and of the preparation's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cotbal.report.document import Block, Section
from cotbal.report.inputs import Curve, ReportInput
from cotbal.report.plots.curves import Line, curves_plot
from cotbal.report.plots.palette import Look, looks
from cotbal.tasks import MINI, plus_model


def training_section(report: ReportInput) -> Section | None:
    """The training curves; None where nothing was logged."""
    models = {MINI, *(plus_model(task.name) for task in report.tasks)}
    preparation = [curve for curve in report.curves if curve.model in models]
    final = [curve for curve in report.curves if curve not in preparation]
    blocks: list[Block] = []
    if final:
        order = (*dict.fromkeys(curve.model for curve in final if curve.model != "single"), "single")
        styles = looks(tuple(reversed(order)))
        blocks.append(
            curves_plot(
                "curves",
                "Training loss per task of the compared units",
                _tasks(report, final),
                [_line(curve, curve.model) for curve in final],
                {key: styles[key] for key in order},
                "Mean loss per supervised token between two log entries, not weighted; one line per seed.",
            )
        )
    if preparation:
        blocks.append(
            curves_plot(
                "preparation",
                "Training loss per task of the preparation's units",
                _tasks(report, preparation),
                [_line(curve, _role(curve)) for curve in preparation],
                _preparation_looks(),
                "In each panel: mini, the plus unit with all of the task's data, the plus units of the others.",
            )
        )
    return Section("training", "Training", tuple(blocks)) if blocks else None


def _tasks(report: ReportInput, curves: Sequence[Curve]) -> list[str]:
    logged = {curve.task for curve in curves}
    return [task.name for task in report.tasks if task.name in logged]


def _role(curve: Curve) -> str:
    if curve.model == MINI:
        return "mini"
    return "plus" if curve.model == plus_model(curve.task) else "other"


def _preparation_looks() -> dict[str, Look]:
    return looks(("mini", "plus", "other"))


def _line(curve: Curve, look: str) -> Line:
    return Line(
        curve.task, look, np.array(curve.steps, dtype=np.float64), np.array(curve.losses, dtype=np.float64)
    )
