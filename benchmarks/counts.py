"""What a call does, counted exactly: products, bytes and values read are the same on every machine, however busy."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile

# operator -> position of its first matrix
_PRODUCTS = {"aten::mm": 0, "aten::addmm": 1, "aten::addmm_": 1}
# operators whose result the host has to know before it can go on
_READS = (
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::is_nonzero",
    "aten::masked_select",
    "aten::unique",
)


@dataclass(frozen=True)
class Counts:
    """Of one call.

    Attributes:
        multiplications: scalar multiplications of all matrix products.
        peak_bytes: memory of tensors at the worst moment, above what was there before.
        kept_bytes: what of it is still held when the call is over.
        reads: operators that read a tensor's values on the host; on a GPU each would wait for it.
    """

    multiplications: int
    peak_bytes: int
    kept_bytes: int
    reads: tuple[str, ...]


def count(call: Callable[[], object]) -> Counts:
    """Run `call` on the CPU and count."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        profiled = profile(activities=[ProfilerActivity.CPU], record_shapes=True, profile_memory=True)
        with _without_stderr():
            profiled.start()
        try:
            result = call()
        finally:
            with _without_stderr():
                profiled.stop()
        events = profiled.events()
    assert events is not None
    del result
    assert profiled.profiler is not None
    # The operators' own figures are sums; only the raw events tell the order.
    raw = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(raw, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return Counts(
        sum(_multiplications(event) for event in events),
        peak,
        held,
        tuple(event.name for event in events if event.name.startswith(_READS)),
    )


@contextmanager
def _without_stderr() -> Iterator[None]:
    """The profiler writes a line of its own whenever it starts and stops, past Python's sys.stderr."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _multiplications(event: FunctionEvent) -> int:
    first = _PRODUCTS.get(event.name)
    if first is None:
        return 0
    shapes = event.input_shapes[first : first + 2]
    if [len(shape) for shape in shapes] != [2, 2]:
        return 0  # traced, not run: a compiler at work
    (rows, inner), (_, columns) = shapes
    return int(rows * inner * columns)
