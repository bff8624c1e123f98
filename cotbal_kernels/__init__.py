"""Task-weighted cross-entropy that computes the supervised tokens alone; see :func:`linear_cross_entropy`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from cotbal_kernels.alignment import head_alignment
from cotbal_kernels.api import cross_entropy, linear_cross_entropy
from cotbal_kernels.backends.registry import Implementation, implementations
from cotbal_kernels.output import LossOutput
from cotbal_kernels.planning import Plan, plan
from cotbal_kernels.warming import warm_up

if TYPE_CHECKING:
    from cotbal_kernels import reference

__all__ = [
    "Implementation",
    "LossOutput",
    "Plan",
    "cross_entropy",
    "head_alignment",
    "implementations",
    "linear_cross_entropy",
    "plan",
    "reference",
    "warm_up",
]

# Hidden from type checkers, for which it would make a name of every misspelling.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        # The oracle needs NumPy, the losses torch alone.
        if name == "reference":
            return importlib.import_module("cotbal_kernels.reference")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
