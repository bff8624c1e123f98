"""The losses as part of larger graphs: frozen and shared inputs, autocast, checkpoints, trained weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.kernels.budgets import UNIT
from support.kernels.loss_contract import DEVICES, IMPLEMENTATIONS, skip_unless_runnable
from support.kernels.loss_strategies import REDUCTIONS, LossCase, made_case
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import cotbal_kernels as ck

pytestmark = [pytest.mark.parametrize("device", DEVICES), pytest.mark.parametrize("impl", IMPLEMENTATIONS)]
BUDGETS = pytest.mark.parametrize("budget", [None, 0])


@pytest.fixture(autouse=True)
def _runnable(impl: str, device: str) -> None:
    skip_unless_runnable(impl, device, torch.float32)


def leaves_of(case: LossCase, device: str, trained: tuple[bool, ...] = (True, True)) -> list[Tensor]:
    return [
        value.detach().clone().to(device).requires_grad_(wanted)
        for value, wanted in zip((case.scores, case.weight), trained, strict=True)
        if value is not None
    ]


def loss_of(
    case: LossCase, hidden: Tensor, weight: Tensor, impl: str, budget: int | None = None
) -> ck.LossOutput:
    device = hidden.device
    return ck.linear_cross_entropy(
        hidden,
        weight,
        case.labels.to(device),
        case.task_ids.to(device),
        case.task_weights,
        reduction=case.reduction,
        impl=impl,
        memory_budget=budget,
    )


@BUDGETS
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_frozen_inputs_get_no_gradient_and_take_none_from_others(
    reduction: str, budget: int | None, impl: str, device: str
) -> None:
    """Entry 22: a frozen head or frozen hidden states."""
    case = made_case("linear", torch.float32, 1, reduction=reduction)
    upstream = case.upstream.to(device, torch.float32)
    whole = leaves_of(case, device)
    loss_of(case, *whole, impl, budget).loss.backward(upstream)
    for trained in ((True, False), (False, True)):
        leaves = leaves_of(case, device, trained)
        loss_of(case, *leaves, impl, budget).loss.backward(upstream)
        for leaf, reference, wanted in zip(leaves, whole, trained, strict=True):
            assert (leaf.grad is not None) == wanted
            assert not wanted or torch.equal(leaf.grad, reference.grad)


@BUDGETS
def test_no_gradient_wanted(budget: int | None, impl: str, device: str) -> None:
    case = made_case("linear", torch.float32, 2)
    recorded = loss_of(case, *leaves_of(case, device), impl, budget)
    with torch.no_grad():
        unrecorded = loss_of(case, *leaves_of(case, device), impl, budget)
    with torch.inference_mode():
        inferred = loss_of(case, *leaves_of(case, device), impl, budget)
    for made in (unrecorded, inferred):
        assert not made.loss.requires_grad
        for one, other in zip(made[:6], recorded[:6], strict=True):
            torch.testing.assert_close(one, other.detach(), rtol=1e-6, atol=1e-6)


@BUDGETS
def test_tied_weights_add_both_gradients(budget: int | None, impl: str, device: str) -> None:
    case = made_case("linear", torch.float32, 3, shape=(2, 5))
    tokens = torch.randint(0, case.classes, (2, 5), device=device)
    table, apart = (case.weight.clone().to(device).requires_grad_() for _ in range(2))
    loss_of(case, F.embedding(tokens, table), table, impl, budget).loss.backward()
    head = case.weight.clone().to(device).requires_grad_()
    loss_of(case, F.embedding(tokens, apart), head, impl, budget).loss.backward()
    torch.testing.assert_close(table.grad, apart.grad + head.grad)


@BUDGETS
def test_used_twice(budget: int | None, impl: str, device: str) -> None:
    """Two losses of the same tensors in one graph, and one loss with two uses."""
    case = made_case("linear", torch.float32, 4)
    leaves, once = leaves_of(case, device), leaves_of(case, device)
    first = loss_of(case, *leaves, impl, budget).loss
    second = loss_of(case.with_(reduction="sum"), *leaves, impl, budget).loss
    (first + 2 * second + first).backward()
    (2 * loss_of(case, *once, impl, budget).loss).backward()
    (2 * loss_of(case.with_(reduction="sum"), *once, impl, budget).loss).backward()
    for leaf, reference in zip(leaves, once, strict=True):
        torch.testing.assert_close(leaf.grad, reference.grad)


@BUDGETS
def test_gradients_accumulate_into_grad(budget: int | None, impl: str, device: str) -> None:
    case = made_case("linear", torch.float32, 5)
    leaves = leaves_of(case, device)
    loss_of(case, *leaves, impl, budget).loss.backward()
    once = [leaf.grad.clone() for leaf in leaves]
    loss_of(case, *leaves, impl, budget).loss.backward()
    for leaf, reference in zip(leaves, once, strict=True):
        torch.testing.assert_close(leaf.grad, 2 * reference)


@BUDGETS
@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing(reentrant: bool, budget: int | None, impl: str, device: str) -> None:
    case = made_case("linear", torch.float32, 6)
    plain, leaves = leaves_of(case, device), leaves_of(case, device)
    loss_of(case, plain[0].tanh(), plain[1], impl, budget).loss.backward()

    def block(hidden: Tensor, weight: Tensor) -> Tensor:
        return loss_of(case, hidden.tanh(), weight, impl, budget).loss

    checkpoint(block, *leaves, use_reentrant=reentrant).backward()
    for leaf, reference in zip(leaves, plain, strict=True):
        assert torch.equal(leaf.grad, reference.grad)


@BUDGETS
def test_saved_tensors_may_be_moved_away(budget: int | None, impl: str, device: str) -> None:
    case = made_case("linear", torch.float32, 7)
    plain, leaves = leaves_of(case, device), leaves_of(case, device)
    loss_of(case, *plain, impl, budget).loss.backward()
    with torch.autograd.graph.save_on_cpu():
        loss = loss_of(case, *leaves, impl, budget).loss
    loss.backward()
    for leaf, reference in zip(leaves, plain, strict=True):
        assert torch.equal(leaf.grad, reference.grad)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@BUDGETS
def test_autocast(dtype: torch.dtype, budget: int | None, impl: str, device: str) -> None:
    """Entry 17: f32 parameters under autocast; products in the narrow dtype, loss and gradients in f32."""
    case = made_case("linear", torch.float32, 8, shape=(3, 6), classes=33, hidden_size=16)
    leaves, narrow = leaves_of(case, device), leaves_of(case, device)
    mixed = leaves[0].detach().to(dtype).requires_grad_()
    with torch.autocast(device, dtype):
        out = loss_of(case, *leaves, impl, budget)
        # A narrow hidden state with an f32 head is what the layers below hand over.
        from_below = loss_of(case, mixed, leaves[1].detach(), impl, budget)
    out.loss.backward()
    loss_of(case, narrow[0].to(dtype), narrow[1].to(dtype), impl, budget).loss.backward()
    assert out.loss.dtype == torch.float32
    assert torch.equal(from_below.loss, out.loss)
    for leaf, reference in zip(leaves, narrow, strict=True):
        assert leaf.grad.dtype == torch.float32
        assert torch.equal(leaf.grad, reference.grad)


@BUDGETS
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_trained_task_weights(reduction: str, budget: int | None, impl: str, device: str) -> None:
    """Task weights that require gradients get them, also where nothing else is trained."""
    case = made_case("linear", torch.float32, 9, tasks=3, supervised=0.9, reduction=reduction)
    upstream = case.upstream.to(device, torch.float32)
    for trained in ((True, True), (False, False)):
        weights = case.task_weights.to(device, torch.float32).requires_grad_()
        hidden, weight = leaves_of(case, device, trained)
        labels = case.labels.to(device)
        ck.linear_cross_entropy(
            hidden,
            weight,
            labels,
            case.task_ids.to(device),
            weights,
            reduction=reduction,
            impl=impl,
            memory_budget=budget,
        ).loss.backward(upstream)
        plain = weights.detach().clone().requires_grad_()
        nll = F.cross_entropy((hidden @ weight.T).flatten(0, 1), labels.flatten(), reduction="none")
        each = plain[case.task_ids.to(device)].unsqueeze(1) * (labels != -100)
        loss = each * nll.view(labels.shape)
        if reduction != "none":
            loss = loss.sum() / (each.sum() if reduction == "mean" else 1)
        loss.backward(upstream)
        torch.testing.assert_close(weights.grad, plain.grad, rtol=1e-5, atol=1e-5)


def test_second_derivatives_are_refused(impl: str, device: str) -> None:
    case = made_case("linear", torch.float32, 10)
    hidden, weight = leaves_of(case, device)
    with pytest.raises(NotImplementedError, match="create_graph=True"):
        torch.autograd.grad(loss_of(case, hidden, weight, impl).loss, hidden, create_graph=True)


def test_statistics_alone_keep_no_graph(impl: str, device: str) -> None:
    out = loss_of(case := made_case("linear", torch.float32, 11), *leaves_of(case, device), impl)
    assert [
        name
        for name, value in zip(out._fields, out, strict=True)
        if value is not None and value.requires_grad
    ] == ["loss"]


def test_gradient_of_the_task_loss_is_what_doubling_a_weight_adds(impl: str, device: str) -> None:
    """Doubling one task's weight moves the gradient by the formula, also at batch size 1."""
    case = made_case("linear", torch.float32, 12, shape=(1, 8), supervised=0.9, tasks=2)
    case = case.with_(reduction="mean")

    def grads(weights: list[float], normalizer: float) -> Any:
        leaves = leaves_of(case, device)
        ck.linear_cross_entropy(
            *leaves,
            case.labels.to(device),
            case.task_ids.to(device),
            weights,
            normalizer=normalizer,
            impl=impl,
        ).loss.backward()
        return leaves[1].grad

    task = case.task_ids[0].item()
    once = grads([1.0, 1.0], 16.0)
    doubled = grads([2.0 if task == 0 else 1.0, 2.0 if task == 1 else 1.0], 16.0 + 5.0)
    torch.testing.assert_close(doubled, once * 2 * 16 / 21, rtol=16 * UNIT[torch.float32], atol=1e-7)
