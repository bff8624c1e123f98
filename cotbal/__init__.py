"""CoTBal: measure how tasks help each other and how hard each is, weigh them, and tune with the weights.

The values and the mathematics are imported here (they need NumPy alone); whatever needs torch or transformers is
loaded when its name is first used, so that ``import cotbal`` stays quick.
"""

from __future__ import annotations

import importlib
from typing import Any

from cotbal.method.formulas import improvement_and_error, inter_task_contributions, intra_task_difficulty
from cotbal.method.measurement import Measurement, measure
from cotbal.method.scores import ScoreTable
from cotbal.method.weighing import combine_terms, weigh
from cotbal.method.weights import TaskWeights
from cotbal.tasks import Task

__version__ = "0.1.0"

task_weights = combine_terms
"""The former name of `combine_terms`."""

_HOMES = {
    "TaskBalancedSFTTrainer": "tune",
    "TaskCollator": "data",
    "TaskBalancedTrainer": "tune",
    "balance": "tune",
}
_ROOMS = ("metrics", "strategies")

# Without TaskBalancedSFTTrainer, which needs the extra `trl`: `from cotbal import *` works without it.
__all__ = [
    "Measurement",
    "ScoreTable",
    "Task",
    "TaskBalancedTrainer",
    "TaskCollator",
    "TaskWeights",
    "balance",
    "combine_terms",
    "improvement_and_error",
    "inter_task_contributions",
    "intra_task_difficulty",
    "measure",
    "metrics",
    "strategies",
    "task_weights",
    "weigh",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"cotbal.{_HOMES[name]}"), name)
    if name in _ROOMS:
        return importlib.import_module(f"cotbal.{name}")
    raise AttributeError(f"module 'cotbal' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_HOMES})
