"""Strategies that choose every task's weight step by step: CoTBal's, and those it is compared with.

>>> get("dwa", 3, window=10)
DynamicWeightAverage(num_tasks=3, window=10, temperature=2.0)
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence

from torch import Tensor

from cotbal.method.weights import TaskWeights
from cotbal.strategies.base import Strategy
from cotbal.strategies.coba import ConvergenceBalancing
from cotbal.strategies.cotbal import CoTBal
from cotbal.strategies.dwa import DynamicWeightAverage
from cotbal.strategies.ew import EqualWeights
from cotbal.strategies.famo import FastAdaptiveOptimization
from cotbal.strategies.fastmix import GradientAlignment
from cotbal.strategies.fixed import Fixed
from cotbal.strategies.igb import ImprovableGapBalancing
from cotbal.strategies.rlw import RandomLossWeighting
from cotbal.strategies.square import SquareAveraging
from cotbal.strategies.tla import TaskLevelAveraging
from cotbal.strategies.uw_so import SoftOptimalUncertainty

__all__ = [
    "CoTBal",
    "ConvergenceBalancing",
    "DynamicWeightAverage",
    "EqualWeights",
    "FastAdaptiveOptimization",
    "Fixed",
    "GradientAlignment",
    "ImprovableGapBalancing",
    "RandomLossWeighting",
    "SoftOptimalUncertainty",
    "SquareAveraging",
    "Strategy",
    "TaskLevelAveraging",
    "get",
    "names",
    "uses_validation",
]

_STRATEGIES: dict[str, type[Strategy]] = {
    kind.name: kind
    for kind in (
        EqualWeights,
        TaskLevelAveraging,
        RandomLossWeighting,
        DynamicWeightAverage,
        ImprovableGapBalancing,
        SoftOptimalUncertainty,
        FastAdaptiveOptimization,
        ConvergenceBalancing,
        SquareAveraging,
        GradientAlignment,
        Fixed,
        CoTBal,
    )
}


def names() -> tuple[str, ...]:
    """Names of all strategies: `ew`, `tla`, `rlw`, `dwa`, `igb`, `uw-so`, `famo`, `coba`, `square`,
    `fastmix`, `fixed`, `cotbal`."""
    return tuple(_STRATEGIES)


def uses_validation(name: str) -> bool:
    """Whether the strategy of that name looks at validation samples while it trains; False for an unknown name."""
    return name in _STRATEGIES and _STRATEGIES[name].uses_validation


def get(
    name: str, num_tasks: int, **options: float | Sequence[float] | Sequence[str] | Tensor | TaskWeights
) -> Strategy:
    """Make the strategy `name` for `num_tasks` tasks.

    Options by strategy: rlw `seed`; dwa `window`, `temperature`; igb `base_start`, `base_stop`; uw-so
    `temperature`; famo `learning_rate`, `weight_decay`; coba `warmup`, `history`, `tau`; square `exponent`; fastmix
    `learning_rate`, `weight_decay`, `every`, `samples`; fixed `weights`; cotbal `weights` (a TaskWeights), `tasks`.

    Raises:
        ValueError: the name or an option is unknown, an option is missing, or a value is out of range.
    """
    if name not in _STRATEGIES:
        raise ValueError(f"no strategy {name!r}; known strategies: {', '.join(names())}")
    kind = _STRATEGIES[name]
    parameters = list(inspect.signature(kind).parameters.values())[1:]
    known = [parameter.name for parameter in parameters]
    for option in options:
        if option not in known:
            raise ValueError(f"strategy {name!r} has no option {option!r}; its options are {known or 'none'}")
    for parameter in parameters:
        if parameter.default is parameter.empty and parameter.name not in options:
            raise ValueError(f"strategy {name!r} needs the option {parameter.name!r}")
    return kind(num_tasks, **options)
