"""Compiling what a training needs before its first step, so that no step waits for a compiler."""

from __future__ import annotations

import torch
from torch import Tensor

from cotbal_kernels import checks, ops
from cotbal_kernels.backends.registry import AUTO
from cotbal_kernels.call import LinearCall
from cotbal_kernels.planning import plan
from cotbal_kernels.products import product_dtype


def warm_up(
    weight: Tensor,
    *,
    bias: Tensor | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    reduction: str = "mean",
    impl: str = AUTO,
) -> None:
    """Compile the kernels that `linear_cross_entropy` needs for one output head, with gradients and without.

    Which kernels those are depends on the head's shape and dtype and on the options below, and on nothing that
    changes from step to step: not on the number of tokens, tasks or samples. Each takes about a second to compile,
    once per machine (Triton caches them); call this on every rank before the first step. It computes one loss of two
    rows in each way the memory budget may lead to, and allocates a gradient of the head if that requires one.

    Args:
        weight: the head [V, H], on the device and in the dtype it will be used in; its gradient is left alone.
        bias, logit_scale, softcap, reduction, impl: as in `linear_cross_entropy`.

    >>> import torch, cotbal_kernels as ck
    >>> ck.warm_up(torch.nn.Linear(4, 8).weight)
    """
    checks.floating("weight", weight)
    device, dtype = weight.device, weight.dtype
    head = weight.detach().requires_grad_(weight.requires_grad)
    offset = None if bias is None else bias.detach().requires_grad_(bias.requires_grad)
    narrow = product_dtype(dtype, device) == torch.float16
    chunked = "recompute" if reduction == "none" or narrow else "grads"
    made = plan(torch.tensor([0, -100, 0]), num_tasks=1).to(device)
    for row_weights in (None, made.row_weights([1.0])):
        for mode in ("value", "keep", chunked):
            learns = mode != "value"
            hidden = weight.new_zeros((3, weight.shape[1])).requires_grad_(learns)
            with torch.set_grad_enabled(learns):
                result = ops.linear_cross_entropy(
                    LinearCall(
                        hidden=hidden,
                        weight=head,
                        bias=offset,
                        rows=made.rows,
                        targets=made.targets,
                        tasks=made.tasks,
                        samples=made.samples,
                        row_weights=row_weights,
                        normalizer=None,
                        num_tasks=made.num_tasks,
                        num_samples=made.num_samples,
                        padded=made.padded,
                        logit_scale=float(logit_scale),
                        softcap=None if softcap is None else float(softcap),
                        reduction=reduction,
                        mode=mode,
                        wants_hidden=learns,
                        wants_weight=learns and head.requires_grad,
                        wants_bias=learns and offset is not None and offset.requires_grad,
                        memory_budget=0,
                        impl=impl,
                    )
                )
                if learns:
                    leaves = [
                        each for each in (hidden, head, offset) if each is not None and each.requires_grad
                    ]
                    torch.autograd.grad(result.loss.sum(), leaves)
