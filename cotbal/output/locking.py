"""Let one process at a time work in a folder, and tell the next one who does.

Three things say that a folder is held, and together they cover what file systems offer:

- A lock of the system on `.lock`, where there are such locks. It ends with its process, on one machine at once.
- The file `.lock.holder`: host, process and since when. Its holder touches it every `BEAT_SECONDS`.
- On the holder's own machine, whether its process is still there.

Where the system has no locks, or keeps them to one machine, the holder's file alone decides: another machine's
process holds the folder until it has not touched the file for `DEAD_SECONDS`. A holder that finds another's name in
the file (it was suspended for that long) ends itself before its next beat is over.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from cotbal.config.yaml_file import ConfigError
from cotbal.output.holder import DEAD_SECONDS, HOLDER, Holder, holder_age, read_holder

__all__ = ["HeldError", "held_by_other", "locked"]

LOCK = ".lock"
BEAT_SECONDS = 10.0
# Where the holder's file alone decides, a second taker has had time to write its name by then.
_SETTLE_SECONDS = 1.0
# The workers of a killed process, which share its lock, notice within some seconds that it is gone.
_ORPHANS_SECONDS = 30.0
_POLL_SECONDS = 0.5


class HeldError(ConfigError):
    """Another process works in the folder; `holder` says which, if it has said so."""

    def __init__(self, message: str, holder: Holder | None = None) -> None:
        super().__init__(message)
        self.holder = holder


@contextmanager
def locked(
    folder: Path, *, waiting: Callable[[HeldError], object] | None = None, job: str = ""
) -> Iterator[bool]:
    """Hold the lock of `folder`, which is created if missing. The lock ends with the process, however that ends.

    Yields whether another process had to be waited for.

    Args:
        waiting: where given, a holder is waited for, after this has been called with who it is.
        job: what the processes of one launcher have in common, see `Holder`.

    Raises:
        HeldError: another process holds it and is not waited for; its number, its host and since when.
        ConfigError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, timeout=0)
    me = Holder.here(job)
    waited = False
    while True:
        try:
            _take(lock, folder, me)
            break
        except HeldError as error:
            if waiting is None:
                raise
            if not waited:
                waiting(error)
            waited = True
            time.sleep(_POLL_SECONDS)
    beat = _Beat(folder, me)
    try:
        yield waited
    finally:
        beat.end()
        found = read_holder(folder)
        if found is not None and found.token == me.token:
            (folder / HOLDER).unlink(missing_ok=True)
        lock.release()


def held_by_other(folder: Path) -> Holder | None:
    """The living process that holds the lock of `folder`, unless it is this one; looks without taking anything."""
    found = read_holder(folder)
    if found is None or found.is_gone() or (found.is_near and found.pid == os.getpid()):
        return None
    return None if _is_dead(folder) else found


def _take(lock: FileLock, folder: Path, me: Holder) -> None:
    began = time.monotonic()
    while True:
        has_locks = _acquired(lock, folder)
        other = read_holder(folder)
        if has_locks is False:
            if other is not None and other.is_gone() and time.monotonic() - began < _ORPHANS_SECONDS:
                time.sleep(_POLL_SECONDS)
                continue
            if other is not None and not other.is_near and _is_dead(folder):
                # Its machine is gone, and the file server has not noticed.
                (folder / LOCK).unlink(missing_ok=True)
                continue
            raise _held(folder, other)
        # With the system's lock in hand, whoever shared this machine is gone.
        near_and_gone = other is not None and (other.is_gone() or (has_locks is True and other.is_near))
        if other is not None and not near_and_gone and not _is_dead(folder):
            lock.release()
            raise _held(folder, other)
        try:
            me.write(folder)
        except BaseException:
            lock.release()
            raise
        if has_locks is None or not (other is None or other.is_near):
            time.sleep(_SETTLE_SECONDS)
            winner = read_holder(folder)
            if winner is None or winner.token != me.token:
                lock.release()
                raise _held(folder, winner)
        return


def _acquired(lock: FileLock, folder: Path) -> bool | None:
    """Whether the system's lock is ours now; None where the file system has none."""
    try:
        (folder / LOCK).touch()
        if not _has_locks(folder / LOCK):
            return None
        lock.acquire()
    except Timeout:
        return False
    except OSError as error:
        raise ConfigError(f"{folder / LOCK}: cannot be locked ({error})") from error
    return True


def _has_locks(path: Path) -> bool:
    """Whether the file system answers a request for a lock; filelock would take to a marker that outlives it."""
    number = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(number, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EWOULDBLOCK, errno.EACCES)
    finally:
        os.close(number)
    return True


def _is_dead(folder: Path) -> bool:
    return holder_age(folder, folder / LOCK) >= DEAD_SECONDS


def _held(folder: Path, holder: Holder | None) -> HeldError:
    who = "it has not said which" if holder is None else str(holder)
    return HeldError(
        f"{folder}: another cotbal process is working in this folder ({who}); wait for it, or give another `output`",
        holder,
    )


class _Beat:
    """Touches the holder's file while the lock is held, and ends this process where the lock was taken over."""

    def __init__(self, folder: Path, me: Holder) -> None:
        self._folder = folder
        self._me = me
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"heartbeat of {folder}", daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            found = read_holder(self._folder)
            if found is not None and found.token != self._me.token:
                print(
                    f"cotbal: {self._folder} was taken over by {found}, since this process gave no sign of life; "
                    "it ends here",
                    flush=True,
                )
                # Not by an exception: whatever this process would still write could spoil the other's work.
                os.kill(os.getpid(), signal.SIGKILL)
            # A file server that does not answer for a while is no reason to stop.
            with suppress(OSError):
                os.utime(self._folder / HOLDER)
