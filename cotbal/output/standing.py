"""Which step a training is at, as its process tells it in a file and `cotbal status` reads it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Standing", "read_standing"]


@dataclass(frozen=True)
class Standing:
    """Where a training stands.

    Attributes:
        step, steps: optimizer steps done, and in all.
        seconds_left: by the pace since this process began; None before its first step.
    """

    step: int
    steps: int
    seconds_left: float | None


def read_standing(path: Path) -> Standing | None:
    """Where a training stands, from its file; None where there is none or a kill has left half of one."""
    try:
        return Standing(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError, RecursionError):
        return None
