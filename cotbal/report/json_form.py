"""A report for machines: every number of the input in full precision, null where one is undefined."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cotbal.method.measurement import Measurement
from cotbal.method.scores import ScoreTable
from cotbal.method.weights import TaskWeights
from cotbal.report.inputs import ReportInput
from cotbal.report.notices import notices
from cotbal.report.verdict import Judgement

FORMAT = "cotbal-report"
VERSION = 1


def as_json(report: ReportInput, judgement: Judgement | None) -> dict[str, Any]:
    """The report as values that JSON knows.

    Arrays are lists in the order of the `tasks` beside them; intervals are [lower, upper]. Validation scores are
    means with the number of samples behind them (the samples themselves stay in `scores.csv`), and bootstrap
    replicates are left out: both are the raw material of numbers that are here.
    """
    weights = report.all_weights
    return {
        "format": FORMAT,
        "version": VERSION,
        "title": report.title,
        "tasks": plain(report.tasks),
        "verdict": None if judgement is None else plain(judgement.verdict),
        "notices": list(notices(report, judgement)),
        "weights": None if weights is None else _weights(weights),
        "measurement": None if report.measurement is None else _measurement(report.measurement),
        "scores": None if report.scores is None else _scores(report.scores),
        "comparison": _comparison(report, judgement),
        "curves": plain(report.curves),
        "problems": plain(report.problems),
        "provenance": plain(report.provenance),
    }


def plain(value: Any) -> Any:
    """Dataclasses, arrays, mappings and paths as objects, lists and strings; NaN as null.

    >>> plain({"a": (1.5, float("nan")), "b": np.array([[1.0, np.nan]])})
    {'a': [1.5, None], 'b': [[1.0, None]]}
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _weights(weights: TaskWeights) -> dict[str, Any]:
    return {"measured": weights.measured.tolist(), **plain(weights)}


def _measurement(found: Measurement) -> dict[str, Any]:
    values: dict[str, Any] = plain(found)
    del values["resampled"]
    return values


def _scores(scores: ScoreTable) -> dict[str, Any]:
    table: dict[str, dict[str, Any]] = {}
    for model in scores.models:
        table[model] = {}
        for task in scores.tasks:
            if scores.has(model, task):
                samples = scores.samples(model, task)
                table[model][task] = {
                    "mean": scores.mean(model, task),
                    "samples": None if samples is None else len(samples),
                }
    return {
        "tasks": list(scores.tasks),
        "higher_is_better": list(scores.higher_is_better),
        "sha256": scores.sha256,
        "models": table,
    }


def _comparison(report: ReportInput, judgement: Judgement | None) -> dict[str, Any] | None:
    if report.comparison is None or judgement is None:
        return None
    summary = {
        "reference": judgement.reference,
        "reference_scores": plain(judgement.reference_scores),
        "left_out": [{"task": task, "reason": reason} for task, reason in judgement.left_out],
        "incomplete": list(judgement.incomplete),
        "strategies": [
            {
                **plain(result),
                "mean_improvement": plain(result.mean_improvement),
                "mean_error": plain(result.mean_error),
                "spread": plain(result.spread),
            }
            for result in judgement.results
        ],
    }
    return {**plain(report.comparison), "summary": summary}
