"""Progress of a schedule: what is done and how much time is left, independent of the display."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal, Protocol

__all__ = ["Clock", "NoProgress", "Phase", "ScheduleProgress", "UnitPhase"]

Phase = Literal["train", "score"]

# Until a phase has been timed, scoring a sample is assumed to take this share of training on one.
_ASSUMED_RATIO = {"train": 1.0, "score": 0.5}


@dataclass(frozen=True)
class UnitPhase:
    """One phase of a unit, and the number of samples left to train on or to score in it."""

    unit: str
    phase: Phase
    samples: int


class Clock:
    """Estimates the time left from how long the samples of each phase have taken so far.

    Tell it what is done; it does not depend on the display.
    """

    def __init__(self, phases: Iterable[UnitPhase], now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._left = {(item.unit, item.phase): item.samples for item in phases}
        self.total = sum(self._left.values())
        self._seconds: dict[Phase, float] = {"train": 0.0, "score": 0.0}
        self._samples: dict[Phase, int] = {"train": 0, "score": 0}
        self._mark = now()

    @property
    def done(self) -> int:
        """The finished samples of all phases."""
        return self.total - sum(self._left.values())

    @property
    def units(self) -> tuple[int, int]:
        """The number of finished units, and the number of all units."""
        left: dict[str, int] = {}
        for (unit, _), samples in self._left.items():
            left[unit] = left.get(unit, 0) + samples
        return sum(samples == 0 for samples in left.values()), len(left)

    def start(self) -> None:
        """Start timing now; what came before does not count."""
        self._mark = self._now()

    def advance(self, unit: str, phase: Phase, samples: int) -> None:
        """Record the samples done since the last call."""
        now = self._now()
        self._seconds[phase] += now - self._mark
        self._samples[phase] += samples
        self._mark = now
        self.skip(unit, phase, samples)

    def skip(self, unit: str, phase: Phase, samples: int | None = None) -> None:
        """Record samples (None: all that are left) that need no more work."""
        left = self._left.get((unit, phase), 0)
        self._left[unit, phase] = 0 if samples is None else max(0, left - samples)

    def left(self, unit: str | None = None, phase: Phase | None = None) -> float | None:
        """Return the seconds left for everything, or for one phase of one unit; None until something is timed."""
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


class ScheduleProgress(Protocol):
    """Receives progress while units are made."""

    def follow(self, phases: Iterable[UnitPhase]) -> AbstractContextManager[object]:
        """Enter all coming phases, before the first begins."""

    def begin(self, unit: str, phase: Phase, done: int = 0) -> None:
        """Begin a phase of a unit, of which `done` samples are already finished."""

    def advance(self, samples: int, unit: str | None = None) -> None:
        """Add finished samples of the current phase, of the named unit or of the only one in hand."""

    def end(self, unit: str | None = None) -> None:
        """End the current phase, of the named unit or of the only one in hand."""

    def say(self, message: str) -> None:
        """Show a line to the reader."""


class NoProgress:
    """Tells nobody: for the processes of a unit beside its first."""

    def follow(self, phases: Iterable[UnitPhase]) -> AbstractContextManager[object]:
        return nullcontext()

    def begin(self, unit: str, phase: Phase, done: int = 0) -> None:
        return None

    def advance(self, samples: int, unit: str | None = None) -> None:
        return None

    def end(self, unit: str | None = None) -> None:
        return None

    def say(self, message: str) -> None:
        return None
