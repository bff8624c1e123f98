"""Progress: the time left follows from what was timed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotbal.units.progress import Clock, UnitPhase

WORK = [
    UnitPhase("mini", "train", 10),
    UnitPhase("mini", "score", 4),
    UnitPhase("plus", "train", 30),
    UnitPhase("plus", "score", 4),
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
