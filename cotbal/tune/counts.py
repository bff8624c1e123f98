"""What the labels of an optimizer step tell before its first forward, counted over micro-batches and ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import cotbal_kernels as ck

NORMALIZATIONS = ("weights", "tokens")


@dataclass(frozen=True)
class StepCounts:
    """What the labels of one optimizer step tell before its first forward.

    Attributes:
        tokens: int64 [T], supervised tokens of each task, all micro-batches and ranks.
        token_weights: float64 [T], their per-token weights added up (equal to `tokens` where none were given).
    """

    tokens: Tensor
    token_weights: Tensor

    def normalizer(self, task_weights: Tensor, normalize: str = "weights") -> Tensor:
        """``sum_t w[task(t)] v_t`` over the supervised tokens t, v being token weights; or their number.

        0-d float64, as `cotbal_kernels.Plan` gives it for one batch. It is 0 for a step without any weight, whose
        loss the kernels take as 0, with gradients of 0.

        Args:
            task_weights: [T].
            normalize: "weights" or "tokens".

        >>> counts = StepCounts(torch.tensor([3, 1]), torch.tensor([3.0, 1.0], dtype=torch.float64))
        >>> counts.normalizer(torch.tensor([1.0, 5.0]))
        tensor(8., dtype=torch.float64)
        >>> counts.normalizer(torch.tensor([1.0, 5.0]), "tokens")
        tensor(4., dtype=torch.float64)
        """
        if check_normalization(normalize) == "tokens":
            return self.tokens.sum().to(self.token_weights.dtype)
        return (task_weights.to(self.token_weights) * self.token_weights).sum()


@dataclass(frozen=True)
class StepSums:
    """Statistics of one optimizer step, all micro-batches and ranks.

    Attributes:
        loss: float64 [T], unweighted negative log-likelihood of each task's supervised tokens, added up.
        tokens: int64 [T], how many they were.
        correct: int64 [T], how many of them the model ranked first.
    """

    loss: Tensor
    tokens: Tensor
    correct: Tensor


def check_normalization(normalize: str) -> str:
    """`normalize`, if it is a known one; a ValueError otherwise."""
    if normalize not in NORMALIZATIONS:
        raise ValueError(f"normalize is {normalize!r}; accepted: {', '.join(map(repr, NORMALIZATIONS))}")
    return normalize


def batch_plan(batch: Mapping[str, Any], num_tasks: int) -> ck.Plan:
    """The batch's plan: the collator's (`loss_plan`), or one made here from its labels.

    Made here it costs one wait for the device, since the number of supervised tokens must be known on the host.

    Args:
        batch: `labels` [B, L] (or, already shifted by one, `shift_labels`), `loss_task_index` int64 [B] or
            [B, L], and, if wanted, `loss_token_weights` [B, L]; or `loss_plan` in place of all of them.
        num_tasks: T.

    Raises:
        ValueError: nothing to count in the batch, no task for its samples, or a plan for another number of tasks.
    """
    plan = batch.get("loss_plan")
    if plan is not None:
        if not isinstance(plan, ck.Plan):
            raise TypeError(f"loss_plan is a {type(plan).__name__}; a cotbal_kernels.Plan is needed")
        if plan.num_tasks != num_tasks:
            raise ValueError(
                f"loss_plan was made for {plan.num_tasks} tasks, but there are {num_tasks} task weights; make it "
                f"with num_tasks={num_tasks}"
            )
        return plan
    shifted = batch.get("shift_labels")
    labels = batch.get("labels") if shifted is None else shifted
    if labels is None:
        raise ValueError(
            f"the batch has neither loss_plan nor labels (its keys: {', '.join(map(str, batch))}); there is "
            "nothing to weigh"
        )
    task_index = batch.get("loss_task_index")
    if task_index is None and num_tasks > 1:
        raise ValueError(
            f"the batch has no loss_task_index (its keys: {', '.join(map(str, batch))}), so its samples belong to "
            f"none of the {num_tasks} tasks; use TaskCollator, or add loss_task_index, int64 [B] or [B, L]. "
            "Set remove_unused_columns=False if a data set column of that name was dropped"
        )
    return ck.plan(
        labels,
        task_index,
        num_tasks=num_tasks,
        token_weights=batch.get("loss_token_weights"),
        shift=shifted is None,
    )


def plan_counts(plan: ck.Plan) -> StepCounts:
    """The counts of one micro-batch on one rank, on the plan's device; no wait for it."""
    tokens = plan.task_tokens
    wide = torch.float32 if tokens.device.type == "mps" else torch.float64
    if plan.token_weights is None:
        return StepCounts(tokens, tokens.to(wide))
    # Padding rows of a plan count nothing.
    values = torch.where(plan.targets >= 0, plan.token_weights, 0.0).to(wide)
    totals = torch.zeros(plan.num_tasks, dtype=wide, device=values.device)
    return StepCounts(tokens, totals.index_add_(0, plan.tasks.clamp_min(0), values))


def step_counts(
    batches: Sequence[Mapping[str, Any]],
    num_tasks: int,
    *,
    device: torch.device | None = None,
    group: dist.ProcessGroup | None = None,
) -> StepCounts:
    """Count the supervised tokens of each task over an optimizer step: every micro-batch of every rank.

    Args:
        batches: this rank's micro-batches of the step, see `batch_plan`. May be empty; every rank must call.
            Give them a `loss_plan` where they are on a GPU: without one, this and each forward make their own.
        num_tasks: T.
        device: where the counts are added up; that of the first batch by default. NCCL needs a GPU's.
        group: the ranks that share the step; all of them by default, if torch.distributed is initialised.
    """
    plans = [batch_plan(batch, num_tasks) for batch in batches]
    if device is None:
        device = plans[0].rows.device if plans else torch.device("cpu")
    wide = torch.float32 if device.type == "mps" else torch.float64
    totals = torch.zeros(2, num_tasks, dtype=wide, device=device)
    for plan in plans:
        counts = plan_counts(plan)
        totals += torch.stack([counts.tokens.to(totals), counts.token_weights.to(totals)])
    reduce_over_ranks(totals, group)
    return StepCounts(totals[0].to(torch.int64), totals[1])


def reduce_over_ranks(totals: Tensor, group: dist.ProcessGroup | None = None) -> None:
    """Add `totals` up over the ranks, in place; nothing to do in a single process."""
    if distributed() and dist.get_world_size(group) > 1:
        dist.all_reduce(totals, group=group)


def distributed() -> bool:
    """Whether this process is one of several ranks (or could be: torch.distributed is initialised)."""
    return dist.is_available() and dist.is_initialized()
