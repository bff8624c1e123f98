"""Let one process at a time work in a folder, and tell the next one who does."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from cotbal.atomic import replacing
from cotbal.config.yaml_file import ConfigError

__all__ = ["HeldError", "locked"]

LOCK = ".lock"
HOLDER = ".lock.holder"
"""Beside the lock, since no system lets a second process read what the first has locked."""


class HeldError(ConfigError):
    """Another process works in the folder."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of `folder`, which is created if missing. The lock ends with the process, however that ends.

    Raises:
        HeldError: another process holds it; its number, its host and since when.
        ConfigError: the file system has no locks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise HeldError(
            f"{folder}: another cotbal process is working in this folder ({_holder(folder)}); wait for it, or give "
            "another `output`"
        ) from None
    except (NotImplementedError, OSError) as error:
        # Without locks at all (ENOSYS) filelock takes to a file that marks the folder, or says NotImplementedError.
        raise ConfigError(
            f"{folder / LOCK}: cannot be locked ({error}), so two processes could work in this folder at once; "
            "give an `output` on a file system with locks"
        ) from error
    holder = folder / HOLDER
    try:
        with replacing(holder) as stream:
            json.dump({"pid": os.getpid(), "host": socket.gethostname(), "since": _now()}, stream)
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _holder(folder: Path) -> str:
    """Say who holds the lock, unless they took it this very moment and have not said so yet."""
    try:
        found = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
        return f"process {found['pid']} on {found['host']} since {found['since']}"
    except (OSError, ValueError, TypeError, KeyError):
        return "it has not said which"


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
