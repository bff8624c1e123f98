"""What only an accelerator can show: no waiting, captured graphs, other devices, large calls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from support.kernels.loss_contract import skip_unless_runnable
from support.kernels.loss_strategies import LossCase, made_case

import cotbal_kernels as ck

pytestmark = [pytest.mark.gpu, pytest.mark.parametrize("impl", ["torch", "triton"])]


@pytest.fixture(autouse=True)
def _runnable(impl: str) -> None:
    skip_unless_runnable(impl, "cuda", torch.bfloat16)


@contextmanager
def waiting_is_an_error() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def placed(case: LossCase) -> tuple[torch.Tensor, torch.Tensor]:
    assert case.weight is not None
    return tuple(value.cuda().requires_grad_() for value in (case.scores, case.weight))


def large_case(seed: int = 1, reduction: str = "mean") -> LossCase:
    return made_case(
        "linear",
        torch.bfloat16,
        seed,
        shape=(4, 64),
        hidden_size=64,
        classes=1000,
        tasks=3,
        reduction=reduction,
    )


@pytest.mark.parametrize("budget", [None, 0])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_plan_from_cpu_labels_needs_no_synchronisation(
    reduction: str, budget: int | None, impl: str
) -> None:
    """Entry 25."""
    case = large_case(reduction=reduction)
    plan = ck.plan(case.labels, case.task_ids, case.task_weights, shift=True).to("cuda")
    hidden, weight = placed(case)
    weights = case.task_weights.cuda()
    upstream = torch.ones((4, 64) if reduction == "none" else (), device="cuda")

    def step() -> None:
        out = ck.linear_cross_entropy(
            hidden,
            weight,
            plan=plan,
            task_weights=weights,
            reduction=reduction,
            memory_budget=budget,
            impl=impl,
        )
        out.loss.backward(upstream)
        logits = out.task_loss_sum + 0
        assert logits.shape == (3,)

    step()  # compiles
    with waiting_is_an_error():
        step()


def test_labels_on_the_device_cost_one_synchronisation(impl: str) -> None:
    case = large_case()
    labels, task_ids, weights = case.labels.cuda(), case.task_ids.cuda(), case.task_weights.cuda()
    waits = []
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with pytest.warns(UserWarning, match="called a synchronizing CUDA operation") as recorded:
            ck.plan(labels, task_ids, weights, shift=True, vocab_size=1000)
        waits = [each for each in recorded if "synchronizing" in str(each.message)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(waits) == 1


def test_captured_graph_with_a_padded_plan(impl: str) -> None:
    """Captured once, replayed with other labels, states and numbers of supervised tokens."""
    cases = [large_case(seed) for seed in (1, 2, 3)]
    capacity = cases[0].labels.numel()
    plans = [
        ck.plan(each.labels, each.task_ids, each.task_weights, capacity=capacity).to("cuda") for each in cases
    ]
    hidden, weight = placed(cases[0])
    static = plans[0]

    def step() -> ck.LossOutput:
        hidden.grad = weight.grad = None
        out = ck.linear_cross_entropy(hidden, weight, plan=static, impl=impl)
        out.loss.backward()
        return out

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    hidden.grad = weight.grad = None
    with torch.cuda.graph(graph):
        captured = step()
    for case, plan in zip(cases, plans, strict=True):
        with torch.no_grad():
            hidden.copy_(case.scores)
            weight.copy_(case.weight)
        for name in ("rows", "targets", "tasks", "samples", "task_weights"):
            getattr(static, name).copy_(getattr(plan, name))
        graph.replay()
        made = [
            captured.loss.clone(),
            captured.task_loss_sum.clone(),
            hidden.grad.clone(),
            weight.grad.clone(),
        ]
        eager_hidden, eager_weight = placed(case)
        out = ck.linear_cross_entropy(eager_hidden, eager_weight, plan=plan, impl=impl)
        out.loss.backward()
        expected = [out.loss, out.task_loss_sum, eager_hidden.grad, eager_weight.grad]
        for one, other in zip(made, expected, strict=True):
            torch.testing.assert_close(one, other.detach())


def test_another_device_than_the_current_one(impl: str) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one device only")
    case = large_case()
    hidden, weight = (value.to("cuda:1").requires_grad_() for value in (case.scores, case.weight))
    with torch.cuda.device(0):
        out = ck.linear_cross_entropy(hidden, weight, case.labels.to("cuda:1"), impl=impl)
        out.loss.backward()
    assert out.loss.device.index == 1
    assert torch.isfinite(hidden.grad).all()


def test_another_stream_than_the_default_one(impl: str) -> None:
    case = large_case()
    plan = ck.plan(case.labels, case.task_ids, case.task_weights).to("cuda")
    hidden, weight = placed(case)
    expected = ck.linear_cross_entropy(hidden, weight, plan=plan, impl=impl).loss
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        made = ck.linear_cross_entropy(hidden, weight, plan=plan, impl=impl).loss
        torch.cuda.current_stream().synchronize()
    assert torch.equal(made, expected)
