"""Drivers, launchers and ranks that are killed or told to stop, in each phase: the same command finishes the same."""

from __future__ import annotations

import json
import random
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from support.units import launched

# Sums over two processes round otherwise; Adam's first steps divide by their size.
TOLERANCE = 2e-4
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
        driver = psutil.Process(self.process.pid)
        if victim == "driver":
            return [driver]
        launchers = [each for each in driver.children() if "torch.distributed.run" in each.cmdline()]
        if victim == "launcher":
            return launchers
        return [
            child
            for each in launchers
            for child in each.children()
            if "unit" in child.cmdline() and "torch.distributed.run" not in child.cmdline()
        ]

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


def run_through(config: Path, blows: list[Blow], steps: Path) -> list[str]:
    """Call the command until it ends well, with one blow per call; which of them struck.

    After each, the steps that were counted must fit the checkpoints that were there.
    """
    struck = []
    for blow in blows:
        attempt = Attempt(config, steps)
        hit = attempt.strike(blow)
        attempt.process.communicate(timeout=ENDED_SECONDS)
        if not hit:
            assert attempt.process.returncode == 0
            return struck
        struck.append(str(blow))
        if blow.victim != "driver" or blow.kind == signal.SIGTERM:
            # Nothing goes on unseen: ranks end with their launcher, and units with their driver's word.
            deadline = time.monotonic() + ENDED_SECONDS
            while left := processes_of(config):
                assert time.monotonic() < deadline, f"{blow}: {[each.cmdline() for each in left]} go on"
                time.sleep(0.1)
    launched.finish(launched.start(config, launched.environment(steps)), config)
    return struck


def assert_no_step_was_lost(config: Path, steps: Path, blows: int) -> None:
    """No finished unit was trained again, and what was done twice came after the last checkpoint."""
    for unit, counted in launched.steps_of(steps).items():
        total = launched.steps_in_all(config, unit)
        for rank in ("0", "1"):
            done = sum(count for (of, _), count in counted.items() if of == rank)
            # A blow costs the steps since the last whole checkpoint: that one's, and one that was being written.
            assert total <= done <= total + blows * 2 * launched.STEPS_PER_CHECKPOINT, (unit, counted)


@pytest.mark.slow
def test_killed_launchers_and_ranks_change_nothing(prepared_alone: Path, tmp_path: Path) -> None:
    config = launched.write_job(tmp_path / "m", launch={"processes": 2})
    blows = [
        Blow("launcher", signal.SIGKILL, "step"),
        Blow("rank", signal.SIGKILL, "score"),
    ]
    steps = tmp_path / "steps"
    assert run_through(config, blows, steps) == [str(blow) for blow in blows]
    launched.assert_same_result(config, prepared_alone, tolerance=TOLERANCE)
    assert_no_step_was_lost(config, steps, len(blows))


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(6))
def test_random_blows_change_nothing(prepared_alone: Path, tmp_path: Path, seed: int) -> None:
    """Every victim, signal and phase, in a random order, at random moments of the phase."""
    draw = random.Random(seed)
    blows = [
        Blow(victim, kind, phase, draw.random() * 0.5)
        for victim in VICTIMS
        for kind in (signal.SIGKILL, signal.SIGTERM)
        for phase in PHASES
    ]
    draw.shuffle(blows)
    config = launched.write_job(tmp_path / "m", launch={"processes": 2})
    steps = tmp_path / "steps"
    struck = run_through(config, blows, steps)
    assert len(struck) >= 4, "too few moments were met"
    launched.assert_same_result(config, prepared_alone, tolerance=TOLERANCE)
    assert_no_step_was_lost(config, steps, len(struck))
