"""What a small call costs the host, forward and backward: where little is computed, this is all there is to see.

Measured is the processor time of the calling thread, on one thread, so that other work on the machine does not count.
On a GPU nothing is waited for inside, so it is the time to enqueue.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import cotbal_kernels as ck
from benchmarks.cases import LossCase
from benchmarks.inputs import make
from benchmarks.timing import peak_memory, summarise

OURS, STOCK, BY_HAND = "ours, weighted, with a plan", "stock", "stock, weighted, with statistics by hand"
OURS_ON_LOGITS, STOCK_ON_LOGITS = "ours on logits, weighted, with a plan", "stock on logits"
# What each contender is compared with.
BASES = {
    OURS: STOCK,
    STOCK: STOCK,
    BY_HAND: STOCK,
    OURS_ON_LOGITS: STOCK_ON_LOGITS,
    STOCK_ON_LOGITS: STOCK_ON_LOGITS,
}
CASES = (
    LossCase("host", "32 tokens H=16 V=64", 32, 16, 64, tasks=2),
    LossCase("host", "1024 tokens H=64 V=100", 1024, 64, 100, 0.25, tasks=4),
    LossCase("host", "256 tokens H=128 V=1000", 256, 128, 1000, 0.5, tasks=4),
)
ROUNDS = 300


def small(case: LossCase, device: torch.device) -> dict[str, Callable[[], Tensor]]:
    """Ours, the plain mean, and the weighted mean with the sums that ours returns; the first two on logits, too."""
    inputs = make(case, device)
    assert inputs.weight is not None
    hidden, weight, labels = inputs.hidden, inputs.weight, inputs.labels
    normalizer = inputs.plan.normalizer(inputs.task_weights)
    row_weights = torch.where(labels >= 0, inputs.task_weights[inputs.task_ids], 0)

    def ours() -> Tensor:
        inputs.clear()
        loss = ck.linear_cross_entropy(
            hidden, weight, plan=inputs.plan, task_weights=inputs.task_weights, normalizer=normalizer
        ).loss
        loss.backward()
        return loss

    def stock() -> Tensor:
        inputs.clear()
        loss = F.cross_entropy(F.linear(hidden, weight).float(), labels, ignore_index=-100)
        loss.backward()
        return loss

    def by_hand() -> Tensor:
        inputs.clear()
        logits = F.linear(hidden, weight).float()
        nll = F.cross_entropy(logits, labels, ignore_index=-100, reduction="none")
        loss = (nll * row_weights).sum() / normalizer
        with torch.no_grad():
            supervised = labels >= 0
            for values in (nll, supervised.float(), (logits.argmax(-1) == labels).float()):
                values.new_zeros(case.tasks).index_add_(0, inputs.task_ids, values.detach())
        loss.backward()
        return loss

    logits = F.linear(hidden, weight).detach().requires_grad_()

    def ours_on_logits() -> Tensor:
        logits.grad = None
        loss = ck.cross_entropy(
            logits, plan=inputs.plan, task_weights=inputs.task_weights, normalizer=normalizer
        ).loss
        loss.backward()
        return loss

    def stock_on_logits() -> Tensor:
        logits.grad = None
        loss = F.cross_entropy(logits.float(), labels, ignore_index=-100)
        loss.backward()
        return loss

    return {
        OURS: ours,
        STOCK: stock,
        BY_HAND: by_hand,
        OURS_ON_LOGITS: ours_on_logits,
        STOCK_ON_LOGITS: stock_on_logits,
    }


def run_case(case: LossCase, device: torch.device, rounds: int = ROUNDS) -> dict[str, Any]:
    steps = small(case, device)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seconds = interleaved(steps, device, rounds)
    finally:
        torch.set_num_threads(threads)
    timings = {
        name: summarise(taken, peak_memory(steps[name], device, replaces=True))
        for name, taken in seconds.items()
    }
    return {
        "name": f"{case.label} {case.supervised:.0%} supervised, {case.tasks} tasks",
        "contenders": {
            name: {**timing.as_dict(), "ratio_to_stock": timing.median / timings[BASES[name]].median}
            for name, timing in timings.items()
        },
        "absent": {},
    }


def interleaved(
    steps: dict[str, Callable[[], Tensor]], device: torch.device, rounds: int
) -> dict[str, list[float]]:
    """Processor seconds of this thread for each step, ``rounds`` times, in an order drawn anew each time."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    order, names = random.Random(0), list(steps)
    for turn in range(-20, rounds):
        order.shuffle(names)
        for name in names:
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            began = time.thread_time()
            steps[name]()
            if turn >= 0:
                seconds[name].append(time.thread_time() - began)
    return seconds


def run(device: torch.device, announce: Callable[[str], object]) -> list[dict[str, Any]]:
    entries = []
    for case in CASES:
        announce(f"  {case.label}")
        entries.append(run_case(case, device))
    return entries
