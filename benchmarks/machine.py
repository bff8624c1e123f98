"""What a result file says about where it was measured."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import torch

from benchmarks.allocator import keeps_freed_memory

_PACKAGES = (
    "torch",
    "triton",
    "transformers",
    "accelerate",
    "liger-kernel",
    "cut-cross-entropy",
    "quack-kernels",
    "nvidia-cutlass-dsl",
    "apache-tvm-ffi",
    "torch-c-dlpack-ext",
)


def cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists() and (found := re.search(r"model name\s*:\s*(.+)", info.read_text())):
        return found.group(1).strip()
    return platform.processor() or platform.machine()


def machine_kind(device: torch.device) -> str:
    """A folder name for results that may be compared with one another, e.g. ``cpu-amd-epyc-2t-avx2``."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        capability = torch.backends.cpu.get_cpu_capability().lower()
        name = f"cpu-{cpu_model()}-{torch.get_num_threads()}t-{capability}"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The commit measured, with ``-dirty`` when the tree had changes; ``unknown`` outside a checkout."""
    here = Path(__file__).parent
    try:
        head = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no", "--", "../cotbal", "../cotbal_kernels"],
            cwd=here, capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("-dirty" if changed else "")


def describe(device: torch.device) -> dict[str, Any]:
    described: dict[str, Any] = {
        "kind": machine_kind(device),
        "cpu": cpu_model(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "versions": versions(),
        "commit": commit(),
        "keeps_freed_memory": keeps_freed_memory(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        described["gpu"] = {"name": properties.name, "memory": properties.total_memory}
        try:
            described["gpu"]["clock_mhz"] = torch.cuda.clock_rate(device)
        except Exception as error:  # the management library may be missing: the result is still a result
            described["gpu"]["clock_mhz"] = f"not readable: {type(error).__name__}"
    return described
