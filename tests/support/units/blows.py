"""Signals to the driver, a launcher or a rank of a running `cotbal prepare`, each in one phase of a unit."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import psutil
from support.units import launched

PHASES = ("load", "step", "checkpoint", "score")
VICTIMS = ("driver", "launcher", "rank")
# Long enough to end with a checkpoint, on a busy machine too.
ENDED_SECONDS = 600.0


@dataclass(frozen=True)
class Blow:
    """A signal to one of the processes that make a unit, in one of its phases, after a moment in it."""

    victim: str
    kind: signal.Signals
    phase: str
    moment: float = 0.0

    def __str__(self) -> str:
        return f"{self.kind.name} of the {self.victim} in {self.phase}"


class Attempt:
    """One call of the command."""

    def __init__(self, config: Path, steps: Path) -> None:
        self.config = config
        self.process = launched.start(config, launched.environment(steps))

    def found(self, victim: str) -> list[psutil.Process]:
        try:
            driver = psutil.Process(self.process.pid)
            if victim == "driver":
                return [driver]
            launchers = [each for each in driver.children() if "torch.distributed.run" in _words(each)]
            if victim == "launcher":
                return launchers
            return [
                child
                for each in launchers
                for child in each.children()
                if "unit" in _words(child) and "torch.distributed.run" not in _words(child)
            ]
        except psutil.NoSuchProcess:
            # It has ended between two looks.
            return []

    def is_in(self, phase: str) -> bool:
        """Whether a unit is in this phase, as its files tell."""
        if len(self.found("rank")) < 2:
            return False
        running = launched.output_of(self.config) / "running"
        for unit in ("mini", "plus_colour", "plus_count"):
            folder = launched.output_of(self.config) / "units" / unit
            if not (running / unit / ".lock.holder").is_file():
                continue
            told = _read(running / unit / "progress.json")
            writing = [
                path
                for path in folder.glob("checkpoints/checkpoint-*")
                if not (path / "COMPLETE").is_file() and any(path.iterdir())
            ]
            return {
                "load": told.get("phase") is None,
                "step": told.get("phase") == "train" and told.get("done", 0) > 0,
                "checkpoint": bool(writing),
                "score": told.get("phase") == "score",
            }[phase]
        return False

    def strike(self, blow: Blow) -> bool:
        """Send the signal when its moment has come; False if the command had ended before."""
        while not self.is_in(blow.phase):
            if self.process.poll() is not None:
                return False
            time.sleep(0.005)
        time.sleep(blow.moment)
        victims = self.found(blow.victim) if self.process.poll() is None else []
        if not victims:
            return False
        try:
            victims[-1].send_signal(blow.kind)
        except psutil.NoSuchProcess:
            return False
        return True


def _words(process: psutil.Process) -> list[str]:
    """Its command; none of one that has ended."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def _read(path: Path) -> dict[str, object]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def processes_of(config: Path) -> list[psutil.Process]:
    """What still works on a config, orphans included."""
    return [
        each
        for each in psutil.process_iter(["cmdline"])
        if str(config) in (each.info["cmdline"] or []) and each.status() != psutil.STATUS_ZOMBIE
    ]


@dataclass(frozen=True)
class Window:
    """What was done of a unit between two looks, while one call of the command worked, or what it left behind.

    Attributes:
        kept: steps up to the last whole checkpoint at its begin; None if the training had ended by then.
        steps: of each rank, in the window.
    """

    unit: str
    kept: int | None
    steps: dict[str, int]


class Windows:
    """Closes one window, and opens the next."""

    def __init__(self, config: Path, steps: Path) -> None:
        self.closed: list[Window] = []
        self._config, self._steps = config, steps
        self._kept, self._done = self._look()

    def close(self) -> None:
        kept, done = self._look()
        for unit, counts in done.items():
            before = self._done.get(unit, Counter())
            self.closed.append(Window(unit, self._kept.get(unit, 0), dict(counts - before)))
        self._kept, self._done = kept, done

    def _look(self) -> tuple[dict[str, int | None], dict[str, Counter[str]]]:
        kept: dict[str, int | None] = {}
        for path in launched.output_of(self._config).glob("units/*"):
            trained = _read(path / "manifest.json").get("state") in ("trained", "scored")
            kept[path.name] = None if trained else launched.whole_checkpoint(self._config, path.name)
        done: dict[str, Counter[str]] = {}
        for unit, counted in launched.steps_of(self._steps).items():
            for (rank, _), count in counted.items():
                done.setdefault(unit, Counter())[rank] += count
        return kept, done


def run_through(config: Path, blows: list[Blow], steps: Path) -> tuple[list[Blow], list[Window]]:
    """Call the command until it ends well, with one blow per call; which of them struck, and what was done when."""
    struck: list[Blow] = []
    windows = Windows(config, steps)
    for blow in blows:
        attempt = Attempt(config, steps)
        hit = attempt.strike(blow)
        said, _ = attempt.process.communicate(timeout=ENDED_SECONDS)
        if not hit:
            assert attempt.process.returncode == 0, said
            windows.close()
            return struck, windows.closed
        struck.append(blow)
        if blow.victim != "driver" or blow.kind == signal.SIGTERM:
            # Nothing goes on unseen: ranks end with their launcher, and units with their driver's word.
            deadline = time.monotonic() + ENDED_SECONDS
            while left := processes_of(config):
                assert time.monotonic() < deadline, f"{blow}: {[each.cmdline() for each in left]} go on"
                time.sleep(0.1)
            windows.close()
    launched.finish(launched.start(config, launched.environment(steps)), config)
    windows.close()
    return struck, windows.closed


def assert_no_step_twice(config: Path, windows: list[Window]) -> None:
    """No unit was trained again that was trained, and no step again that a whole checkpoint had."""
    done: dict[str, Counter[str]] = {}
    for window in windows:
        total = launched.steps_in_all(config, window.unit)
        left = 0 if window.kept is None else total - window.kept
        assert all(count <= left for count in window.steps.values()), (window, total)
        done.setdefault(window.unit, Counter()).update(window.steps)
    for unit, counts in done.items():
        # And none was left out.
        assert set(counts) == {"0", "1"}, (unit, counts)
        assert min(counts.values()) >= launched.steps_in_all(config, unit), (unit, counts)
