"""From logits to loss and gradient: one row pass over the supervised rows, no product."""

from __future__ import annotations

import torch
from torch import Tensor

from cotbal_kernels import statistics
from cotbal_kernels.backends.base import Backend
from cotbal_kernels.linear import Mode
from cotbal_kernels.reduction import row_scale
from cotbal_kernels.statistics import RowStatistics


def compute(
    backend: Backend,
    logits: Tensor,
    rows: Tensor,
    targets: Tensor,
    tasks: Tensor,
    samples: Tensor,
    row_weights: Tensor | None,
    normalizer: Tensor | None,
    num_tasks: int,
    num_samples: int,
    logit_scale: float,
    softcap: float | None,
    reduction: str,
    mode: Mode,
) -> tuple[Tensor, RowStatistics, Tensor, Tensor]:
    """nll of every row, their sums, the divisor and, in mode grads, the gradient [M, V] (else empty)."""
    made = logits.new_empty(0)
    if mode == "grads":
        divisor = statistics.divisor(statistics.weight_sum(targets, row_weights), normalizer, reduction)
        dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
        scale = row_scale(None, rows, row_weights, divisor, reduction, dtype)
        nll, hits, made = _full_pass(backend, logits, rows, targets, scale, logit_scale, softcap)
    else:
        nll, hits = backend.row_pass(logits, targets, rows=rows, logit_scale=logit_scale, softcap=softcap)
    sums = backend.row_statistics(nll, hits, targets, tasks, samples, row_weights, num_tasks, num_samples)
    return nll, sums, statistics.divisor(sums.weight_sum, normalizer, reduction), made


def gradient(
    backend: Backend,
    logits: Tensor,
    rows: Tensor,
    targets: Tensor,
    scale: Tensor,
    logit_scale: float,
    softcap: float | None,
) -> Tensor:
    """The gradient [M, V] from the logits and each row's scale."""
    return _full_pass(backend, logits, rows, targets, scale, logit_scale, softcap)[2]


def _full_pass(
    backend: Backend,
    logits: Tensor,
    rows: Tensor,
    targets: Tensor,
    scale: Tensor,
    logit_scale: float,
    softcap: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """nll and hits of each row, and the gradient [M, V], 0 where no row is."""
    made = torch.empty_like(logits, memory_format=torch.contiguous_format)
    nll, hits = backend.full_row_pass(
        logits, rows, targets, made, row_scale=scale, logit_scale=logit_scale, softcap=softcap
    )
    return nll, hits, made
