"""What a unit's process tells of its progress through a file, and the driver that follows several of them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cotbal.output.store import OutputFolder
from cotbal.units.progress import Phase, ScheduleProgress, UnitPhase

__all__ = ["FileProgress", "Follower"]

# A write per second is enough for people, and nothing for a shared file system.
_WRITE_SECONDS = 1.0
_LOOK_SECONDS = 0.5


class FileProgress:
    """Progress of a unit, kept in its folder for whoever follows.

    Args:
        path: the file, replaced whole at each write.
        lines: shows the same in this process's own output, every few minutes.
    """

    def __init__(self, path: Path, lines: ScheduleProgress) -> None:
        self.path = path
        self._lines = lines
        self._phase: Phase | None = None
        self._done = 0
        self._began = (time.time(), 0)
        self._messages: list[str] = []
        self._written = 0.0

    def follow(self, phases: Iterable[UnitPhase]) -> Self:
        self._lines.follow(phases)
        self._write(now=True)
        return self

    def begin(self, unit: str, phase: Phase, done: int = 0) -> None:
        self._lines.begin(unit, phase, done)
        self._phase, self._done = phase, done
        self._began = (time.time(), done)
        self._write(now=True)

    def advance(self, samples: int, unit: str | None = None) -> None:
        self._lines.advance(samples, unit)
        self._done += samples
        self._write()

    def end(self, unit: str | None = None) -> None:
        self._lines.end(unit)
        self._write(now=True)

    def say(self, message: str) -> None:
        self._messages.append(message)
        self._lines.say(message)
        self._write(now=True)

    def _write(self, *, now: bool = False) -> None:
        if not now and time.monotonic() - self._written < _WRITE_SECONDS:
            return
        self._written = time.monotonic()
        values: dict[str, Any] = {"phase": self._phase, "done": self._done, "messages": self._messages}
        values |= {"began": self._began[0], "from": self._began[1]}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Not synced: it vouches for nothing.
        unfinished = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        unfinished.write_text(json.dumps(values), encoding="utf-8")
        unfinished.replace(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._write(now=True)


class Follower:
    """Passes on what the running units' processes tell.

    Args:
        folder: where the units are.
        progress: told of everything.
    """

    def __init__(self, folder: OutputFolder, progress: ScheduleProgress) -> None:
        self.folder = folder
        self.progress = progress
        self._phases: dict[str, Phase] = {}
        self._done: dict[str, int] = {}
        self._said: dict[str, int] = {}

    def look(self, units: Iterable[str]) -> None:
        """Read what these units have told since the last look."""
        for unit in units:
            told = self._told(unit)
            if told is not None:
                self._pass_on(unit, told)

    def await_makers(self, units: Iterable[str]) -> None:
        """Follow units that other processes are making, such as those of a driver that was killed, until they end.

        Nothing else is started meanwhile: which GPUs they use is not known.
        """
        left = {unit for unit in units if self.folder.maker_of(unit) is not None}
        for unit in sorted(left):
            self.progress.say(f"{unit} is being made by {self.folder.maker_of(unit)}; following it")
        while left:
            self.look(left)
            for unit in [unit for unit in left if self.folder.maker_of(unit) is None]:
                left.remove(unit)
                self.finish(unit)
            time.sleep(_LOOK_SECONDS)

    def finish(self, unit: str) -> None:
        """A unit's process has ended; where the unit is made, all its samples count as done."""
        self.look([unit])
        manifest = self.folder.unit(unit).manifest()
        if unit not in self._phases or manifest is None or manifest.state != "scored":
            return
        if self._phases.get(unit) == "train":
            self._begin(unit, "score", 0)
        self.progress.end(unit)

    def _told(self, unit: str) -> dict[str, Any] | None:
        try:
            found = json.loads(self.folder.progress_of(unit).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) else None

    def _pass_on(self, unit: str, told: dict[str, Any]) -> None:
        messages = told.get("messages", [])
        for message in messages[self._said.get(unit, 0) :]:
            self.progress.say(f"{unit}: {message}")
        self._said[unit] = len(messages)
        phase, done = told.get("phase"), int(told.get("done", 0))
        if phase is None:
            return
        if phase != self._phases.get(unit):
            self._begin(unit, phase, done)
        elif done > self._done[unit]:
            self.progress.advance(done - self._done[unit], unit)
            self._done[unit] = done

    def _begin(self, unit: str, phase: Phase, done: int) -> None:
        if unit in self._phases:
            self.progress.end(unit)
        self.progress.begin(unit, phase, done)
        self._phases[unit], self._done[unit] = phase, done
