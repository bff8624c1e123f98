"""Units side by side on this machine, each a command of its own on GPUs of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

from cotbal.config.yaml_file import ConfigError
from cotbal.units.launch.command import UnitCommand
from cotbal.units.stopping import UnitStoppedError
from cotbal.units.unit_output import last_words

__all__ = ["UnitFailedError", "places", "run_side_by_side"]

# How often the running commands are looked at.
_POLL_SECONDS = 0.2


class UnitFailedError(ConfigError):
    """A unit's command ended without having made it."""


@dataclass
class _Running:
    command: UnitCommand
    place: dict[str, str]
    process: subprocess.Popen[bytes]


def places(processes: int, side_by_side: int | None = None) -> list[dict[str, str]]:
    """The places where units can run at once, each the environment that confines a unit to its devices.

    One place per group of `processes` visible GPUs; on a machine without GPUs, `side_by_side` places (1 by
    default).

    Raises:
        ConfigError: a unit needs more GPUs than are visible.
    """
    visible = _visible_gpus()
    if not visible:
        return [{} for _ in range(side_by_side or 1)]
    if processes > len(visible):
        raise ConfigError(
            f"launch.processes: {processes} processes need {processes} GPUs, and {len(visible)} are visible here"
        )
    count = len(visible) // processes
    groups = [visible[place * processes : (place + 1) * processes] for place in range(count)]
    return [{"CUDA_VISIBLE_DEVICES": ",".join(group)} for group in groups[: side_by_side or count]]


def _visible_gpus() -> list[str]:
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    if named is not None and count:
        return [name for name in named.split(",") if name][:count]
    return [str(index) for index in range(count)]


def run_side_by_side(
    commands: Iterable[UnitCommand],
    places: Sequence[dict[str, str]],
    *,
    watch: Callable[[Sequence[str]], None] = lambda running: None,
    finished: Callable[[str], None] = lambda unit: None,
) -> None:
    """Run commands, one in each place at a time, until all have ended.

    After a failure no further command starts, those that run end in their own time, and then the failure is
    raised. A SIGTERM to this process, or Ctrl-C, is passed on to every command, which then writes a checkpoint
    and stops.

    Args:
        watch: called a few times per second with the names of the units that run.
        finished: called when a unit's command has ended well.

    Raises:
        UnitFailedError: a command failed; it names the unit, how its command ended and where its output is.
        UnitStoppedError: the units were asked to stop.
    """
    waiting = list(commands)
    free = list(places)
    running: list[_Running] = []
    failed: list[tuple[UnitCommand, int]] = []
    with _Stopping() as stopping:
        while running or (waiting and not failed and not stopping.asked):
            while waiting and free and not failed and not stopping.asked:
                running.append(_start(waiting.pop(0), free.pop(0)))
            watch([each.command.unit for each in running])
            if stopping.newly_asked():
                for each in running:
                    each.process.send_signal(signal.SIGTERM)
            for each in [each for each in running if each.process.poll() is not None]:
                watch([each.command.unit])
                running.remove(each)
                free.append(each.place)
                if each.process.returncode == 0:
                    finished(each.command.unit)
                else:
                    failed.append((each.command, each.process.returncode))
            time.sleep(_POLL_SECONDS)
    if stopping.asked:
        raise UnitStoppedError("stopped; the same command goes on from here")
    if failed:
        raise UnitFailedError("\n".join(describe_failure(command, code) for command, code in failed))


def describe_failure(command: UnitCommand, code: int) -> str:
    """What is known of a command that failed: how it ended, what it said last, where the rest is."""
    ended = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    said = last_words(command.log)
    quoted = "".join(f"\n    {line}" for line in said)
    return f"{command.unit}: its command {ended}; {command.log} has all it said{':' if said else ''}{quoted}"


def _start(command: UnitCommand, place: dict[str, str]) -> _Running:
    command.log.parent.mkdir(parents=True, exist_ok=True)
    with command.log.open("ab") as log:
        log.write(f"$ {command}\n".encode())
        log.flush()
        process = subprocess.Popen(
            command.words,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **command.environment, **place},
            # Ctrl-C reaches this process alone, which passes it on as SIGTERM.
            start_new_session=True,
        )
    return _Running(command, place, process)


class _Stopping:
    """SIGTERM and Ctrl-C, noted while this is open."""

    def __init__(self) -> None:
        self.asked = False
        self._told = False

    def newly_asked(self) -> bool:
        """True once, after the first signal."""
        new = self.asked and not self._told
        self._told = self.asked
        return new

    def _note(self, *_: object) -> None:
        self.asked = True

    def __enter__(self) -> _Stopping:
        self._earlier = {kind: signal.signal(kind, self._note) for kind in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for kind, earlier in self._earlier.items():
            signal.signal(kind, earlier)
