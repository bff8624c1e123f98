"""A unit's command where another machine runs it: what a Ray task and a Slurm job have in common."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from cotbal.output.fingerprint import versions
from cotbal.output.store import OutputFolder, write_text
from cotbal.units.launch.command import UnitCommand
from cotbal.units.launch.local import start_process
from cotbal.units.launch.side_by_side import Ending, interrupted
from cotbal.units.launch.tied import tied_words

__all__ = ["RemoteUnit", "UnitProcess", "remote_unit"]

_TOKEN = "token"
# Other machines may see a new file of a network file system late.
_SEEN_SECONDS = 90.0
_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class RemoteUnit:
    """A unit's command, for another machine that sees the same files.

    Attributes:
        command: as it would be started here.
        python: this machine's interpreter; the other machine puts its own in its place.
        progress: the file in which the unit tells how far it is.
        token, secret: a file in the output folder, and what it holds.
        versions: of the packages that results depend on; the other machine must have the same.
    """

    command: UnitCommand
    python: str
    progress: Path
    token: Path
    secret: str
    versions: Mapping[str, str]

    def refusal(self) -> str:
        """Why this machine cannot run it; empty if it can."""
        here = socket.gethostname()
        own = versions()
        others = [
            f"{name} {own.get(name)} in place of {version}"
            for name, version in self.versions.items()
            if own.get(name) != version
        ]
        if others:
            return f"{here} has {', '.join(others)}; all machines need the versions of the one that starts the units"
        deadline = time.monotonic() + _SEEN_SECONDS
        while not self._sees_token():
            if time.monotonic() > deadline:
                return (
                    f"{here} does not see the output folder of the machine that starts the units ({self.token} is "
                    "not what that has written); `output`, the config and the data must be on a file system that all "
                    "machines share, at the same path"
                )
            time.sleep(_POLL_SECONDS)
        return ""

    def _sees_token(self) -> bool:
        try:
            return self.token.read_text(encoding="utf-8") == self.secret
        except OSError:
            return False

    def start(self) -> UnitProcess:
        """Start it on this machine, tied to this process."""
        words = tuple(sys.executable if word == self.python else word for word in self.command.words)
        command = replace(self.command, words=words)
        told = {"phase": None, "done": 0, "messages": [f"runs on {socket.gethostname()}"]}
        self.progress.parent.mkdir(parents=True, exist_ok=True)
        # The unit itself writes it from here on.
        self.progress.write_text(json.dumps(told), encoding="utf-8")
        return UnitProcess(command, start_process(command, {}, tied_words(words)))

    @property
    def has_begun(self) -> bool:
        """Whether a machine has started it since this was made."""
        return self.progress.is_file()


@dataclass
class UnitProcess:
    """A unit's command that runs on this machine."""

    command: UnitCommand
    process: subprocess.Popen[bytes]

    def stop(self) -> None:
        """Ask it to write a checkpoint and end."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def wait(self) -> Ending:
        """How it ended. Looks again and again, so that a signal or an exception reaches this process meanwhile."""
        while (code := self.process.poll()) is None:
            time.sleep(_POLL_SECONDS)
        where = f"on {socket.gethostname()}, process {os.getpid()}"
        return Ending(code, where, interrupted=code != 0 and interrupted(code, self.command))


def remote_unit(command: UnitCommand, folder: OutputFolder) -> RemoteUnit:
    """A unit's command for other machines, which know the output folder by a file that is written here."""
    token = folder.running / command.unit / _TOKEN
    secret = secrets.token_hex(16)
    write_text(token, secret)
    return RemoteUnit(command, sys.executable, folder.progress_of(command.unit), token, secret, versions())
