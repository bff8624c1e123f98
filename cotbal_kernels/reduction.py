"""From the rows' losses to the loss, and from its upstream gradient back to the rows' scales."""

from __future__ import annotations

import torch
from torch import Tensor

from cotbal_kernels.statistics import RowStatistics


def reduced_loss(
    losses: Tensor,
    sums: RowStatistics,
    rows: Tensor,
    row_weights: Tensor | None,
    reduction: str,
    positions: int,
) -> Tensor:
    """The loss in the dtype of the rows' losses: a scalar, or for reduction none one entry per position."""
    if reduction != "none":
        return sums.loss
    weighted = losses if row_weights is None else losses * row_weights.to(losses.dtype)
    return weighted.new_zeros(positions).index_copy_(0, rows, weighted)


def row_scale(
    upstream: Tensor | None,
    rows: Tensor,
    row_weights: Tensor | None,
    normalizer: Tensor,
    reduction: str,
    dtype: torch.dtype,
) -> Tensor:
    """Upstream gradient times weight over normalizer of each row [R]; upstream 1 where ``None``."""
    if upstream is not None and reduction == "none":
        scale = upstream.index_select(0, rows)
        return (scale if row_weights is None else scale * row_weights).to(dtype)
    whole = 1 / normalizer if upstream is None else upstream.to(torch.float64) / normalizer
    if row_weights is None:
        return whole.to(dtype).expand(rows.shape[0])
    return (whole * row_weights.to(torch.float64)).to(dtype)


def row_weight_gradient(
    upstream: Tensor,
    rows: Tensor,
    targets: Tensor,
    row_weights: Tensor,
    losses: Tensor,
    loss: Tensor,
    normalizer: Tensor,
    reduction: str,
    divided_by_weights: bool,
) -> Tensor:
    """Gradient of the loss by each row's weight [R], for trainable task or token weights."""
    if reduction == "none":
        made = upstream.index_select(0, rows) * losses
    else:
        # A normalizer that is the sum of the weights grows with each of them.
        made = (
            upstream.to(torch.float64)
            / normalizer
            * (losses - loss if divided_by_weights else losses).to(torch.float64)
        )
    return torch.where(targets >= 0, made, 0).to(row_weights.dtype)
