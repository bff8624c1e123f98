"""Each task's own loss in evaluation, from the logits on their way to the model's stock loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

import cotbal_kernels as ck
from cotbal.tune.override import replaced_loss


class RowSums(NamedTuple):
    """Sums over the supervised tokens of each row and task, [rows of the batch, T] each.

    Attributes:
        loss: unweighted negative log-likelihood.
        tokens: how many tokens they are.
        correct: how many of them the model ranked first.
    """

    loss: Tensor
    tokens: Tensor
    correct: Tensor


class EvaluationWatch:
    """Notes the sums of a model's last evaluation forward."""

    def __init__(self) -> None:
        self._noted: RowSums | None = None

    def take(self) -> RowSums | None:
        """The sums of the last forward, if it had labels and tasks; then None."""
        taken, self._noted = self._noted, None
        return taken

    def forward(
        self, model: Any, forward: Callable[..., Any], inputs: Mapping[str, Any], plan: ck.Plan
    ) -> Any:
        """The stock forward; on its way to the stock loss, the logits are looked at."""
        stock_loss = model.loss_function

        def measured(*args: Any, **kwargs: Any) -> Any:
            logits = kwargs["logits"] if "logits" in kwargs else args[0]
            self._noted = _row_sums(logits.detach(), plan)
            return stock_loss(*args, **kwargs)

        with replaced_loss(model, measured):
            outputs = forward(**inputs)
        if getattr(outputs, "log_probs", None) is not None:
            self._noted = _row_sums_of_tokens(outputs.log_probs.detach(), outputs.is_top1, plan)
        return outputs


def _row_sums(logits: Tensor, plan: ck.Plan) -> RowSums:
    """Loss sums, tokens and hits of each row and task, each [B, T]: each pair counts as a task of its own."""
    plan = plan if plan.rows.device == logits.device else plan.to(logits.device)
    rows, length = plan.label_shape[0], plan.label_shape[-1]
    pairs = dataclasses.replace(
        plan, tasks=plan.rows // length * plan.num_tasks + plan.tasks, num_tasks=rows * plan.num_tasks
    )
    out = ck.cross_entropy(logits, None, plan=pairs, reduction="sum")
    shape = (rows, plan.num_tasks)
    return RowSums(out.task_loss_sum.view(shape), out.task_tokens.view(shape), out.task_correct.view(shape))


def _row_sums_of_tokens(log_probs: Tensor, hits: Tensor, plan: ck.Plan) -> RowSums:
    """The same from what TRL's fused head returns in place of logits, [B, L - 1] (or [B, L]: shifted labels)."""
    plan = plan if plan.rows.device == log_probs.device else plan.to(log_probs.device)
    rows, length = plan.label_shape[0], plan.label_shape[-1]
    real = plan.targets >= 0
    row, place = plan.rows[real] // length, plan.rows[real] % length
    pair = row * plan.num_tasks + plan.tasks[real]
    values = torch.stack([-log_probs[row, place].double(), torch.ones_like(row), hits[row, place]], dim=1)
    sums = torch.zeros(rows * plan.num_tasks, 3, dtype=values.dtype, device=values.device)
    loss, tokens, correct = sums.index_add_(0, pair, values).view(rows, plan.num_tasks, 3).unbind(dim=-1)
    return RowSums(loss, tokens, correct)
