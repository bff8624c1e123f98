"""Progress: the time left follows from what was timed, and both displays survive a whole plan."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from cotbal.units.progress import Clock, LineProgress, PlanProgress, RichProgress, Work, show_time

WORK = [
    Work("mini", "train", 10),
    Work("mini", "score", 4),
    Work("plus", "train", 30),
    Work("plus", "score", 4),
]


class Timer:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_time_left_uses_each_phases_own_rate() -> None:
    timer = Timer()
    clock = Clock(WORK, timer)
    assert clock.left() is None
    clock.start()
    timer.seconds += 20
    clock.advance("mini", "train", 10)
    assert clock.left("plus", "train") == pytest.approx(60)
    assert clock.left() == pytest.approx(60 + 8 * 2 * 0.5), "scoring is assumed at half until it is timed"
    clock.start()
    timer.seconds += 2
    clock.advance("mini", "score", 4)
    assert clock.left() == pytest.approx(60 + 4 * 0.5)
    assert clock.done == 14
    assert clock.units == (1, 2)


def test_what_an_earlier_call_did_is_not_timed() -> None:
    timer = Timer()
    clock = Clock(WORK, timer)
    clock.skip("plus", "train", 20)
    clock.start()
    timer.seconds += 5
    clock.advance("plus", "train", 5)
    assert clock.left("plus", "train") == pytest.approx(5)


@given(st.lists(st.integers(0, 40), max_size=20))
def test_never_more_done_than_planned(steps: list[int]) -> None:
    clock = Clock(WORK)
    for step in steps:
        clock.advance("plus", "train", step)
    assert 0 <= clock.done <= clock.total
    assert (clock.left() or 0.0) >= 0.0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "time left unknown"),
        (0.4, "0 s"),
        (89, "89 s"),
        (600, "10 min"),
        (3 * 3600 + 300, "3 h 05 min"),
    ],
)
def test_times_as_people_say_them(seconds: float | None, text: str) -> None:
    assert show_time(seconds) == text


def follow(progress: PlanProgress) -> None:
    with progress.plan(WORK):
        progress.begin("mini", "train", 4)
        progress.advance(6)
        progress.end()
        progress.begin("mini", "score")
        progress.advance(4)
        progress.end()
        progress.say("between runs")
        progress.begin("plus", "train")
        progress.advance(30)
        progress.end()


def test_lines_tell_of_each_phase_and_of_the_whole() -> None:
    out = io.StringIO()
    follow(LineProgress(Console(file=out, width=100)))
    lines = out.getvalue().splitlines()
    assert lines[0].startswith("  mini: trained in ")
    assert "20% of all runs" in lines[0]
    assert lines[2] == "between runs"
    assert "91% of all runs" in lines[3]
    assert "left" in lines[3]


def test_bars_show_the_plan_and_the_run_in_hand() -> None:
    out = io.StringIO()
    console = Console(file=out, width=100, force_terminal=True)
    progress = RichProgress(console)
    follow(progress)
    text = out.getvalue()
    assert "0 of 2 runs done" in text
    assert "1 of 2 runs done" in text
    assert "training plus" in text
    assert progress.clock.done == 44
