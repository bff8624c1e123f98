"""Progress of a schedule: what is done of it, and the time that is left, whoever shows it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

__all__ = ["Clock", "Phase", "ScheduleProgress", "UnitPhase"]

Phase = Literal["train", "score"]

# Before anything of a phase was timed: scoring a sample is taken to cost this much of training on one.
_ASSUMED_RATIO = {"train": 1.0, "score": 0.5}


@dataclass(frozen=True)
class UnitPhase:
    """One phase of a unit, and how many samples are left to train on or to score in it."""

    unit: str
    phase: Phase
    samples: int


class Clock:
    """Time left, from how long samples of each phase have taken so far.

    Feed it what is done; it knows nothing of how it is shown.
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
        """Samples of all phases that are done."""
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
        """Seconds left for everything, or for one phase of one unit; None while nothing has been timed."""
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
    """What is told of the units as they are made."""

    def follow(self, phases: Iterable[UnitPhase]) -> AbstractContextManager[object]:
        """All phases that are to come; entered before the first begins."""

    def begin(self, unit: str, phase: Phase, done: int = 0) -> None:
        """A phase of a unit begins, `done` samples of it already finished."""

    def advance(self, samples: int) -> None:
        """So many samples more of the phase in hand."""

    def end(self) -> None:
        """The phase in hand has ended."""

    def say(self, message: str) -> None:
        """A line for the reader."""
