"""Show progress: bars on a terminal, lines in a log."""

from __future__ import annotations

import time
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.text import Text

from cotbal.terminal import printable
from cotbal.units.progress import Clock, Phase, UnitPhase

__all__ = ["LineProgress", "RichProgress", "show_time"]


def show_time(seconds: float | None) -> str:
    """Write seconds as people say them: `45 s`, `12 min`, `3 h 05 min`."""
    if seconds is None:
        return "time left unknown"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


class _Base:
    """Keeps the clock and the phases in hand, one for each unit that is being made; subclasses show them."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.clock = Clock(())
        self._samples: dict[tuple[str, Phase], int] = {}
        self._in_hand: dict[str, tuple[Phase, float]] = {}

    def follow(self, phases: Iterable[UnitPhase]) -> Self:
        listed = tuple(phases)
        self._samples = {(item.unit, item.phase): item.samples for item in listed}
        self.clock = Clock(listed)
        return self

    def begin(self, unit: str, phase: Phase, done: int = 0) -> None:
        if not self._in_hand:
            self.clock.start()
        self._in_hand[unit] = (phase, time.monotonic())
        self.clock.skip(unit, phase, done)

    def advance(self, samples: int, unit: str | None = None) -> None:
        name = self._named(unit)
        if name is not None:
            self.clock.advance(name, self._in_hand[name][0], samples)

    def end(self, unit: str | None = None) -> None:
        name = self._named(unit)
        if name is not None:
            phase, _ = self._in_hand.pop(name)
            self.clock.skip(name, phase)

    def say(self, message: str) -> None:
        self.console.print(printable(message), highlight=False, markup=False)

    def _named(self, unit: str | None) -> str | None:
        """The unit that is meant: the one named, or the one that is in hand alone."""
        if unit is None and len(self._in_hand) == 1:
            return next(iter(self._in_hand))
        return unit if unit in self._in_hand else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


_DOING: dict[Phase, str] = {"train": "training", "score": "scoring"}
_DONE: dict[Phase, str] = {"train": "trained", "score": "scored"}
# Long enough not to fill a log, short enough to see that a training of hours is alive.
_SIGN_OF_LIFE_SECONDS = 300.0


class LineProgress(_Base):
    """Prints a line at the end of each phase, and one every few minutes in between: for logs and pipes."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._spoke = time.monotonic()

    def say(self, message: str) -> None:
        super().say(message)
        self._spoke = time.monotonic()

    def advance(self, samples: int, unit: str | None = None) -> None:
        super().advance(samples, unit)
        if time.monotonic() - self._spoke >= _SIGN_OF_LIFE_SECONDS:
            doing = ", ".join(f"{_DOING[phase]} {name}" for name, (phase, _) in self._in_hand.items())
            self.say(f"  {doing}; {self._share()}")

    def end(self, unit: str | None = None) -> None:
        name = self._named(unit)
        ended = None if name is None else self._in_hand[name]
        super().end(unit)
        if ended is not None:
            phase, started = ended
            self.say(f"  {name}: {_DONE[phase]} in {time.monotonic() - started:.1f} s; {self._share()}")

    def _share(self) -> str:
        left = self.clock.left()
        rest = "" if not left else f"; about {show_time(left)} left"
        return f"{100 * self.clock.done // max(1, self.clock.total)}% of all units{rest}"


class _TimeLeft(ProgressColumn):
    """Shows the seconds that a task of the display carries."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        seconds = task.fields.get("seconds")
        known = seconds is not None and not task.finished
        return Text(f"{show_time(seconds)} left" if known else "", style="progress.remaining")


class RichProgress(_Base):
    """Shows a bar for all units, and one for each unit that is being made."""

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
        self._parts: dict[str, TaskID] = {}

    def follow(self, phases: Iterable[UnitPhase]) -> Self:
        super().follow(phases)
        self._display.reset(self._whole, total=max(1, self.clock.total), description="all units")
        self._refresh()
        return self

    def begin(self, unit: str, phase: Phase, done: int = 0) -> None:
        super().begin(unit, phase, done)
        self._drop(unit)
        self._parts[unit] = self._display.add_task(
            f"{_DOING[phase]} {unit}",
            total=max(1, self._samples.get((unit, phase), 0)),
            completed=done,
            seconds=None,
        )
        self._refresh()

    def advance(self, samples: int, unit: str | None = None) -> None:
        super().advance(samples, unit)
        name = self._named(unit)
        if name is not None:
            self._display.advance(self._parts[name], samples)
        self._refresh()

    def end(self, unit: str | None = None) -> None:
        name = self._named(unit)
        super().end(unit)
        if name is not None:
            self._drop(name)
        self._refresh()

    def _drop(self, unit: str) -> None:
        if unit in self._parts:
            self._display.remove_task(self._parts.pop(unit))

    def _refresh(self) -> None:
        done, units = self.clock.units
        self._display.update(
            self._whole,
            completed=self.clock.done,
            seconds=self.clock.left(),
            description=f"{done} of {units} units done",
        )
        for name, (phase, _) in self._in_hand.items():
            # Units that are made side by side share the machine's rate.
            seconds = self.clock.left(name, phase)
            shared = None if seconds is None else seconds * len(self._in_hand)
            self._display.update(self._parts[name], seconds=shared)

    def __enter__(self) -> Self:
        self._display.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._display.stop()
