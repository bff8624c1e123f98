"""What the fused loss takes for itself while it runs, and gives back: see docs/loss.md, "Memory"."""

from __future__ import annotations

from typing import Any

from cotbal_kernels.call import LinearBackwardCall, LinearCall
from cotbal_kernels.linear import memory_of
from cotbal_kernels.ops import LINEAR, LINEAR_BACKWARD
from cotbal_kernels.products import product_dtype

__all__ = ["loss_bytes"]


def loss_bytes(operator: Any, arguments: tuple[Any, ...]) -> int:
    """Bytes beside inputs and results: gathered rows, a chunk's logits, sums in float32; 0 of any other operator.

    With R rows, H features, V classes and b bytes per product: R H b to gather; chunk by chunk, c V b for logits,
    R H b for the rows' gradients, and where only the backward pass computes, 4 V H for the sums.
    """
    name = getattr(operator, "_schema", None) and operator._schema.name
    if name not in (LINEAR, LINEAR_BACKWARD):
        return 0
    call = LinearCall(*arguments) if name == LINEAR else LinearBackwardCall(*arguments)
    rows, features = call.rows.shape[0], call.hidden.shape[1]
    size = product_dtype(call.hidden.dtype, call.hidden.device).itemsize
    gathered = rows * features * size
    if call.mode == "keep":
        return gathered
    if call.mode == "grads" and name == LINEAR_BACKWARD:
        return 0
    wants_weight = call.wants_weight and call.mode != "value"
    memory = memory_of(call.hidden, call.weight, rows, call.memory_budget, wants_weight)
    chunk = memory.chunk * (memory.logits + features * size)
    sums = memory.accumulator if call.mode == "recompute" and name == LINEAR_BACKWARD else 0
    return chunk + sums + (gathered if call.wants_hidden and call.mode != "value" else 0)
