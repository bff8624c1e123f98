"""Hypothesis strategies for scores, contributions and difficulties."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from cotbal.method.scores import ScoreTable

COUNTS = st.integers(1, 8)
TEMPERATURES = st.floats(0.05, 100.0)
VALUES = st.floats(-5.0, 5.0, allow_subnormal=False)
POSITIVE = st.floats(0.01, 100.0)


def vectors(count: int, entries: st.SearchStrategy[float] = VALUES) -> st.SearchStrategy[list[float]]:
    """One entry per task."""
    return st.lists(entries, min_size=count, max_size=count)


@dataclass(frozen=True)
class Terms:
    """What weights are made of; NaN in `outward` and `inward` is undefined."""

    outward: list[float]
    inward: list[float]
    difficulty: list[float]
    temperature: float


@st.composite
def terms(draw: st.DrawFn, *, undefined: bool = False, count: st.SearchStrategy[int] = COUNTS) -> Terms:
    """Terms of a drawn number of tasks, with undefined entries if asked for."""
    number = draw(count)
    entries = VALUES | st.just(float("nan")) if undefined else VALUES
    return Terms(
        draw(vectors(number, entries)),
        draw(vectors(number, entries)),
        draw(vectors(number)),
        draw(TEMPERATURES),
    )


@st.composite
def sampled_tables(draw: st.DrawFn, *, max_tasks: int = 4, max_samples: int = 12) -> ScoreTable:
    """A score table of 0/1 or fractional scores per sample, some tasks with groups, in either direction."""
    count = draw(st.integers(1, max_tasks))
    tasks = [f"t{i}" for i in range(count)]
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    samples: dict[str, dict[str, list[float]]] = {
        model: {} for model in ["mini", *(f"plus_{t}" for t in tasks)]
    }
    groups: dict[str, list[str]] = {}
    for task in tasks:
        size = draw(st.integers(2, max_samples))
        binary = draw(st.booleans())
        for model in samples:
            scores = random.random(size)
            # The first sample is always solved, so that difficulty is defined.
            scores[0] = 1.0
            samples[model][task] = (np.round(scores) if binary else scores).tolist()
        if draw(st.booleans()):
            groups[task] = [f"image{label}" for label in random.integers(0, 3, size)]
    higher = draw(st.lists(st.booleans(), min_size=count, max_size=count))
    return ScoreTable.from_samples(samples, tasks=tasks, groups=groups, higher_is_better=higher)
