"""What a call would launch on a device, counted on the CPU: torch's operators that compute, and Triton's kernels."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Final

from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile

PRODUCTS: Final = frozenset(("aten::mm", "aten::addmm"))
# Operators that only make or reinterpret tensors: no kernel runs for them.
_NAMES: Final = """
    alias as_strided detach empty empty_like empty_strided expand expand_as lift_fresh narrow new_empty
    new_empty_strided permute reshape resize_ result_type select slice squeeze t to transpose unbind unsqueeze view
    view_as _reshape_alias _unsafe_view item is_nonzero resolve_conj resolve_neg
"""
_FREE: Final = frozenset("aten::" + name for name in _NAMES.split())


def operators(call: Callable[[], object]) -> list[str]:
    """The operators of torch that would launch a kernel each, by name: those that call no other such operator."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            call()
    found = profiled.events()
    assert found is not None
    inside = {id(each) for event in found if event.name in PRODUCTS for each in _below(event)}
    return [
        event.name
        for event in found
        if event.name in PRODUCTS
        or (id(event) not in inside and _computes(event) and not any(map(_computes, _below(event))))
    ]


def _computes(event: FunctionEvent) -> bool:
    return event.name.startswith("aten::") and event.name not in _FREE


def _below(event: FunctionEvent) -> list[FunctionEvent]:
    return [each for child in event.cpu_children for each in (child, *_below(child))]
