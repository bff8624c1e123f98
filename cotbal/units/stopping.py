"""Units that were asked to stop: they have written a checkpoint, and go on when they are started again."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["STOPPED", "StopHandler", "UnitStoppedError", "ended_if_deaf"]

STOPPED = 75
"""Exit code of a command that was asked to stop and goes on when it is started again (EX_TEMPFAIL of sysexits.h)."""
_PATIENCE = 60.0
_LAST_WORDS = b"stopped while waiting for another process; the same command continues from here\n"


class UnitStoppedError(BaseException):
    """Units were asked to stop; the same command goes on from where they were.

    Like `KeyboardInterrupt` it is no `Exception`: nothing that mends or names a fault may take it for one.
    """


class StopHandler:
    """What a process does at a SIGTERM.

    Attributes:
        heard: whether it has been called. Python calls it between two of its own instructions; a process that waits
            within torch for another one, which may have ended, never comes to that.
    """

    def __init__(self, act: Callable[[], None]) -> None:
        self.heard = False
        self._act = act

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.heard = True
        self._act()


@contextmanager
def ended_if_deaf(seconds: float = _PATIENCE) -> Iterator[None]:
    """End this process, with `STOPPED`, where its `StopHandler` has not been called so long after a SIGTERM."""
    heard, told = os.pipe()
    os.set_blocking(told, False)

    def watch() -> None:
        while number := os.read(heard, 1):
            handler = signal.getsignal(signal.SIGTERM)
            if number[0] != signal.SIGTERM or not isinstance(handler, StopHandler):
                continue
            deadline = time.monotonic() + seconds
            while not handler.heard and time.monotonic() < deadline:
                time.sleep(0.1)
            if not handler.heard:
                os.write(2, _LAST_WORDS)
                os._exit(STOPPED)

    earlier = signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    # A data-loading worker that is told to end would tell this process through the pipe that both have.
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
    watcher = threading.Thread(target=watch, name="cotbal-stop", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(earlier)
        os.close(told)
        watcher.join()
        os.close(heard)
