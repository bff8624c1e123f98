"""CoTBal: measure how tasks help each other and how hard each is, weigh them, and tune with the weights.

The names below are loaded when they are first used, so that ``import cotbal`` stays quick and a user of the
mathematics alone never imports transformers.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Task": "tasks",
    "ScoreTable": "scores",
    "Measurement": "measure",
    "measure": "measure",
    "inter_task_contributions": "measure",
    "intra_task_difficulty": "measure",
    "improvement_and_error": "measure",
    "TaskWeights": "weigh",
    "weigh": "weigh",
    "task_weights": "weigh",
    "TaskCollator": "data",
    "balance": "tune",
    "TaskBalancedTrainer": "tune",
}
_ROOMS = ("metrics", "strategies")

__all__ = [*_HOMES, *_ROOMS]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"cotbal.{_HOMES[name]}"), name)
    if name in _ROOMS:
        return importlib.import_module(f"cotbal.{name}")
    raise AttributeError(f"module 'cotbal' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
