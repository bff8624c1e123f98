"""Tuning with task weights: the fused loss on a model, the trainers, and the parts for your own loop."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from cotbal.extras import extras_named
from cotbal.tune.counts import StepCounts, StepSums, step_counts
from cotbal.tune.head import BalanceHandle, balance, handle_of
from cotbal.tune.step import begin_step, end_step

if TYPE_CHECKING:
    from cotbal.tune.sft import TaskBalancedSFTTrainer as TaskBalancedSFTTrainer
    from cotbal.tune.trainer import TaskBalancedTrainer
    from cotbal.tune.verification import Verification, verify

# Without TaskBalancedSFTTrainer, which needs the extra `trl`.
__all__ = [
    "BalanceHandle",
    "StepCounts",
    "StepSums",
    "TaskBalancedTrainer",
    "Verification",
    "balance",
    "begin_step",
    "end_step",
    "handle_of",
    "step_counts",
    "verify",
]

# The trainers import transformers (and TRL), which takes seconds and which your own loop may not need.
_LATER = {
    "TaskBalancedSFTTrainer": "sft",
    "TaskBalancedTrainer": "trainer",
    "Verification": "verification",
    "verify": "verification",
}

# Hidden from type checkers, for which it would make a name of every misspelling.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in _LATER:
            raise AttributeError(f"module 'cotbal.tune' has no attribute {name!r}")
        with extras_named(name):
            return getattr(importlib.import_module(f"cotbal.tune.{_LATER[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
