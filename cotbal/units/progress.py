"""Progress of a plan: how far the run in hand is, how far all of them are, and the time both have left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

__all__ = ["Clock", "LineProgress", "Phase", "PlanProgress", "RichProgress", "Work", "show_time"]

Phase = Literal["train", "score"]

# Before anything of a phase was timed: scoring a sample is taken to cost this much of training on one.
_ASSUMED_RATIO = {"train": 1.0, "score": 0.5}


@dataclass(frozen=True)
class Work:
    """A piece of a plan: so many samples of one unit, trained on or scored."""

    unit: str
    phase: Phase
    samples: int


class Clock:
    """Time left, from how long samples of each phase have taken so far.

    Feed it what is done; it knows nothing of how it is shown.
    """

    def __init__(self, plan: Iterable[Work], now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._left = {(work.unit, work.phase): work.samples for work in plan}
        self.total = sum(self._left.values())
        self._seconds: dict[Phase, float] = {"train": 0.0, "score": 0.0}
        self._samples: dict[Phase, int] = {"train": 0, "score": 0}
        self._mark = now()

    @property
    def done(self) -> int:
        """Samples of the plan that are done."""
        return self.total - sum(self._left.values())

    @property
    def units(self) -> tuple[int, int]:
        """How many units have nothing left to do, and how many there are."""
        left: dict[str, int] = {}
        for (unit, _), samples in self._left.items():
            left[unit] = left.get(unit, 0) + samples
        return sum(samples == 0 for samples in left.values()), len(left)

    def start(self) -> None:
        """Time is taken from here; what came before is not counted."""
        self._mark = self._now()

    def advance(self, unit: str, phase: Phase, samples: int) -> None:
        """So many samples were done since the last call."""
        now = self._now()
        self._seconds[phase] += now - self._mark
        self._samples[phase] += samples
        self._mark = now
        self.skip(unit, phase, samples)

    def skip(self, unit: str, phase: Phase, samples: int | None = None) -> None:
        """So many samples (all that are left, if None) need no work any more."""
        left = self._left.get((unit, phase), 0)
        self._left[unit, phase] = 0 if samples is None else max(0, left - samples)

    def left(self, unit: str | None = None, phase: Phase | None = None) -> float | None:
        """Seconds left for the plan, or for one phase of one unit; None while nothing has been timed."""
        rates = {key: self._seconds[key] / count for key, count in self._samples.items() if count}
        if not rates:
            return None
        known = next(iter(rates))
        seconds = 0.0
        for (name, kind), samples in self._left.items():
            if unit in (None, name) and phase in (None, kind):
                assumed = rates[known] * _ASSUMED_RATIO[kind] / _ASSUMED_RATIO[known]
                seconds += samples * rates.get(kind, assumed)
        return seconds


def show_time(seconds: float | None) -> str:
    """Seconds as people say them: ``45 s``, ``12 min``, ``3 h 05 min``."""
    if seconds is None:
        return "time left unknown"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


class PlanProgress(Protocol):
    """What the pipeline tells of its progress."""

    def plan(self, work: Iterable[Work]) -> AbstractContextManager[object]:
        """All the work of a stage; entered before it begins."""

    def begin(self, unit: str, phase: Phase, done: int = 0) -> None:
        """A phase of a unit begins, `done` samples of it already finished."""

    def advance(self, samples: int) -> None:
        """So many samples more of the phase in hand."""

    def end(self) -> None:
        """The phase in hand has ended."""

    def say(self, message: str) -> None:
        """A line for the reader."""


class _Base:
    """Keeps the clock and the phase in hand; subclasses show them."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.clock = Clock(())
        self._works: dict[tuple[str, Phase], int] = {}
        self._current: tuple[str, Phase] | None = None
        self._started = 0.0

    def plan(self, work: Iterable[Work]) -> Self:
        works = tuple(work)
        self._works = {(item.unit, item.phase): item.samples for item in works}
        self.clock = Clock(works)
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
            self.say(f"  {unit}: {_DONE[phase]} in {seconds:.1f} s; {share}% of all runs{rest}")


class _TimeLeft(ProgressColumn):
    """The seconds that a task of the display carries."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        seconds = task.fields.get("seconds")
        known = seconds is not None and not task.finished
        return Text(f"{show_time(seconds)} left" if known else "", style="progress.remaining")


class RichProgress(_Base):
    """Two bars: all runs of the stage, and the run in hand."""

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
        self._whole = self._display.add_task("all runs", total=None, seconds=None)
        self._part = self._display.add_task("", total=None, visible=False, seconds=None)

    def plan(self, work: Iterable[Work]) -> Self:
        super().plan(work)
        self._display.reset(self._whole, total=max(1, self.clock.total), description="all runs")
        self._refresh()
        return self

    def begin(self, unit: str, phase: Phase, done: int = 0) -> None:
        super().begin(unit, phase, done)
        self._display.reset(
            self._part,
            total=max(1, self._works.get((unit, phase), 0)),
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
            description=f"{done} of {units} runs done",
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
