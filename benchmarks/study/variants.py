"""The weights that each variant of CoTBal gives, from one mixture's preparations."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cotbal.method.arrays import FloatArray
from cotbal.method.measurement import Measurement, measure
from cotbal.method.scores import ScoreTable
from cotbal.method.undefined import UndefinedContributionsWarning
from cotbal.method.weighing import OneSeedWarning, weigh
from cotbal.method.weights import TaskWeights

__all__ = ["Preparations", "variant_weights"]


@dataclass(frozen=True)
class Preparations:
    """Validation scores of one mixture's preparations.

    Attributes:
        generated: of generated answers, by each task's metric, with seeds.
        tokens: shares of the answers' tokens that are ranked first, teacher-forced, of the same samples.
    """

    generated: ScoreTable
    tokens: ScoreTable


def quietly_measured(table: ScoreTable, *, plain: bool = False) -> Measurement:
    """`measure` without its warnings; what is undefined is in the result."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedContributionsWarning)
        return measure(table, plain=plain)


def _weigh(measurement: Measurement, *, shrink: bool = False) -> TaskWeights:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OneSeedWarning)
        return weigh(measurement, shrink=shrink)


def hybrid_weights(full: TaskWeights, tokens: TaskWeights) -> FloatArray:
    """Contributions' terms by token accuracy, difficulty's by generated answers."""
    return ((tokens.outward + tokens.inward) / 2 + full.difficulty) / 2


def half_weights(table: ScoreTable) -> FloatArray:
    """The weights of every cheaper preparation, [S, N]."""
    return np.stack([_weigh(quietly_measured(table.of_seed(seed))).values for seed in table.seeds])


def variant_weights(
    found: Preparations, seed: int, half: ScoreTable | None = None
) -> Mapping[str, Mapping[str, float]]:
    """Label of every variant -> task -> weight, for the tuned units of one seed.

    Args:
        found: the full preparations.
        seed: of the one whose weights are asked for.
        half: those of half of everything, for their two variants: the one in the seed's place, and the mean of that
            and the next. None: without these variants.
    """
    one, every = quietly_measured(found.generated.of_seed(seed)), quietly_measured(found.generated)
    full = _weigh(one)
    tokens = _weigh(quietly_measured(found.tokens.of_seed(seed)))
    values: dict[str, FloatArray] = {
        "cotbal": full.values,
        "cotbal-outward": full.outward,
        "cotbal-inward": full.inward,
        "cotbal-difficulty": full.difficulty,
        "cotbal-contributions": (full.outward + full.inward) / 2,
        "cotbal-without-outward": (full.inward + full.difficulty) / 2,
        "cotbal-without-inward": (full.outward + full.difficulty) / 2,
        "cotbal-plain": _weigh(quietly_measured(found.generated.of_seed(seed), plain=True)).values,
        "cotbal-shrunk": _weigh(one, shrink=True).values,
        "cotbal-hybrid": hybrid_weights(full, tokens),
        "cotbal-seeds": _weigh(every).values,
        "cotbal-seeds-shrunk": _weigh(every, shrink=True).values,
    }
    if half is not None:
        each, place = half_weights(half), found.generated.seeds.index(seed)
        one_of, next_of = (each[(place + step) % len(each)] for step in (0, 1))
        values |= {"cotbal-half": one_of, "cotbal-half-twice": (one_of + next_of) / 2}
    return {
        label: dict(zip(full.tasks, np.asarray(row).round(12).tolist(), strict=True))
        for label, row in values.items()
    }
