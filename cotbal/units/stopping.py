"""Units that were asked to stop: they have written a checkpoint, and go on when they are started again."""

from __future__ import annotations

from cotbal.config.yaml_file import ConfigError

__all__ = ["STOPPED", "UnitStoppedError"]

STOPPED = 75
"""Exit code of a command that was asked to stop and goes on when it is started again (EX_TEMPFAIL of sysexits.h)."""


class UnitStoppedError(ConfigError):
    """Units were asked to stop; the same command goes on from where they were."""
