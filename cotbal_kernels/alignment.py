"""How far each task's gradient at the output head points in a given direction."""

from __future__ import annotations

import torch
from torch import Tensor

from cotbal_kernels import arguments, checks, products, statistics
from cotbal_kernels.backends.registry import AUTO, resolve
from cotbal_kernels.call import compute_dtype
from cotbal_kernels.linear import empty_rows
from cotbal_kernels.planning import IGNORE_INDEX, Plan


@torch.no_grad()
def head_alignment(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor | None = None,
    direction: Tensor | None = None,
    *,
    bias: Tensor | None = None,
    bias_direction: Tensor | None = None,
    task_ids: Tensor | None = None,
    num_tasks: int | None = None,
    sample_ids: Tensor | None = None,
    ignore_index: int = IGNORE_INDEX,
    shift: bool = False,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    plan: Plan | None = None,
    memory_budget: int | None = None,
    impl: str = AUTO,
) -> Tensor:
    """Inner product of each task's gradient at the head with a direction G, without making any gradient.

    With d_t the gradient of token t's nll by its raw logits `hidden_t @ weight.T + bias`, the head's gradient of that
    nll is the outer product of d_t and hidden_t (and d_t for the bias), so that

        alignment[k] = <G, gradient of the sum of nll over task k> = sum over tokens t of k of d_t . (G hidden_t + g)

    which takes the product of the forward pass and one more, over the supervised rows alone. The nll is unweighted;
    divide by `task_tokens` for the gradient of a task's mean.

    Args:
        hidden: [..., H].
        weight: [V, H], of the dtype of `hidden`.
        labels, task_ids, num_tasks, sample_ids, ignore_index, shift, plan: as in `linear_cross_entropy`.
        direction: G, [V, H], of any floating dtype; multiplied in the dtype of `hidden`.
        bias, logit_scale, softcap, impl: as in `linear_cross_entropy`.
        bias_direction: g, [V]; `None`: 0.
        memory_budget: bytes of logits and of G hidden_t to hold at once, as in `linear_cross_entropy`.

    Returns:
        [T], in f32 (f64 for f64 inputs), detached.

    Raises:
        TypeError, ValueError, RuntimeError: as `linear_cross_entropy`.

    >>> import torch, cotbal_kernels as ck
    >>> hidden, weight = torch.eye(2), torch.zeros(3, 2)
    >>> direction = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 3.0]])
    >>> made = ck.head_alignment(
    ...     hidden, weight, torch.tensor([0, 1]), direction, task_ids=torch.tensor([0, 1]), num_tasks=2
    ... )
    >>> [round(each, 4) for each in made.tolist()]
    [-0.6667, 1.0]
    """
    arguments.check_options(logit_scale, softcap, "sum", None, impl, memory_budget)
    arguments.check_head(hidden, weight, bias)
    if direction is None:
        raise ValueError("direction is missing; pass a tensor of the shape of weight")
    for name, value, other_name, other in (
        ("direction", direction, "weight", weight),
        ("bias_direction", bias_direction, "bias", weight.new_empty(0) if bias is None else bias),
    ):
        if value is None:
            continue
        checks.floating(name, value)
        if name == "bias_direction" and bias is None:
            raise ValueError("bias_direction came without a bias")
        checks.same_shape_and_device(name, value, other_name, other)
    hidden, weight, bias = arguments.autocast(hidden, weight, bias)
    made = arguments.planned(
        plan,
        labels,
        task_ids,
        None,
        num_tasks,
        sample_ids,
        None,
        shift,
        ignore_index,
        "hidden",
        hidden,
        weight.shape[0],
    )
    flat, classes = hidden.reshape(-1, hidden.shape[-1]), weight.shape[0]
    logits_dtype = products.product_dtype(hidden.dtype, hidden.device)
    backend = resolve(impl, hidden.device, logits_dtype)
    wide = compute_dtype(hidden.dtype)
    budget = arguments.budget(memory_budget, hidden.device)
    # Two buffers as wide as the vocabulary, of which there is never less than one row.
    size = max(1, budget // (2 * classes * logits_dtype.itemsize))
    along = torch.zeros(made.rows.shape[0], dtype=wide, device=hidden.device)
    towards = direction.to(weight.dtype)
    offset = None if bias_direction is None else bias_direction.to(weight.dtype)
    # Autocast must not change once more what has the dtype that it asks for.
    with torch.autocast(hidden.device.type, enabled=False):
        for start in range(0, made.rows.shape[0], size):
            part = slice(start, start + size)
            states = backend.gather_rows(
                flat, made.rows[part], made.targets[part], None, logits_dtype, made.padded
            )
            slopes, moved = (empty_rows(flat, states.shape[0], classes, logits_dtype) for _ in range(2))
            products.logits_(states, weight, bias, slopes)
            backend.row_pass(
                slopes, made.targets[part], gradient=slopes, logit_scale=logit_scale, softcap=softcap
            )
            products.logits_(states, towards, offset, moved)
            along[part] = moved.mul_(slopes).sum(1, dtype=wide)
            del slopes, moved
    return statistics.segment_sum(along, made.tasks, made.num_tasks)
