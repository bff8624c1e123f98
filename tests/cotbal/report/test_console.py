"""What the terminal shows in the end."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
from rich.console import Console
from support.pages.made_reports import made_report

from cotbal.report import ReportInput, judge
from cotbal.report.console import print_summary


def printed(report: ReportInput, width: int = 100) -> list[str]:
    console = Console(width=width, force_terminal=False)
    with console.capture() as capture:
        print_summary(report, console)
    return capture.get().splitlines()


@pytest.mark.parametrize("width", [80, 120])
def test_every_task_has_its_line_and_the_verdict_comes_last(width: int) -> None:
    report = made_report(3, explicit=True)
    assert report.comparison is not None
    assert report.all_weights is not None
    lines = printed(report, width)
    judged = judge(report.comparison)
    for task in report.tasks:
        (line,) = [line for line in lines if line.startswith(f"{task.name} ")]
        assert f"{report.all_weights.as_dict()[task.name]:.3f}" in line
    (header,) = [line for line in lines if line.startswith("task ")]
    assert header.split() == ["task", "weight", "single-task", "EW", "CoTBal"]
    (total,) = [line for line in lines if line.startswith("dI, %")]
    assert total.split()[-1] == f"{judged.result('cotbal').mean_improvement:+.2f}".replace("-", "−")
    assert " ".join(" ".join(lines).split()).endswith(judged.verdict.sentence)
    assert all(len(line) <= width for line in lines)


def test_many_strategies_fit_eighty_columns_uncut() -> None:
    report = made_report(3, strategies=("ew", "cotbal", "dwa", "igb", "rlw"))
    lines = printed(report, 80)
    assert lines[0].split() == ["task", "weight", "single-task", "EW", "CoTBal", "DWA", "IGB", "RLW"]
    assert not any("…" in line for line in lines)


def test_before_the_comparison_there_are_weights_and_before_them_nothing() -> None:
    report = made_report(2, compared=False)
    assert printed(report)[-1] == "Nothing has been compared yet."
    assert printed(replace(report, weights=None)) == ["Nothing has been weighed yet."]


def test_the_summary_does_not_load_matplotlib() -> None:
    check = "import sys, cotbal.report.console; assert 'matplotlib' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
