"""One process at a time in a folder, and the next one is told who is there."""

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

__all__ = ["locked"]

LOCK = ".lock"
HOLDER = ".lock.holder"
"""Beside the lock, since no system lets a second process read what the first has locked."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of `folder`, which is made where it is missing. It ends with the process, however that ends.

    Raises:
        ConfigError: another process holds it; its number, its host and since when.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ConfigError(
            f"{folder}: another cotbal process is working in this folder ({_holder(folder)}); wait for it, or give "
            "another `output`"
        ) from None
    holder = folder / HOLDER
    try:
        with replacing(holder) as stream:
            json.dump({"pid": os.getpid(), "host": socket.gethostname(), "since": _now()}, stream)
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _holder(folder: Path) -> str:
    """Who holds the lock, as far as it has said so: it may have taken it this very moment."""
    try:
        found = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
        return f"process {found['pid']} on {found['host']} since {found['since']}"
    except (OSError, ValueError, TypeError, KeyError):
        return "it has not said which"


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
