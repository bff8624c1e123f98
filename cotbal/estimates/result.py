"""What an estimate says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cotbal.estimates.disk import Disk
from cotbal.estimates.machine import Device
from cotbal.estimates.memory import Memory
from cotbal.estimates.pace import TimeLeft, Work
from cotbal.units.batches import BatchLayout
from cotbal.units.schedule import Stage, Unit

__all__ = ["ScheduleEstimate", "Settings", "UnitEstimate"]

Settings = Mapping[Stage, Mapping[str, Any]]
"""Training settings by stage."""


@dataclass(frozen=True)
class UnitEstimate:
    """What one unit takes.

    Attributes:
        state: `planned`, `trained` or `scored`, as in its manifest.
        memory: of each process; None where it could not be estimated.
        disk: what it writes; None where it could not be estimated.
    """

    unit: Unit
    state: str
    work: Work
    memory: Memory | None
    disk: Disk | None

    @property
    def to_write(self) -> int:
        """Bytes that it leaves and has not written yet."""
        if self.disk is None or self.state == "scored":
            return 0
        return self.disk.left - (self.disk.model if self.state == "trained" else 0)

    @property
    def in_passing(self) -> int:
        """Bytes that it takes for a while beside those."""
        return 0 if self.disk is None or self.state != "planned" else self.disk.most - self.disk.left


@dataclass(frozen=True)
class ScheduleEstimate:
    """What a schedule takes, and whether it fits.

    Attributes:
        device: what each process trains on.
        batch: shape of the micro-batch on which memory is estimated: rows, and tokens of each.
        free: bytes that are free on the disk of the output folder.
        notes: what could not be estimated, and why.
        faults: what does not fit, in sentences.
    """

    units: tuple[UnitEstimate, ...]
    layouts: Mapping[Stage, BatchLayout]
    device: Device
    batch: tuple[int, int] | None
    free: int
    time: TimeLeft
    notes: tuple[str, ...] = ()
    faults: tuple[str, ...] = field(default=())

    @property
    def disk(self) -> int:
        """Bytes that are still to be written, at the fullest."""
        beside = sorted((item.in_passing for item in self.units), reverse=True)
        return sum(item.to_write for item in self.units) + sum(beside[: self.time.at_once])
