"""Records of instruction-tuning data: reading, subsets, and collation with labels on answers only."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from cotbal.data.formats import BadRecordsError, Problem, Record, RecordSet, Turn, iter_records, read_records
from cotbal.data.splits import mini_indices, preparation_sets
from cotbal.extras import extras_named

if TYPE_CHECKING:
    from cotbal.data.collate import TaskCollator
    from cotbal.data.prompts import PromptCollator

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

# Hidden from type checkers, for which it would make a name of every misspelling.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module 'cotbal.data' has no attribute {name!r}")
        with extras_named(name):
            return getattr(importlib.import_module(f"cotbal.data.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
