"""The normalizer of an optimizer step: one number for all its micro-batches and all its ranks.

`TaskBalancedTrainer` calls these functions by itself. In a loop of one's own, `begin_step` goes before the first
forward of each optimizer step and `end_step` after its last backward::

    handle = cotbal.balance(model, weights)
    for micro_batches in steps:                     # the list of this rank's batches of one optimizer step
        begin_step(handle, micro_batches)           # the ranks' counts are summed here: one small all-reduce
        for batch in micro_batches:
            model(**batch).loss.backward()          # DDP or FSDP2 average over ranks: begin_step allowed for that
        optimizer.step(); optimizer.zero_grad()
        sums = end_step(handle)                     # per-task losses, tokens and hits of the step, all ranks
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist

from cotbal.strategies.base import Strategy
from cotbal.tune.counts import StepCounts, StepSums, distributed, reduce_over_ranks, step_counts
from cotbal.tune.state import BalanceState


def begin_step(
    handle: BalanceState,
    batches: Sequence[Mapping[str, Any]],
    *,
    strategy: Strategy | None = None,
    group: dist.ProcessGroup | None = None,
    averaged_over: int | None = None,
) -> StepCounts:
    """Fix the weights and the normalizer of an optimizer step, before its first forward.

    With D the step's normalizer, the losses of its micro-batches then add up, over ranks and accumulation, to
    ``A * sum_t w nll_t / D``, where A = `averaged_over` undoes the mean that the engine and the loop take of
    the gradients; so the gradient the optimizer sees is that of ``sum_t w nll_t / D``, exactly.

    Args:
        handle: from `balance`.
        batches: this rank's micro-batches of the step, on any device; see `batch_plan`.
        strategy: gives the step's weights; without one, `handle.weights` stay as they are.
        group: the ranks that share the step; all of them by default.
        averaged_over: by how many the sum of the gradients will be divided: the number of ranks under DDP and
            FSDP (the default), that times `accelerator.gradient_accumulation_steps` under
            `accelerator.backward`, 1 where nothing divides.

    Returns:
        The global counts.
    """
    counts = step_counts(batches, handle.num_tasks, device=handle.device, group=group)
    if strategy is not None:
        handle.weights = strategy.begin_step(counts.tokens)
    if averaged_over is None:
        averaged_over = dist.get_world_size(group) if distributed() else 1
    handle.reset_statistics()
    handle.normalizer = counts.normalizer(handle.weights, handle.normalize) / averaged_over
    return counts


def end_step(
    handle: BalanceState,
    *,
    strategy: Strategy | None = None,
    group: dist.ProcessGroup | None = None,
) -> StepSums:
    """Sum the finished step's statistics over its ranks and hand them to `strategy`.

    One all-reduce of 3 T numbers, no wait for the device. Every rank must call it, after its last backward.
    """
    local = handle.statistics()
    totals = torch.stack([local.loss, local.tokens.to(local.loss), local.correct.to(local.loss)])
    reduce_over_ranks(totals, group)
    sums = StepSums(totals[0], totals[1].to(torch.int64), totals[2].to(torch.int64))
    if strategy is not None:
        strategy.end_step(sums.loss, sums.tokens)
    return sums
