"""What this machine has: memory of its devices, room on its disks."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cotbal.config.schema import Config
from cotbal.estimates.memory import Device
from cotbal.units.batches import processes_per_unit

__all__ = ["device_of", "free_disk"]

GIB = 2**30
_CGROUP = Path("/sys/fs/cgroup/memory.max")


def device_of(config: Config, settings: Mapping[str, Any], memory: float | None = None) -> Device:
    """What each process of a unit trains on, and how much memory it may take.

    The smallest of the visible GPUs; without GPUs, the machine's memory divided by the processes that run at once.

    Args:
        settings: of the training; `use_cpu` trains on the CPU though there is a GPU.
        memory: GiB of each process, in place of what is found here; `launch.memory` if None.
    """
    given = config.launch.memory if memory is None else memory
    on_gpu = not settings.get("use_cpu") and (torch.cuda.device_count() > 0 or given is not None)
    if given is not None:
        named = "--memory" if memory is not None else "launch.memory"
        return Device("gpu" if on_gpu else "cpu", int(given * GIB), named)
    if on_gpu:
        sizes = [
            torch.cuda.get_device_properties(index).total_memory for index in range(torch.cuda.device_count())
        ]
        return Device("gpu", min(sizes), "the smallest visible GPU")
    at_once = processes_per_unit(config) * (config.launch.side_by_side or 1)
    return Device(
        "cpu", _memory() // at_once, f"this machine's memory for {at_once} process{'es'[: 2 * (at_once > 1)]}"
    )


def _memory() -> int:
    """The memory of this machine, or of the container that this process is in."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = _CGROUP.read_text().strip()
    except OSError:
        return whole
    return min(whole, int(limit)) if limit.isdigit() else whole


def free_disk(folder: Path) -> int:
    """Bytes that are free where a folder is, or will be."""
    while not folder.is_dir():
        folder = folder.parent
    return shutil.disk_usage(folder).free
