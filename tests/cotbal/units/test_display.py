"""The displays: both survive a whole schedule, and times read as people say them."""

import io

import pytest
from rich.console import Console

from cotbal.units.display import LineProgress, RichProgress, show_time
from cotbal.units.progress import ScheduleProgress, UnitPhase

WORK = [
    UnitPhase("mini", "train", 10),
    UnitPhase("mini", "score", 4),
    UnitPhase("plus", "train", 30),
    UnitPhase("plus", "score", 4),
]


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


def follow(progress: ScheduleProgress) -> None:
    with progress.follow(WORK):
        progress.begin("mini", "train", 4)
        progress.advance(6)
        progress.end()
        progress.begin("mini", "score")
        progress.advance(4)
        progress.end()
        progress.say("between units")
        progress.begin("plus", "train")
        progress.advance(30)
        progress.end()


def test_lines_tell_of_each_phase_and_of_the_whole() -> None:
    out = io.StringIO()
    follow(LineProgress(Console(file=out, width=100)))
    lines = out.getvalue().splitlines()
    assert lines[0].startswith("  mini: trained in ")
    assert "20% of all units" in lines[0]
    assert lines[2] == "between units"
    assert "91% of all units" in lines[3]
    assert "left" in lines[3]


def test_bars_show_the_whole_and_the_unit_in_hand() -> None:
    out = io.StringIO()
    console = Console(file=out, width=100, force_terminal=True)
    progress = RichProgress(console)
    follow(progress)
    text = out.getvalue()
    assert "0 of 2 units done" in text
    assert "1 of 2 units done" in text
    assert "training plus" in text
    assert progress.clock.done == 44
