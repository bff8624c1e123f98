"""Tuning with task weights: the fused loss on a model, the trainer, and the parts for one's own loop."""

from __future__ import annotations

import importlib
from typing import Any

from cotbal.tune.counts import StepCounts, StepSums, step_counts
from cotbal.tune.head import BalanceHandle, balance, handle_of
from cotbal.tune.step import begin_step, end_step

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

# The trainers import transformers (and TRL), which takes seconds and which a loop of one's own may not need.
_LATER = {
    "TaskBalancedSFTTrainer": "sft",
    "TaskBalancedTrainer": "trainer",
    "Verification": "verification",
    "verify": "verification",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(importlib.import_module(f"cotbal.tune.{_LATER[name]}"), name)
    raise AttributeError(f"module 'cotbal.tune' has no attribute {name!r}")
