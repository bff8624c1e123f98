"""Records of instruction-tuning data: reading, subsets, and collation with labels on answers only."""

from __future__ import annotations

import importlib
from typing import Any

from cotbal.data.formats import BadRecordsError, Problem, Record, RecordSet, Turn, iter_records, read_records
from cotbal.data.splits import mini_indices, preparation_sets

__all__ = [
    "BadRecordsError",
    "Problem",
    "PromptCollator",
    "Record",
    "RecordSet",
    "TaskCollator",
    "Turn",
    "iter_records",
    "mini_indices",
    "preparation_sets",
    "read_records",
]

# Collation needs torch; reading and splitting do not.
_HOMES = {"TaskCollator": "collate", "PromptCollator": "prompts"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"cotbal.data.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'cotbal.data' has no attribute {name!r}")
