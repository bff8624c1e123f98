"""Alignment of each task's head gradient with a direction, against the gradients that autograd makes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from support.kernels.budgets import UNIT
from support.kernels.loss_contract import DEVICES, IMPLEMENTATIONS, skip_unless_runnable
from support.kernels.loss_strategies import made_case
from torch import Tensor

import cotbal_kernels as ck
from cotbal_kernels.products import product_dtype


def by_autograd(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, plan: ck.Plan, options: dict[str, Any]
) -> tuple[list[Tensor], list[Tensor]]:
    """Each task's gradients of head and bias, in float64 and by plain torch."""
    states, head = hidden.double(), weight.double().requires_grad_()
    offset = None if bias is None else bias.double().requires_grad_()
    real = plan.targets >= 0
    z = options["logit_scale"] * F.linear(states.reshape(-1, states.shape[-1])[plan.rows[real]], head, offset)
    if options["softcap"] is not None:
        z = options["softcap"] * torch.tanh(z / options["softcap"])
    nll = F.cross_entropy(z, plan.targets[real], reduction="none")
    weights, biases = [], []
    for task in range(plan.num_tasks):
        leaves = [head] if offset is None else [head, offset]
        found = torch.autograd.grad(nll[plan.tasks[real] == task].sum(), leaves, retain_graph=True)
        weights.append(found[0])
        biases.append(found[1] if offset is not None else torch.zeros(weight.shape[0], dtype=torch.float64))
    return weights, biases


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@given(data=st.data())
def test_is_the_inner_product_of_the_gradients(
    impl: str, dtype: torch.dtype, device: str, data: st.DataObject
) -> None:
    skip_unless_runnable(impl, device, dtype)
    with_bias = data.draw(st.booleans())
    case = made_case(
        "linear",
        dtype,
        data.draw(st.integers(0, 2**31)),
        shape=data.draw(st.sampled_from([(3, 5), (1, 1), (2, 0)])),
        tasks=3,
        classes=data.draw(st.sampled_from([2, 7, 33])),
        with_bias=with_bias,
    )
    assert case.weight is not None
    options = {
        "logit_scale": data.draw(st.sampled_from([1.0, -0.5])),
        "softcap": data.draw(st.none() | st.just(3.0)),
    }
    plan = ck.plan(
        case.labels,
        case.task_ids,
        num_tasks=3,
        shift=data.draw(st.booleans()),
        capacity=data.draw(st.none() | st.just(case.labels.numel())),
    )
    generator = torch.Generator().manual_seed(5)
    direction = torch.randn(case.weight.shape, generator=generator, dtype=torch.float64).to(dtype)
    towards = None if case.bias is None else torch.randn(case.bias.shape, generator=generator).to(dtype)
    made = ck.head_alignment(
        case.scores.to(device),
        case.weight.to(device),
        None,
        direction.to(device),
        bias=None if case.bias is None else case.bias.to(device),
        bias_direction=None if towards is None else towards.to(device),
        plan=plan.to(device),
        memory_budget=data.draw(st.sampled_from([None, 0, 1000])),
        impl=impl,
        **options,
    )
    assert made.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    weights, biases = by_autograd(case.scores, case.weight, case.bias, plan, options)
    # A row is the sum of V products of two numbers, each rounded once; a logit's rounding shifts a probability by as
    # much as itself.
    rounded = UNIT[product_dtype(dtype, torch.device(device))]
    largest = case.scores.abs().sum(-1).max().item() if case.scores.numel() else 0.0
    for task in range(3):
        wanted = (weights[task] * direction).sum()
        size = (weights[task] * direction).abs().sum()
        if towards is not None:
            wanted = wanted + (biases[task] * towards).sum()
            size = size + (biases[task] * towards).abs().sum()
        count = int((plan.tasks[plan.targets >= 0] == task).sum())
        moved = (direction.double().abs().max() + 1) * (largest + 1) * 2 * count
        band = rounded * (case.classes + case.weight.shape[1] + 16) * (size + moved * (largest + 4))
        assert abs(made[task].item() - wanted) <= band, f"task {task}: {made[task]} for {wanted}, band {band}"


def test_a_step_of_the_head_along_the_direction_changes_the_loss_as_promised() -> None:
    """The difference quotient of each task's loss, which knows nothing of gradients."""
    case = made_case("linear", torch.float64, 9, shape=(4, 6), tasks=3)
    assert case.weight is not None
    direction = torch.randn(
        case.weight.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    made = ck.head_alignment(
        case.scores, case.weight, case.labels, direction, task_ids=case.task_ids, num_tasks=3
    )
    step = 1e-6
    ahead, behind = (
        ck.linear_cross_entropy(
            case.scores, case.weight + sign * step * direction, case.labels, case.task_ids, num_tasks=3
        ).task_loss_sum
        for sign in (1, -1)
    )
    torch.testing.assert_close(made, (ahead - behind) / (2 * step), rtol=1e-7, atol=1e-7)


def test_refusals_name_the_argument() -> None:
    hidden, weight, labels = torch.zeros(2, 3), torch.zeros(4, 3), torch.tensor([0, 1])
    with pytest.raises(ValueError, match="direction is missing"):
        ck.head_alignment(hidden, weight, labels)
    with pytest.raises(ValueError, match=r"direction has shape \(3, 3\)"):
        ck.head_alignment(hidden, weight, labels, torch.zeros(3, 3))
    with pytest.raises(ValueError, match="bias_direction came without a bias"):
        ck.head_alignment(hidden, weight, labels, weight, bias_direction=torch.zeros(4))
