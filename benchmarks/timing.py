"""Interleaved timing and peak memory, on a CPU and on a GPU."""

from __future__ import annotations

import gc
import math
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from benchmarks.counts import count

Step = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """Seconds of one contender: median and quartiles over ``runs``, and its peak extra memory in bytes."""

    median: float
    lower: float
    upper: float
    runs: int
    peak_bytes: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def summarise(seconds: list[float], peak_bytes: int) -> Timing:
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
    failed: dict[str, str] | None = None,
) -> dict[str, Timing]:
    """Time every step in turn, round after round, until ``budget`` seconds are spent.

    With ``failed``, a step that raises (memory that ran out, say) is entered there and left out from then on.

    Each contender runs once or twice uncounted (compilation, caches, memory pools; once where ``warm`` says that it
    has run before), then in every round, in an order drawn anew, so that nobody always follows the same neighbour.
    After the first round a contender runs as often in each as fits into a third of the slowest one's time, at most
    eight times. ``flush`` runs before each timed step (a cold cache); without it the caches are as the neighbour
    left them.
    """
    peaks: dict[str, int] = {}
    seconds: dict[str, list[float]] = {}

    def timed(name: str) -> None:
        if flush is not None:
            flush()
        seconds.setdefault(name, []).append(_once(steps[name], device))

    def prepared(name: str) -> None:
        if not warm:
            steps[name]()
        peaks[name] = peak_memory(steps[name], device, replaces=True)

    def survives(call: Callable[[str], None], name: str) -> bool:
        try:
            call(name)
        except Exception as error:
            if failed is None:
                raise
            failed[name] = failure(error)
            seconds.pop(name, None)
            give_memory_back(device)
            return False
        return True

    names = [name for name in steps if survives(prepared, name)]
    order = random.Random(0)
    began = time.perf_counter()
    for turn in range(maximum):
        if turn >= minimum and time.perf_counter() - began > budget:
            break
        order.shuffle(names)
        for name in list(names):
            if name in names and not survives(timed, name):
                names = [other for other in names if other != name]
        if turn == 0 and seconds:
            slowest = max(taken for (taken,) in seconds.values())
            names = [name for name in seconds for _ in range(_repeats(seconds[name][0], slowest))]
    return {name: summarise(taken, peaks[name]) for name, taken in seconds.items()}


def failure(error: Exception) -> str:
    """Why a contender has no figure, in a line."""
    lines = str(error).splitlines()
    return f"failed: {type(error).__name__}: {lines[0] if lines else ''}"


def give_memory_back(device: torch.device) -> None:
    """What an abandoned step held, to whoever comes next."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def paired(
    steps: Mapping[str, Step], device: torch.device, pairs: int
) -> tuple[dict[str, Timing], dict[str, Any]]:
    """Time two steps side by side, ``pairs`` times, taking turns at going first.

    What the machine does meanwhile hits both calls of a pair alike, so their ratio is far steadier than the ratio of
    two medians. Returns both timings, and the median ratio of the first step to the second with the 95 % interval
    of that median (from the order of the ratios: no assumption about how they are distributed).
    """
    first, second = steps
    for step in steps.values():
        step()
    peaks = {name: peak_memory(step, device, replaces=True) for name, step in steps.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(pairs):
        for name in (first, second) if turn % 2 == 0 else (second, first):
            seconds[name].append(_once(steps[name], device))
    ratios = sorted(one / other for one, other in zip(seconds[first], seconds[second], strict=True))
    outside = _outside(pairs)
    return {name: summarise(taken, peaks[name]) for name, taken in seconds.items()}, {
        "first": first,
        "second": second,
        "ratio": statistics.median(ratios),
        "lower": ratios[outside],
        "upper": ratios[-1 - outside],
        "pairs": pairs,
    }


def _outside(count: int, level: float = 0.95) -> int:
    """How many of ``count`` sorted values to leave out at each end of an interval for their median."""
    below = 0.0
    for outside in range(count // 2):
        below += math.comb(count, outside) / 2**count
        if below > (1 - level) / 2:
            return max(0, outside - 1)
    return max(0, (count - 1) // 2)


def _repeats(taken: float, slowest: float) -> int:
    return min(8, max(1, int(slowest / (3 * taken))))


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


def peak_memory(step: Step, device: torch.device, *, replaces: bool = False) -> int:
    """Bytes that torch's allocator holds at the worst moment of ``step``, above what it held before.

    With ``replaces``, the step begins by giving back what its last run made (gradients), and what it leaves in its
    place is not counted.
    """
    if device.type == "cuda":
        if replaces:
            step()  # so that there is something to give back
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    counts = count(step)
    # The profiler does not see blocks go that are older than itself.
    return counts.peak_bytes - counts.kept_bytes if replaces else counts.peak_bytes
