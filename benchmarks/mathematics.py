"""How long measuring and weighing take: ``measure`` with its bootstrap, then ``weigh``."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

import cotbal
from benchmarks.timing import interleave

SAMPLES_PER_TASK = 200


def score_table(tasks: int, samples: int = SAMPLES_PER_TASK, seed: int = 0) -> cotbal.ScoreTable:
    """0/1 scores whose means rise from mini to plus, most for the task's own."""
    generator = np.random.default_rng(seed)
    names = [f"task{i}" for i in range(tasks)]
    mini = generator.uniform(0.3, 0.5, tasks)

    def draw(means: np.ndarray) -> dict[str, np.ndarray]:
        return {
            name: (generator.random(samples) < mean).astype(float)
            for name, mean in zip(names, means, strict=True)
        }

    table = {"mini": draw(mini)}
    for i, name in enumerate(names):
        means = mini + generator.uniform(0, 0.05, tasks)
        means[i] = mini[i] + 0.3
        table[f"plus_{name}"] = draw(means)
    return cotbal.ScoreTable.from_samples(table)


def run(sizes: tuple[int, ...] = (8, 64, 512), budget: float = 5.0) -> list[dict[str, Any]]:
    entries = []
    for tasks in sizes:
        scores = score_table(tasks)
        measurement = cotbal.measure(scores)
        timings = interleave(
            {"measure": lambda s=scores: cotbal.measure(s), "weigh": lambda m=measurement: cotbal.weigh(m)},
            torch.device("cpu"),
            budget=budget,
            minimum=1 if tasks > 64 else 3,
            maximum=20,
            warm=True,
        )
        entries.append(
            {
                "name": f"{tasks} tasks, {SAMPLES_PER_TASK} samples each",
                "tasks": tasks,
                "contenders": {name: timing.as_dict() for name, timing in timings.items()},
                "absent": {},
            }
        )
    return entries
