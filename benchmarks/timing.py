"""Interleaved timing and peak memory, on a CPU and on a GPU."""

from __future__ import annotations

import ctypes
import gc
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

Step = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """Seconds of one contender: median and quartiles over ``runs``, and its peak extra memory in bytes."""

    median: float
    lower: float
    upper: float
    runs: int
    peak_bytes: int | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def summarise(seconds: list[float], peak_bytes: int | None) -> Timing:
    if len(seconds) == 1:
        return Timing(seconds[0], seconds[0], seconds[0], 1, peak_bytes)
    lower, median, upper = statistics.quantiles(seconds, n=4, method="inclusive")
    return Timing(median, lower, upper, len(seconds), peak_bytes)


def interleave(
    steps: Mapping[str, Step],
    device: torch.device,
    *,
    budget: float,
    minimum: int = 5,
    maximum: int = 50,
    flush: Callable[[], object] | None = None,
    warm: bool = False,
) -> dict[str, Timing]:
    """Time every step in turn, round after round, until ``budget`` seconds are spent.

    Each contender runs once or twice uncounted (compilation, caches, memory pools; once where ``warm`` says that it
    has run before), then in every round, in an order drawn anew, so that nobody always follows the same neighbour.
    In a round a contender runs as often as it fits into a quarter of the slowest one's time, eight times at most.
    ``flush`` runs before each timed step (a cold cache); without it the caches are as the neighbour left them.
    """
    if not warm:
        for step in steps.values():
            step()
    peaks: dict[str, int | None] = {}
    seconds: dict[str, list[float]] = {}
    taken: dict[str, float] = {}
    for name, step in steps.items():
        began = time.perf_counter()
        peaks[name] = peak_memory(step, device)
        taken[name], seconds[name] = time.perf_counter() - began, []
    slowest = max(taken.values())
    names = [name for name in steps for _ in range(min(8, max(1, int(slowest / (4 * taken[name])))))]
    order = random.Random(0)
    began = time.perf_counter()
    for turn in range(maximum):
        if turn >= minimum and time.perf_counter() - began > budget:
            break
        order.shuffle(names)
        for name in names:
            if flush is not None:
                flush()
            seconds[name].append(_once(steps[name], device))
    return {name: summarise(seconds[name], peaks[name]) for name in names}


def _once(step: Step, device: torch.device) -> float:
    if device.type == "cuda":
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        step()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def peak_memory(step: Step, device: torch.device) -> int | None:
    """Bytes above what was allocated before, at the worst moment of ``step``, which has run before.

    On a GPU the allocator counts. On Linux the kernel's high-water mark of the resident set is reset through
    ``/proc/self/clear_refs``, so memory of native libraries counts too; elsewhere None.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = _status_bytes("VmRSS")
    except OSError:
        return None
    step()
    return max(0, _status_bytes("VmHWM") - before)


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")
