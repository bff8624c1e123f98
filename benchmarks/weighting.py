"""What the task weights cost: the loss with and without them, call beside call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks.cases import LossCase
from benchmarks.contenders import CONTENDERS
from benchmarks.inputs import make, truths
from benchmarks.runner import checked_step
from benchmarks.timing import Step, paired

WEIGHTED, UNWEIGHTED = "ours", "ours, unweighted"

CPU = (
    (LossCase("cpu-weighting", "B=4 L=704 H=1024 V=32000", 4 * 704, 1024, 32_000, supervised=0.1), 30),
    (LossCase("cpu-weighting", "small hidden H=128 V=32000", 4 * 704, 128, 32_000, supervised=0.1), 60),
)
GPU = (
    (LossCase("gpu-weighting", "M=4096 H=4096 V=32000", 4096, 4096, 32_000, dtype=torch.bfloat16), 200),
    (LossCase("gpu-weighting", "M=4096 H=4096 V=32000", 4096, 4096, 32_000, 0.1, dtype=torch.bfloat16), 400),
)


def run(
    measured: Sequence[tuple[LossCase, int]], device: torch.device, announce: Callable[[str], None]
) -> list[dict[str, Any]]:
    """One entry a case, each with the ratio of its pairs and the 95 % interval of their median."""
    chosen = [contender for contender in CONTENDERS if contender.name in (WEIGHTED, UNWEIGHTED)]
    entries = []
    for case, pairs in measured:
        announce(f"  {case.name}")
        inputs = make(case, device)
        expected = truths(inputs)
        steps: dict[str, Step] = {}
        for contender in chosen:
            step = checked_step(contender, inputs, expected[contender.weighted])
            if isinstance(step, str):
                raise RuntimeError(f"{contender.name}: {step}")
            steps[contender.name] = step
        timings, comparison = paired(steps, device, pairs)
        entries.append(
            {
                "name": case.name,
                "contenders": {name: timing.as_dict() for name, timing in timings.items()},
                "paired": comparison,
                "absent": {},
            }
        )
    return entries
