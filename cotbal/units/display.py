"""Showing progress: bars on a terminal, lines in a log."""

from __future__ import annotations

import time
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from cotbal.units.progress import Clock, Phase, UnitPhase

__all__ = ["LineProgress", "RichProgress", "show_time"]


def show_time(seconds: float | None) -> str:
    """Seconds as people say them: ``45 s``, ``12 min``, ``3 h 05 min``."""
    if seconds is None:
        return "time left unknown"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


class _Base:
    """Keeps the clock and the phase in hand; subclasses show them."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.clock = Clock(())
        self._samples: dict[tuple[str, Phase], int] = {}
        self._current: tuple[str, Phase] | None = None
        self._started = 0.0

    def follow(self, phases: Iterable[UnitPhase]) -> Self:
        listed = tuple(phases)
        self._samples = {(item.unit, item.phase): item.samples for item in listed}
        self.clock = Clock(listed)
        return self

    def begin(self, unit: str, phase: Phase, done: int = 0) -> None:
        self._current = (unit, phase)
        self._started = time.monotonic()
        self.clock.skip(unit, phase, done)
        self.clock.start()

    def advance(self, samples: int) -> None:
        if self._current is not None:
            self.clock.advance(*self._current, samples)

    def end(self) -> None:
        if self._current is not None:
            self.clock.skip(*self._current)
        self._current = None

    def say(self, message: str) -> None:
        self.console.print(message, highlight=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


_DOING: dict[Phase, str] = {"train": "training", "score": "scoring"}
_DONE: dict[Phase, str] = {"train": "trained", "score": "scored"}


class LineProgress(_Base):
    """One line when a phase ends: for logs and pipes."""

    def end(self) -> None:
        current = self._current
        super().end()
        if current is not None:
            unit, phase = current
            seconds = time.monotonic() - self._started
            left = self.clock.left()
            rest = "" if not left else f"; about {show_time(left)} left"
            share = 100 * self.clock.done // max(1, self.clock.total)
            self.say(f"  {unit}: {_DONE[phase]} in {seconds:.1f} s; {share}% of all units{rest}")


class _TimeLeft(ProgressColumn):
    """The seconds that a task of the display carries."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        seconds = task.fields.get("seconds")
        known = seconds is not None and not task.finished
        return Text(f"{show_time(seconds)} left" if known else "", style="progress.remaining")


class RichProgress(_Base):
    """Two bars: all units, and the unit in hand."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._display = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f}%"),
            _TimeLeft(),
            console=console,
            transient=True,
        )
        self._whole = self._display.add_task("all units", total=None, seconds=None)
        self._part = self._display.add_task("", total=None, visible=False, seconds=None)

    def follow(self, phases: Iterable[UnitPhase]) -> Self:
        super().follow(phases)
        self._display.reset(self._whole, total=max(1, self.clock.total), description="all units")
        self._refresh()
        return self

    def begin(self, unit: str, phase: Phase, done: int = 0) -> None:
        super().begin(unit, phase, done)
        self._display.reset(
            self._part,
            total=max(1, self._samples.get((unit, phase), 0)),
            completed=done,
            description=f"{_DOING[phase]} {unit}",
            visible=True,
        )
        self._refresh()

    def advance(self, samples: int) -> None:
        super().advance(samples)
        self._display.advance(self._part, samples)
        self._refresh()

    def end(self) -> None:
        super().end()
        self._display.update(self._part, visible=False)
        self._refresh()

    def _refresh(self) -> None:
        done, units = self.clock.units
        self._display.update(
            self._whole,
            completed=self.clock.done,
            seconds=self.clock.left(),
            description=f"{done} of {units} units done",
        )
        if self._current is not None:
            self._display.update(self._part, seconds=self.clock.left(*self._current))

    def __enter__(self) -> Self:
        self._display.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._display.stop()
