"""From a call to its result, on data."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from cotbal_kernels import linear, logits
from cotbal_kernels.backends.registry import resolve
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
)
from cotbal_kernels.planning import plan
from cotbal_kernels.products import product_dtype
from cotbal_kernels.reduction import reduced_loss


def _own_dtypes(device: torch.device) -> AbstractContextManager[None]:
    """Inside an operator the inputs have the dtypes they shall have: autocast must not change them again."""
    return (
        torch.autocast(device.type, enabled=False)
        if device.type != "meta" and torch.is_autocast_enabled(device.type)
        else nullcontext()
    )


def positions(call: PositionsCall) -> Tensor:
    """Flat positions of the labels that are supervised, in order; every value is checked as in a plan."""
    made = plan(
        call.labels,
        call.task_ids,
        call.task_weights,
        num_tasks=call.num_tasks,
        token_weights=call.token_weights,
        shift=call.shift,
        ignore_index=call.ignore_index,
        vocab_size=None if call.vocab_size < 0 else call.vocab_size,
    )
    return made.rows + 1 if call.shift else made.rows


def linear_result(call: LinearCall) -> LinearResult:
    backend = resolve(call.impl, call.hidden.device, product_dtype(call.hidden.dtype, call.hidden.device))
    with _own_dtypes(call.hidden.device):
        made = linear.compute(backend, call)
    loss = reduced_loss(
        made.rows.minimised,
        made.sums,
        call.rows,
        call.row_weights,
        call.reduction,
        call.hidden.shape[0],
    )
    gradients = made.gradients
    return LinearResult(
        loss,
        made.sums.normalizer,
        *made.rows.returned(),
        made.sums.task_loss_sum,
        made.sums.task_tokens,
        made.sums.task_correct,
        made.sums.sample_loss_sum,
        made.sums.sample_tokens,
        made.logits_gradient,
        gradients.hidden,
        gradients.weight,
        gradients.bias,
    )


def linear_gradients(call: LinearBackwardCall) -> Gradients:
    backend = resolve(call.impl, call.hidden.device, product_dtype(call.hidden.dtype, call.hidden.device))
    scale = backend.row_scale(
        call.upstream,
        call.rows,
        call.row_weights,
        call.normalizer,
        call.reduction,
        compute_dtype(call.hidden.dtype),
    )
    with _own_dtypes(call.hidden.device):
        if call.mode == "keep":
            return linear.gradients_from_kept(backend, call, scale)
        return linear.recomputed_gradients(backend, call, scale)


def logits_result(call: LogitsCall) -> LogitsResult:
    backend = resolve(call.impl, call.logits.device, call.logits.dtype)
    with _own_dtypes(call.logits.device):
        rows, sums, gradient = logits.compute(backend, call)
    loss = reduced_loss(
        rows.minimised, sums, call.rows, call.row_weights, call.reduction, call.logits.shape[0]
    )
    return LogitsResult(
        loss,
        sums.normalizer,
        *rows.returned(),
        sums.task_loss_sum,
        sums.task_tokens,
        sums.task_correct,
        sums.sample_loss_sum,
        sums.sample_tokens,
        gradient,
    )


def logits_gradient(call: LogitsBackwardCall) -> Tensor:
    backend = resolve(call.impl, call.logits.device, call.logits.dtype)
    scale = backend.row_scale(
        call.upstream,
        call.rows,
        call.row_weights,
        call.normalizer,
        call.reduction,
        compute_dtype(call.logits.dtype),
    )
    with _own_dtypes(call.logits.device):
        return logits.gradient(backend, call, scale)
