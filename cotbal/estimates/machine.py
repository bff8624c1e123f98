"""What this machine has: memory of its devices, room on its disks."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from cotbal.config.schema import Config
from cotbal.estimates.ray_nodes import memory_on_ray, ray_nodes
from cotbal.units.batches import processes_per_unit
from cotbal_kernels.arguments import BUDGET, GPU_SHARE

__all__ = ["GIB", "Device", "available_memory", "device_of", "free_disk", "own_device"]

GIB = 2**30
# What CUDA, its libraries and NCCL keep for themselves, and what Python and its packages take on a CPU; rounded up.
_RUNTIME = {"gpu": GIB, "cpu": GIB // 2}

_ASK_GPUS = """
import json, torch
print(json.dumps([torch.cuda.mem_get_info(index) for index in range(torch.cuda.device_count())]))
"""


@dataclass(frozen=True)
class Device:
    """What a process trains on.

    Attributes:
        kind: `gpu` or `cpu`.
        memory: bytes that the process may take; None where that is unknown.
        named: where the number is from, in words.
        whole: all bytes of a GPU, free or not; `memory` if None.
    """

    kind: str
    memory: int | None
    named: str = ""
    whole: int | None = None

    @property
    def runtime(self) -> int:
        """Bytes that libraries take beside tensors."""
        return _RUNTIME[self.kind]

    @property
    def loss_budget(self) -> int:
        """Bytes that the loss may hold at once."""
        whole = self.memory if self.whole is None else self.whole
        return BUDGET if self.kind == "cpu" or whole is None else whole // GPU_SHARE


def device_of(
    config: Config, settings: Mapping[str, Any], memory: float | None = None, *, in_use: bool = False
) -> Device:
    """What each process of a unit trains on, and how much memory it may take.

    Of the visible GPUs the one with least free; without GPUs, the machine's available memory divided by the processes
    that run at once. A Ray cluster is asked for its nodes' memory; that of machines that Slurm gives is not known.

    Args:
        settings: of the training; `use_cpu` trains on the CPU though there is a GPU.
        memory: GiB of each process, in place of what is found here; `launch.memory` if None.
        in_use: units of this schedule are being made, so that what is free tells nothing.
    """
    given = config.launch.memory if memory is None else memory
    if given is not None:
        named = "--memory" if memory is not None else "launch.memory"
        return Device("cpu" if settings.get("use_cpu") else "gpu", int(given * GIB), named)
    engine: str = config.launch.engine
    processes = processes_per_unit(config)
    if engine != "local":
        kind = "cpu" if settings.get("use_cpu") else "gpu"
        found = memory_on_ray(ray_nodes(config), config, processes, kind=kind) if engine == "ray" else None
        return Device(kind, None) if found is None else Device(kind, *found)
    at_once = processes * (config.launch.side_by_side or 1)
    return _own_device(settings, at_once, in_use=in_use)


def own_device(config: Config, settings: Mapping[str, Any]) -> Device:
    """What each process of a unit trains on that is made on this machine, whatever has started it."""
    return _own_device(settings, processes_per_unit(config), in_use=False)


def _own_device(settings: Mapping[str, Any], at_once: int, *, in_use: bool) -> Device:
    gpus = [] if settings.get("use_cpu") else _gpus()
    if gpus:
        free, whole = min(gpus)
        if in_use:
            return Device("gpu", whole, "the smallest visible GPU", whole)
        return Device("gpu", free, "free on the fullest visible GPU", whole)
    share = "" if at_once == 1 else f", for each of {at_once} processes"
    return Device(
        "cpu", None if in_use else available_memory() // at_once, f"available on this machine{share}"
    )


def _gpus() -> list[tuple[int, int]]:
    """Free and all bytes of each visible GPU; asked by another process, as who asks takes memory of each."""
    if not torch.cuda.device_count():
        return []
    done = subprocess.run(
        [sys.executable, "-c", _ASK_GPUS], capture_output=True, text=True, check=False, timeout=120
    )
    if done.returncode == 0:
        return [(int(free), int(whole)) for free, whole in json.loads(done.stdout.splitlines()[-1])]
    sizes = [
        torch.cuda.get_device_properties(index).total_memory for index in range(torch.cuda.device_count())
    ]
    return [(size, size) for size in sizes]


def available_memory(cgroups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """Bytes that processes can still take, in the container that this process is in.

    Args:
        cgroups: where the kernel shows its control groups, of version 1 or 2.
        own: which of them this process is in.
    """
    free = [int(psutil.virtual_memory().available)]
    try:
        entries = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        entries = []
    for _, kind, below in entries:
        if kind not in ("", "memory"):
            continue
        root = cgroups / kind
        limit, used = (
            ("memory.max", "memory.current")
            if kind == ""
            else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        )
        group = root / below.lstrip("/")
        # A group has what all groups above it have; in a container, the own path may be another one's.
        for folder in (root, *(root / part for part in _and_above(group.relative_to(root)))):
            most, now = _number(folder / limit), _number(folder / used)
            if most is not None and now is not None:
                free.append(max(0, most - now + _cache(folder)))
    return min(free)


def _and_above(path: Path) -> list[Path]:
    return [path, *list(path.parents)[:-1]]


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _cache(folder: Path) -> int:
    """Bytes of cached files, which the kernel gives back when they are needed."""
    try:
        lines = (folder / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    found = dict(line.split(" ", 1) for line in lines if " " in line)
    return int(found.get("inactive_file", found.get("total_inactive_file", "0")))


def free_disk(folder: Path) -> int:
    """Bytes that are free where a folder is, or will be."""
    while not folder.is_dir():
        folder = folder.parent
    return shutil.disk_usage(folder).free
