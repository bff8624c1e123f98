"""From the input values to the document: everything a report says, in order."""

from __future__ import annotations

import numpy as np

from cotbal.report.document import Document, KeyFigure, Section
from cotbal.report.inputs import ReportInput
from cotbal.report.names import count, duration, model_label, number, percent, strategy_label
from cotbal.report.notices import notices
from cotbal.report.sections.comparison import comparison_section
from cotbal.report.sections.measurement import measurement_section
from cotbal.report.sections.record import data_section, provenance_section
from cotbal.report.sections.training import training_section
from cotbal.report.sections.weights import weights_section
from cotbal.report.verdict import Judgement, judge

_STRATEGIES_SHOWN = 3


def judgement_of(report: ReportInput) -> Judgement | None:
    """The comparison summed up; None where there is none."""
    return None if report.comparison is None else judge(report.comparison)


def build(report: ReportInput) -> Document:
    """The whole report."""
    judgement = judgement_of(report)
    sections: list[Section | None] = [
        weights_section(report),
        comparison_section(report, judgement),
        measurement_section(report),
        training_section(report),
        data_section(report),
        provenance_section(report),
    ]
    return Document(
        title=report.title,
        facts=_facts(report),
        verdict=_verdict(report, judgement),
        outcome="nothing to compare" if judgement is None else judgement.verdict.outcome,
        figures=_key_figures(report, judgement),
        notices=notices(report, judgement),
        sections=tuple(section for section in sections if section is not None),
    )


def _facts(report: ReportInput) -> tuple[str, ...]:
    facts = [count(len(report.tasks), "task")]
    if report.provenance.model:
        facts.append(model_label(report.provenance.model))
    if report.comparison is not None:
        seeds = {row.seed for row in report.comparison.scores}
        facts.append(count(len(seeds), "seed"))
    units = report.provenance.units
    if units:
        facts.append(f"{count(len(units), 'unit')} in {duration(sum(unit.total_seconds for unit in units))}")
    if report.provenance.date:
        facts.append(report.provenance.date)
    return tuple(facts)


def _verdict(report: ReportInput, judgement: Judgement | None) -> str:
    if judgement is not None:
        return judgement.verdict.sentence
    if report.weights is None:
        return "Nothing has been weighed or compared yet."
    return "Nothing has been compared yet: the tasks are weighed, but no model has been tuned and tested."


def _key_figures(report: ReportInput, judgement: Judgement | None) -> tuple[KeyFigure, ...]:
    figures = []
    if judgement is not None and judgement.reference is not None:
        first = [judgement.verdict.ahead, judgement.verdict.behind]
        order = sorted(judgement.results, key=lambda r: (r.strategy not in first, -r.mean_improvement))
        for result in order[:_STRATEGIES_SHOWN]:
            if np.isnan(result.mean_improvement):
                continue
            figures.append(
                KeyFigure(
                    f"dI of {strategy_label(result.strategy)}",
                    f"{percent(result.mean_improvement)}%",
                    f"dE {percent(result.mean_error, sign=False)}%",
                )
            )
        if not np.isnan(judgement.verdict.lead):
            verdict = judgement.verdict
            spread = "unknown" if np.isnan(verdict.spread) else number(verdict.spread, 2)
            figures.append(
                KeyFigure(
                    f"Lead of {strategy_label(verdict.ahead or '')} over {strategy_label(verdict.behind or '')}",
                    number(verdict.lead, 2),
                    f"points of dI; spread between seeds {spread}",
                )
            )
    weights = report.all_weights
    if weights is not None and len(weights.tasks) > 1:
        low, high = int(np.argmin(weights.values)), int(np.argmax(weights.values))
        figures.append(KeyFigure("Largest weight", number(float(weights.values[high])), weights.tasks[high]))
        figures.append(KeyFigure("Smallest weight", number(float(weights.values[low])), weights.tasks[low]))
    return tuple(figures)
