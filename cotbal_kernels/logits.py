"""From logits to loss and gradient: one row pass over the supervised rows, no product."""

from __future__ import annotations

import torch
from torch import Tensor

from cotbal_kernels import statistics
from cotbal_kernels.backends.base import Backend, RowTerms
from cotbal_kernels.call import LogitsBackwardCall, LogitsCall, compute_dtype
from cotbal_kernels.row_outputs import RowOutputs, backward_terms, forward_terms, row_outputs
from cotbal_kernels.statistics import RowStatistics


def compute(backend: Backend, call: LogitsCall) -> tuple[RowOutputs, RowStatistics, Tensor]:
    """Losses of every row, their sums and, in mode grads, the gradient [M, V] (else empty)."""
    made = call.logits.new_empty(0)
    terms = forward_terms(call, call.logits)
    if call.mode == "grads":
        normalizer = statistics.normalizer(
            statistics.weight_sum(call.targets, call.row_weights), call.normalizer, call.reduction
        )
        dtype = compute_dtype(call.logits.dtype)
        scale = backend.row_scale(None, call.rows, call.row_weights, normalizer, call.reduction, dtype)
        nll, hits, made = _full_pass(backend, call, scale, terms)
    else:
        nll, hits = backend.row_pass(
            call.logits,
            call.targets,
            rows=call.rows,
            logit_scale=call.logit_scale,
            softcap=call.softcap,
            terms=terms,
        )
    rows = row_outputs(nll, terms)
    sums = backend.row_statistics(
        nll,
        hits,
        call.targets,
        call.tasks,
        call.samples,
        call.row_weights,
        call.normalizer,
        call.num_tasks,
        call.num_samples,
        call.reduction,
        rows.losses,
    )
    return rows, sums, made


def gradient(backend: Backend, call: LogitsBackwardCall, scale: Tensor) -> Tensor:
    """The gradient [M, V] from the logits and each row's scale."""
    return _full_pass(backend, call, scale, backward_terms(call))[2]


def _full_pass(
    backend: Backend, call: LogitsCall | LogitsBackwardCall, scale: Tensor, terms: RowTerms | None
) -> tuple[Tensor, Tensor, Tensor]:
    """nll and hits of each row, and the gradient [M, V], 0 where no row is."""
    made = torch.empty_like(call.logits, memory_format=torch.contiguous_format)
    nll, hits = backend.full_row_pass(
        call.logits,
        call.rows,
        call.targets,
        made,
        row_scale=scale,
        logit_scale=call.logit_scale,
        softcap=call.softcap,
        terms=terms,
    )
    return nll, hits, made
