"""The normalizer of an optimizer step: one number for all its micro-batches and all its ranks.

`TaskBalancedTrainer` calls these functions itself. In your own loop, call `begin_step` before the first forward of
each optimizer step and `end_step` after its last backward:

    handle = cotbal.balance(model, weights)
    for micro_batches in steps:                     # a list: this rank's batches of one optimizer step
        begin_step(handle, micro_batches)           # sums the ranks' counts: one small all-reduce
        for batch in micro_batches:
            model(**batch).loss.backward()          # DDP and FSDP2 average over ranks: begin_step allows for that
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
    `A * sum_t w nll_t / D`. Here A = `averaged_over` undoes the mean that the engine and the loop take of the
    gradients, so the gradient that the optimizer sees is exactly that of `sum_t w nll_t / D`. The auxiliary losses of
    a mixture of experts are scaled too: over the step they add up to A times their mean over micro-batches and ranks,
    where stock transformers adds each of them in full.

    Args:
        handle: from `balance`.
        batches: this rank's micro-batches of the step, on any device; see `batch_plan`.
        strategy: gives the step's weights; without one, `handle.weights` stay as they are.
        group: the ranks that share the step (default: all).
        averaged_over: the number that the sum of the gradients will be divided by. It is the number of ranks under
            DDP and FSDP (the default), that times `accelerator.gradient_accumulation_steps` under
            `accelerator.backward`, and 1 if nothing divides.

    Returns:
        The counts over all ranks.
    """
    if strategy is not None and strategy.length_exponent:
        _check_token_weights(batches, strategy)
    counts = step_counts(batches, handle.num_tasks, device=handle.device, group=group)
    if strategy is not None:
        handle.weights = strategy.begin_step(counts.tokens)
    ranks = dist.get_world_size(group) if distributed() else 1
    if averaged_over is None:
        averaged_over = ranks
    handle.reset_statistics()
    handle.auxiliary_share = averaged_over / (ranks * max(1, len(batches)))
    handle.normalizer = counts.normalizer(handle.weights, handle.normalize) / averaged_over
    return counts


def _check_token_weights(batches: Sequence[Mapping[str, Any]], strategy: Strategy) -> None:
    for batch in batches:
        plan = batch.get("loss_plan")
        if "loss_token_weights" not in batch and (plan is None or plan.token_weights is None):
            raise ValueError(
                f"the strategy {type(strategy).name!r} weights tokens by the length of their sample, and the batch "
                f"has no such weights; give TaskCollator length_exponent={strategy.length_exponent:g}, or the batch "
                "loss_token_weights"
            )


def end_step(
    handle: BalanceState,
    *,
    strategy: Strategy | None = None,
    group: dist.ProcessGroup | None = None,
) -> StepSums:
    """Sum the finished step's statistics over its ranks and hand them to `strategy`.

    Every rank must call it after its last backward. It takes one all-reduce of 3 T numbers (and one of T more if the
    step had a `handle.direction`), and does not wait for the device.
    """
    local = handle.statistics()
    totals = torch.stack([local.loss, local.tokens.to(local.loss), local.correct.to(local.loss)])
    reduce_over_ranks(totals, group)
    sums = StepSums(totals[0], totals[1].to(torch.int64), totals[2].to(torch.int64))
    if strategy is not None:
        strategy.end_step(sums.loss, sums.tokens)
        if handle.direction is not None:
            alignments = handle.alignments()
            reduce_over_ranks(alignments, group)
            strategy.take_alignment(alignments, sums.tokens)
            handle.direction = None
    return sums
