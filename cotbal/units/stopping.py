"""Units that were asked to stop: they have written a checkpoint, and go on when they are started again."""

from __future__ import annotations

__all__ = ["STOPPED", "UnitStoppedError"]

STOPPED = 75
"""Exit code of a command that was asked to stop and goes on when it is started again (EX_TEMPFAIL of sysexits.h)."""


class UnitStoppedError(BaseException):
    """Units were asked to stop; the same command goes on from where they were.

    Like `KeyboardInterrupt` it is no `Exception`: nothing that mends or names a fault may take it for one.
    """
