"""The lock of a unit that several processes of one launcher make together: the first holds it for all."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cotbal.output.holder import read_holder
from cotbal.output.store import OutputFolder
from cotbal.units import ranks

__all__ = ["joint_lock"]

_POLL_SECONDS = 0.2
# What torchrun and accelerate launch tell every process that they start together, and no others.
_JOB = ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "MASTER_ADDR", "MASTER_PORT")


@contextmanager
def joint_lock(folder: OutputFolder, unit: str, say: Callable[[str], object]) -> Iterator[None]:
    """Hold a unit's lock, before the processes have joined: who waits for long would outlast their time limit.

    Args:
        say: told by the first process who holds the unit, if anyone does.
    """
    job = " ".join(os.environ.get(name, "") for name in _JOB)
    if ranks.is_first():
        with folder.unit_locked(unit, say, job):
            yield
        return
    place = folder.running / unit
    while (holder := read_holder(place)) is None or holder.job != job:
        time.sleep(_POLL_SECONDS)
    yield
