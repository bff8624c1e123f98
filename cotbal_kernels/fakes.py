"""What the operators return, without data: shapes, dtypes and strides for compilers and tracers."""

from __future__ import annotations

import torch
from torch import Tensor

from cotbal_kernels import linear
from cotbal_kernels.call import (
    Gradients,
    LinearBackwardCall,
    LinearCall,
    LinearResult,
    LogitsBackwardCall,
    LogitsCall,
    LogitsResult,
    PositionsCall,
    compute_dtype,
    has_penalties,
)
from cotbal_kernels.products import product_dtype


def positions(call: PositionsCall) -> Tensor:
    """As many as the labels will say."""
    return call.labels.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.int64)


def linear_result(call: LinearCall) -> LinearResult:
    kept = linear.empty_rows(
        call.hidden,
        call.rows.shape[0] if call.mode == "keep" else 0,
        call.weight.shape[0],
        product_dtype(call.hidden.dtype, call.hidden.device),
    )
    gradients = _gradients(call, call.mode == "grads", compute_dtype(call.hidden.dtype))
    return LinearResult._make((*_statistics(call, call.hidden), kept, *gradients))


def linear_gradients(call: LinearBackwardCall) -> Gradients:
    return _gradients(call, True, call.hidden.dtype)


def logits_result(call: LogitsCall) -> LogitsResult:
    gradient = call.logits.new_empty(call.logits.shape if call.mode == "grads" else (0,))
    return LogitsResult._make((*_statistics(call, call.logits), gradient))


def logits_gradient(call: LogitsBackwardCall) -> Tensor:
    return call.logits.new_empty(call.logits.shape)


def _statistics(call: LinearCall | LogitsCall, like: Tensor) -> tuple[Tensor, ...]:
    dtype = compute_dtype(like.dtype)
    return (
        like.new_empty((like.shape[0],) if call.reduction == "none" else (), dtype=dtype),
        like.new_empty((), dtype=torch.float64),
        like.new_empty(call.rows.shape[0], dtype=dtype),
        like.new_empty(call.rows.shape[0] if has_penalties(call) else 0, dtype=dtype),
        like.new_empty(call.rows.shape[0] if call.wants_entropy else 0, dtype=dtype),
        like.new_empty(call.num_tasks, dtype=dtype),
        like.new_empty(call.num_tasks, dtype=torch.int64),
        like.new_empty(call.num_tasks, dtype=torch.int64),
        like.new_empty(call.num_samples, dtype=dtype),
        like.new_empty(call.num_samples, dtype=torch.int64),
    )


def _gradients(call: LinearCall | LinearBackwardCall, made: bool, dtype: torch.dtype) -> Gradients:
    wanted = (
        (call.hidden, made and call.wants_hidden),
        (call.weight, made and call.wants_weight),
        (call.weight if call.bias is None else call.bias, made and call.wants_bias and call.bias is not None),
    )
    return Gradients._make(
        each.new_empty(each.shape, dtype=dtype) if wants else each.new_empty(0) for each, wants in wanted
    )
