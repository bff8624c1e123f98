"""A launcher and a rank that are killed: the same command finishes the same.

All victims, signals and phases at random moments: `python -m tests.soak launches`.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from support.units import launched
from support.units.blows import Blow, assert_no_step_twice, run_through

# Sums over two processes round otherwise; Adam's first steps divide by their size.
TOLERANCE = 2e-4


@pytest.mark.slow
def test_killed_launchers_and_ranks_change_nothing(prepared_alone: Path, tmp_path: Path) -> None:
    config = launched.write_job(tmp_path / "m", launch={"processes": 2})
    blows = [
        Blow("launcher", signal.SIGKILL, "step"),
        Blow("rank", signal.SIGKILL, "score"),
    ]
    steps = tmp_path / "steps"
    struck, windows = run_through(config, blows, steps)
    assert struck == blows
    launched.assert_same_result(config, prepared_alone, tolerance=TOLERANCE)
    assert_no_step_twice(config, windows)
