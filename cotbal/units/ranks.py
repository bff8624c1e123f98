"""The processes that work on one unit together, as torch.distributed knows them; one process needs none of it."""

from __future__ import annotations

import os
from typing import Any

import torch.distributed as dist

__all__ = ["barrier", "gathered", "is_first", "rank", "world_size"]


def world_size() -> int:
    """How many processes work on the unit, by their launcher's word."""
    return dist.get_world_size() if _started() else int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """This process's number among them, from 0."""
    return dist.get_rank() if _started() else int(os.environ.get("RANK", "0"))


def is_first() -> bool:
    """Whether this process writes for all of them."""
    return rank() == 0


def barrier() -> None:
    """Wait until every process is here."""
    if _started() and dist.get_world_size() > 1:
        dist.barrier()


def gathered(value: Any) -> list[Any]:
    """Every process's value, in the order of ranks, on every process."""
    if not _started() or dist.get_world_size() == 1:
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def _started() -> bool:
    return dist.is_available() and dist.is_initialized()
