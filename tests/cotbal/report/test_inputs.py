"""What a report is made from is checked before it is made."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from support.pages.made_reports import made_report

from cotbal.report import Comparison, Curve, ReportInput, StrategyScores
from cotbal.tasks import Task


def test_scores_must_be_finite() -> None:
    with pytest.raises(ValueError, match="'ew', seed 3, on task 'vqa' is nan"):
        StrategyScores("ew", 3, {"vqa": math.nan})


def test_each_run_is_given_once() -> None:
    with pytest.raises(ValueError, match="'ew' with seed 0 twice"):
        Comparison(("vqa",), (True,), (StrategyScores("ew", 0, {}), StrategyScores("ew", 0, {})))


def test_runs_have_scores_of_known_tasks_only() -> None:
    with pytest.raises(ValueError, match="a score of 'ocr'"):
        Comparison(("vqa",), (True,), (StrategyScores("ew", 0, {"ocr": 0.5}),))


@pytest.mark.parametrize(
    ("steps", "losses", "message"), [((1, 2), (0.1,), "2 steps and 1"), ((2, 1), (0.1, 0.2), "ascend")]
)
def test_curves_are_checked(steps: tuple[int, ...], losses: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Curve("mini", "mini", 0, "vqa", steps, losses)


def test_every_part_has_the_tasks_of_the_report() -> None:
    report = made_report(2, compared=False)
    with pytest.raises(
        ValueError, match=r"scores has a task 'vqa'; the tasks of the report are \['caption'\]"
    ):
        replace(report, tasks=report.tasks[:1])
    with pytest.raises(ValueError, match="named twice"):
        ReportInput("twice", (Task("vqa", "anls"), Task("vqa", "anls")))


def test_all_weights_are_in_the_order_of_the_tasks_and_include_given_ones() -> None:
    report = made_report(2, explicit=True, compared=False)
    shuffled = replace(report, tasks=(report.tasks[2], report.tasks[1], report.tasks[0]))
    weights = shuffled.all_weights
    assert weights is not None
    assert weights.tasks == ("text-only", "vqa", "caption")
    assert weights.as_dict()["text-only"] == 0.5
    assert replace(report, weights=None).all_weights is None
