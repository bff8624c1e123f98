"""Who holds a lock: the file beside it, which its holder touches every few seconds while it lives."""

from __future__ import annotations

import json
import os
import secrets
import socket
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from cotbal.atomic import replacing

__all__ = ["DEAD_SECONDS", "HOLDER", "Holder", "holder_age", "read_holder"]

HOLDER = ".lock.holder"
"""Beside the lock, since no system lets a second process read what the first has locked."""
DEAD_SECONDS = 120.0
"""A holder on another machine that has not touched its file for so long is taken for dead."""
_BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Holder:
    """A process that holds a lock.

    Attributes:
        pid, host, since: for people.
        kernel: what processes that can see one another share: the boot of a machine and the namespace of its
            process numbers. A restarted machine is another one.
        job: the processes that one launcher has started together, of which this is the first; empty for one alone.
        token: of this very holding.
    """

    pid: int
    host: str
    since: str
    kernel: str
    job: str = ""
    token: str = ""

    @classmethod
    def here(cls, job: str = "") -> Holder:
        """This process, about to hold a lock."""
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        return cls(os.getpid(), socket.gethostname(), now, _kernel(), job, secrets.token_hex(8))

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"

    @property
    def is_near(self) -> bool:
        """Whether this process could see it, if it lives."""
        return self.kernel == _kernel()

    def is_gone(self) -> bool:
        """Whether it can be seen from here that the process has ended."""
        if not self.is_near:
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return _is_zombie(self.pid)

    def write(self, folder: Path) -> None:
        with replacing(folder / HOLDER) as stream:
            json.dump(asdict(self), stream)


def read_holder(folder: Path) -> Holder | None:
    """Who says to hold the lock of a folder, if anyone does and it can be read."""
    try:
        found = Holder(**json.loads((folder / HOLDER).read_bytes()))
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    texts = (found.host, found.since, found.kernel, found.job, found.token)
    fits = type(found.pid) is int and found.pid > 0 and all(isinstance(text, str) for text in texts)
    return found if fits else None


def holder_age(folder: Path, clock: Path) -> float:
    """Seconds since the holder last touched its file, by the clock of the file system that both are on.

    Args:
        clock: any file of ours on the same file system; it is touched to read that clock.
    """
    with suppress(OSError):
        clock.touch()
        return clock.stat().st_mtime - (folder / HOLDER).stat().st_mtime
    return 0.0


def _kernel() -> str:
    parts = []
    with suppress(OSError):
        parts.append(_BOOT.read_text().strip())
    with suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts) or socket.gethostname()


def _is_zombie(pid: int) -> bool:
    """Whether a process has ended and only waits for its parent to take note."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (OSError, IndexError):
        return False
