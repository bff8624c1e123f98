"""Sums over rows: the loss, its normalizer, and every task's and sample's share; the same bits on every run."""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor

# Entries of the one-hot tile a device sum works on; bounds its memory to 128 MiB of f64.
_TILE: Final = 2**24


class RowStatistics(NamedTuple):
    """Sums over the rows of a plan, in the dtype of the nll; the normalizer in f64.

    Attributes:
        loss: sum of weight times loss over the normalizer.
        normalizer: what it was divided by, see `normalizer`.
    """

    loss: Tensor
    normalizer: Tensor
    task_loss_sum: Tensor
    task_tokens: Tensor
    task_correct: Tensor
    sample_loss_sum: Tensor
    sample_tokens: Tensor


def segment_sum(values: Tensor, segments: Tensor, count: int) -> Tensor:
    """Sum of the values [R] of each segment, [count], in f64 inside; no float atomics."""
    wide = values.to(torch.float64)
    if values.device.type == "cpu":
        sums = torch.zeros(count, dtype=torch.float64, device="cpu").index_add_(0, segments, wide)
        return sums.to(values.dtype)
    sums = torch.zeros(count, dtype=torch.float64, device=values.device)
    tile = max(1, _TILE // max(1, values.shape[0]))
    for start in range(0, count, tile):
        ids = torch.arange(start, min(start + tile, count), device=values.device)
        sums[start : start + tile] = torch.where(segments == ids.unsqueeze(1), wide, 0).sum(1)
    return sums.to(values.dtype)


def segment_count(counted: Tensor, segments: Tensor, count: int) -> Tensor:
    """Number of true entries of each segment, i64 [count]."""
    counts = torch.zeros(count, dtype=torch.int64, device=counted.device)
    return counts.scatter_add_(0, segments, counted.to(torch.int64))


def weight_sum(targets: Tensor, row_weights: Tensor | None) -> Tensor:
    """Sum of the rows' weights, f64; their number where there are none."""
    if row_weights is None:
        return (targets >= 0).sum().to(torch.float64)
    return row_weights.to(torch.float64).sum()


def weighted_sum(losses: Tensor, row_weights: Tensor | None) -> Tensor:
    """Sum of weight times loss over the rows, f64."""
    wide = losses.to(torch.float64)
    return wide.sum() if row_weights is None else (wide * row_weights.to(torch.float64)).sum()


def normalizer(total_weight: Tensor, given: Tensor | None, reduction: str) -> Tensor:
    """What the weighted loss is divided by, f64: 1 where there is no weight at all, NaN where `given` is illegal."""
    if reduction != "mean":
        return torch.ones_like(total_weight)
    if given is None:
        return torch.where(total_weight == 0, 1.0, total_weight)
    chosen = given.to(torch.float64)
    legal = (chosen > 0) & (chosen < torch.inf)
    nothing = (chosen == 0) & (total_weight == 0)
    return torch.where(legal, chosen, torch.where(nothing, 1.0, torch.nan))


def row_statistics(
    nll: Tensor,
    hits: Tensor,
    targets: Tensor,
    tasks: Tensor,
    samples: Tensor,
    row_weights: Tensor | None,
    given: Tensor | None,
    num_tasks: int,
    num_samples: int,
    reduction: str,
    losses: Tensor | None = None,
) -> RowStatistics:
    """All sums of one call.

    Args:
        nll: [R], 0 in padding rows.
        hits: bool [R], whether the largest logit is the target's.
        targets, tasks, samples: i64 [R], as in a plan.
        row_weights: [R], 0 in padding rows; ``None`` means ones.
        given: the normalizer of a "mean"; ``None``: the sum of the row weights.
        losses: what the loss sums up in place of the nll, [R]; ``None``: the nll.
    """
    real = targets >= 0
    divided_by = normalizer(weight_sum(targets, row_weights), given, reduction)
    return RowStatistics(
        (weighted_sum(nll if losses is None else losses, row_weights) / divided_by).to(nll.dtype),
        divided_by,
        segment_sum(nll, tasks, num_tasks),
        segment_count(real, tasks, num_tasks),
        segment_count(hits, tasks, num_tasks),
        segment_sum(nll, samples, num_samples),
        segment_count(real, samples, num_samples),
    )
