"""Units side by side on this machine, each a command of its own on GPUs of its own."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from cotbal.config.yaml_file import ConfigError
from cotbal.units.launch.command import UnitCommand
from cotbal.units.launch.side_by_side import Ending, interrupted

__all__ = ["LocalEngine", "places", "start_process"]


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


class LocalEngine:
    """Starts commands on this machine, one in each place at a time."""

    retries = 0

    def __init__(self, places: Sequence[Mapping[str, str]]) -> None:
        self._free = list(places)

    def start(self, command: UnitCommand) -> _LocalCommand | None:
        if not self._free:
            return None
        place = self._free.pop(0)
        return _LocalCommand(command, place, start_process(command, place), self._free)


@dataclass
class _LocalCommand:
    command: UnitCommand
    place: Mapping[str, str]
    process: subprocess.Popen[bytes]
    free: list[Mapping[str, str]]

    def ended(self) -> Ending | None:
        code = self.process.poll()
        if code is None:
            return None
        self.free.append(self.place)
        return Ending(code, interrupted=code != 0 and interrupted(code, self.command))

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def withdraw(self) -> None:
        """It has begun."""


def start_process(
    command: UnitCommand, environment: Mapping[str, str], words: Sequence[str] = ()
) -> subprocess.Popen[bytes]:
    """Start a command whose output is added to its log.

    Args:
        environment: variables beside the command's own and this process's.
        words: to start in place of the command's own.
    """
    command.log.parent.mkdir(parents=True, exist_ok=True)
    with command.log.open("ab") as log:
        log.write(f"$ {command}\n".encode())
        log.flush()
        return subprocess.Popen(
            words or command.words,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **command.environment, **environment},
            # Ctrl-C reaches this process alone, which passes it on as SIGTERM.
            start_new_session=True,
        )
