"""How far each task's gradient points where a validation set's does, seen at the output head.

With logits `z_t = W x_t + b` and the loss gradient `d_t` with respect to them, the head's gradient of a token's loss
is `d_t x_t'` for W and `d_t` for b. So, with a direction (G, g) of the same shapes,

    <(G, g), gradient of a token's loss> = d_t . (G x_t + g)

which takes one more product over the supervised rows, and neither a backward pass nor a task's own gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import cotbal_kernels as ck
from cotbal.tune.effective_weight import HeadProduct
from cotbal.tune.transform import LogitTransform

# Rows whose logits are in memory at once.
_ROWS = 1024


@dataclass(frozen=True)
class HeadDirection:
    """A direction in the space of the head's product: `weight` [V, K] and `bias` [V] or None, detached."""

    weight: Tensor
    bias: Tensor | None

    def plus(self, other: HeadDirection) -> HeadDirection:
        """The sum of both."""
        bias = None if self.bias is None or other.bias is None else self.bias + other.bias
        return HeadDirection(self.weight + other.weight, bias)


def head_gradient(
    product: HeadProduct, plan: ck.Plan, task_weights: Tensor, transform: LogitTransform
) -> HeadDirection:
    """The gradient of `sum_t w[task(t)] nll_t` with respect to the head's product; the body takes no part.

    Args:
        product: of the head and its hidden states [..., K].
        plan: the supervised rows.
        task_weights: w, [T].
        transform: what the model does to its logits.
    """
    with torch.enable_grad():
        weight = product.weight.detach().requires_grad_()
        bias = None if product.bias is None else product.bias.detach().requires_grad_()
        out = ck.linear_cross_entropy(
            product.hidden.detach(),
            weight,
            None,
            None,
            task_weights.to(weight.device, torch.float64 if weight.dtype == torch.float64 else torch.float32),
            bias=bias,
            logit_scale=transform.logit_scale,
            softcap=transform.softcap,
            reduction="sum",
            plan=plan.to(weight.device),
        )
        wanted = [weight] if bias is None else [weight, bias]
        found = torch.autograd.grad(out.loss, wanted)
    return HeadDirection(found[0], found[1] if len(found) > 1 else None)


@torch.no_grad()
def task_alignments(
    product: HeadProduct, plan: ck.Plan, direction: HeadDirection, transform: LogitTransform
) -> Tensor:
    """Of each task the sum over its tokens of <direction, gradient of the token's loss>, unweighted, [T].

    float64 (float32 on mps), computed in the product's dtype, at least float32.

    Args:
        product: of the head and its hidden states [..., K].
        plan: the supervised rows, on the product's device.
        direction: of the same shapes as the product's weight and bias.
        transform: what the model does to its logits.
    """
    weight = product.weight
    dtype = torch.promote_types(weight.dtype, torch.float32)
    hidden = product.hidden.reshape(-1, product.hidden.shape[-1])
    sums = torch.zeros(
        plan.num_tasks,
        dtype=torch.float32 if weight.device.type == "mps" else torch.float64,
        device=weight.device,
    )
    for start in range(0, plan.rows.numel(), _ROWS):
        rows = plan.rows[start : start + _ROWS]
        targets, tasks = plan.targets[start : start + _ROWS], plan.tasks[start : start + _ROWS]
        states = hidden[rows].to(weight.dtype)
        bias = 0.0 if product.bias is None else product.bias.to(dtype)
        raw = (states @ weight.T).to(dtype) + bias
        logits = transform.apply(raw)
        slopes = torch.softmax(logits, dim=-1)
        slopes.scatter_add_(
            -1, targets.clamp_min(0)[:, None], -torch.ones_like(targets[:, None], dtype=dtype)
        )
        slopes *= transform.slope(raw)
        moved = (states @ direction.weight.to(weight.dtype).T).to(dtype)
        if direction.bias is not None:
            moved += direction.bias.to(dtype)
        along = (slopes * moved).sum(dim=-1).to(sums.dtype)
        sums.index_add_(0, tasks, torch.where(targets >= 0, along, 0.0))
    return sums
