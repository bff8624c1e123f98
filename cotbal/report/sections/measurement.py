"""Show where the weights come from: validation scores, contributions, difficulties."""

from __future__ import annotations

from cotbal.method.arrays import FloatArray
from cotbal.method.measurement import Measurement
from cotbal.method.scores import ScoreTable
from cotbal.report.document import Block, Cell, Section, Table, Text, absent, name_cell
from cotbal.report.inputs import ReportInput
from cotbal.report.names import UNDEFINED, interval, number, score
from cotbal.report.plots.heat_map import contribution_heat_map
from cotbal.report.plots.weights import Estimate, measures_plot
from cotbal.tasks import MINI, plus_model


def measurement_section(report: ReportInput) -> Section | None:
    """Make the section of contributions, difficulties and their scores; None if there are none."""
    found = report.measurement
    if report.scores is None and found is None:
        return None
    blocks: list[Block] = []
    if found is not None:
        blocks += _measures(found)
    else:
        blocks.append(Text("Contributions and difficulties have not been measured yet."))
    if report.scores is not None:
        blocks.append(_score_table(report, report.scores))
    return Section("measurement", "Where the weights come from", tuple(blocks))


def _measures(found: Measurement) -> list[Block]:
    blocks: list[Block] = []
    if found.estimator == "hybrid":
        blocks.append(Text(_hybrid_note(len(found.tasks))))
    if len(found.tasks) > 1:
        bounds = found.contribution_intervals
        blocks.append(
            contribution_heat_map(
                found.tasks,
                found.contributions,
                found.outward,
                found.inward,
                lower=bounds[..., 0],
                upper=bounds[..., 1],
            )
        )
        blocks.append(_contribution_table(found))
    else:
        blocks.append(
            Text("With a single task there are no contributions to other tasks, and its weight is 1.")
        )
    blocks.append(
        measures_plot(
            found.tasks,
            _estimate(found.outward, found.outward_intervals),
            _estimate(found.inward, found.inward_intervals),
            _estimate(found.difficulty, found.difficulty_intervals),
        )
    )
    blocks.append(_measure_table(found))
    return blocks


def _hybrid_note(count: int) -> str:
    return (
        "Estimator: hybrid. Contributions are of teacher-forced token accuracies (the share of a given answer's "
        "tokens that a model ranks first), difficulties of generated answers by each task's metric. It spares "
        f"{count * (count - 1)} of {count * (count + 1)} passes of generation per preparation. What it loses: an "
        "effect that shows in whole answers only, since every token is judged after the right ones."
    )


def _estimate(values: FloatArray, bounds: FloatArray) -> Estimate:
    return Estimate(values, bounds[:, 0], bounds[:, 1])


def _value(value: float, bounds: FloatArray, digits: int = 3) -> Cell:
    text = number(value, digits)
    small = interval(float(bounds[0]), float(bounds[1]), digits)
    return Cell(text, small, "quiet" if text == UNDEFINED else "")


def _measure_table(found: Measurement) -> Table:
    rows = []
    alone = len(found.tasks) == 1
    for i, task in enumerate(found.tasks):
        rows.append(
            (
                name_cell(task),
                Cell(score(float(found.mini[i]))),
                Cell(score(float(found.plus[i, i]))),
                Cell(score(float(found.gains[i])), _score_interval(found.gain_intervals[i])),
                absent("no other task")
                if alone
                else _value(float(found.outward[i]), found.outward_intervals[i]),
                absent("no other task")
                if alone
                else _value(float(found.inward[i]), found.inward_intervals[i]),
                _value(float(found.difficulty[i]), found.difficulty_intervals[i]),
                Cell(f"{found.samples[i]:,}") if found.samples[i] else absent("means only"),
            )
        )
    return Table(
        "Gain, contributions and difficulty of each task",
        (
            "Task",
            "Mini\nscore",
            "Plus\nscore on its own task",
            "Gain in token accuracy" if found.estimator == "hybrid" else "Gain\nbetter is positive",
            "Outward contribution",
            "Inward contribution",
            "Difficulty",
            "Validation samples",
        ),
        tuple(rows),
        _bootstrap_note(found),
    )


def _score_interval(bounds: FloatArray) -> str:
    lower, upper = score(float(bounds[0])), score(float(bounds[1]))
    return "" if UNDEFINED in (lower, upper) else f"[{lower}, {upper}]"


def _bootstrap_note(found: Measurement) -> str:
    if found.replicates == 0:
        return "Only mean scores are known, so there are no intervals."
    over = "the validation samples" + (" and the seeds" if found.seeds else " only")
    note = (
        f"In brackets: {found.confidence:.0%} intervals of a paired bootstrap over {over} "
        f"({found.replicates:,} replicates"
    )
    grouped = ((found.groups > 0) & (found.groups < found.samples)).any()
    note += ", samples of one picture resampled together)." if grouped else ")."
    lost = [
        f"{task} {dropped:,}"
        for task, dropped in zip(found.tasks, found.dropped.tolist(), strict=True)
        if dropped
    ]
    if lost:
        note += f" Replicates with no gain to divide by were dropped: {', '.join(lost)}."
    return note


def _contribution_table(found: Measurement) -> Table:
    rows = []
    for i, giver in enumerate(found.tasks):
        cells = [
            absent("itself")
            if i == j
            else _value(float(found.contributions[i, j]), found.contribution_intervals[i, j])
            for j in range(len(found.tasks))
        ]
        rows.append((name_cell(giver), *cells))
    return Table(
        "Contributions in figures",
        ("From, to", *found.tasks),
        tuple(rows),
        folded=True,
    )


def _score_table(report: ReportInput, scores: ScoreTable) -> Table:
    own = {plus_model(task): task for task in scores.tasks}
    rows = []
    for model in (MINI, *own, *(m for m in scores.models if m != MINI and m not in own)):
        if model not in scores.models:
            continue
        cells = []
        for task in scores.tasks:
            if not scores.has(model, task):
                cells.append(absent("not scored"))
                continue
            cells.append(
                Cell(score(scores.mean(model, task)), kind="strong" if own.get(model) == task else "")
            )
        rows.append((name_cell(model), *cells))
    heads = []
    for task, higher in zip(scores.tasks, scores.higher_is_better, strict=True):
        metric = report.task(task).metric or "score"
        heads.append(f"{task}\n{metric} {'↑' if higher else '↓'}")
    return Table(
        "Validation scores of every preparation model",
        ("Model", *heads),
        tuple(rows),
        "Mini: a small subset of every task. plus_x: all of task x and the small subsets of the others. "
        "Bold: a model's own task. ↑ higher is better, ↓ lower is better.",
    )
