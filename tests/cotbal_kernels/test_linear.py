"""The product driver: how many products each mode costs, chunks, and precision across them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.kernels.loss_contract import check, run
from support.kernels.loss_strategies import LossCase, made_case
from torch.profiler import ProfilerActivity, profile

import cotbal_kernels as ck
from cotbal_kernels import linear, products
from cotbal_kernels.backends import registry
from cotbal_kernels.call import LinearCall

HIDDEN, CLASSES, ROWS = 8, 16, 40


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> int:
    """Chunks of 4 rows, blocks of 5 classes: what large calls do, at the size of a test."""
    monkeypatch.setattr(linear, "_LEAST_CHUNK", {"cpu": 4})
    monkeypatch.setattr(products, "_BLOCK", {"cpu": 5})
    return 4


def products_made(call: Any) -> float:
    """Multiplications of all matrix products, in units of one product of the supervised rows."""
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiled:
        call()
    total = 0
    for event in profiled.key_averages(group_by_input_shape=True):
        first = {"aten::mm": 0, "aten::addmm": 1, "aten::addmm_": 1}.get(event.key)
        if first is not None:
            left, right = event.input_shapes[first : first + 2]
            total += event.count * left[0] * left[1] * right[1]
    return total / (ROWS * HIDDEN * CLASSES)


def counted_case(dtype: torch.dtype = torch.float32, reduction: str = "mean") -> LossCase:
    case = made_case(
        "linear", dtype, 1, shape=(4, 20), hidden_size=HIDDEN, classes=CLASSES, tasks=2, reduction=reduction
    )
    labels = case.labels.fill_(-100)
    labels.view(-1)[::2] = 3
    return case


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("trained", "reduction", "budget", "expected"),
    [
        ((True, True), "mean", None, 3),
        ((True, True), "none", None, 3),
        ((True, True), "mean", 0, 3),
        ((True, True), "sum", 0, 3),
        ((True, True), "none", 0, 4),
        ((True, False), "mean", None, 2),
        ((False, True), "mean", None, 2),
        ((True, False), "mean", 0, 2),
        ((False, True), "sum", 0, 2),
        ((False, False), "mean", None, 1),
    ],
)
def test_products_are_as_few_as_promised(
    trained: tuple[bool, bool], reduction: str, budget: int | None, expected: int, dtype: torch.dtype
) -> None:
    """Entry 22 and the strategy itself: only supervised rows, three products for both gradients."""
    case = counted_case(dtype, reduction)
    hidden, weight = (
        value.clone().requires_grad_(wanted)
        for value, wanted in zip((case.scores, case.weight), trained, strict=True)
    )

    def call() -> None:
        out = ck.linear_cross_entropy(
            hidden,
            weight,
            case.labels,
            case.task_ids,
            case.task_weights,
            reduction=reduction,
            memory_budget=budget,
            impl="torch",
        )
        if any(trained):
            out.loss.sum().backward()

    assert products_made(call) == expected


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_many_chunks_and_blocks(small_chunks: int, dtype: torch.dtype, reduction: str) -> None:
    for seed, options in enumerate(
        ({}, {"with_bias": True, "softcap": 3.0}, {"planned": True, "capacity": 33})
    ):
        case = made_case(
            "linear",
            dtype,
            seed,
            shape=(3, 11),
            classes=13,
            tasks=3,
            reduction=reduction,
            memory_budget=0,
            **options,
        )
        check(case, "torch")


def test_chunks_are_equal(small_chunks: int) -> None:
    """Entry 24: no chunk is much smaller than the others, so none is a slow product."""
    for count in range(1, 40):
        case = made_case("linear", torch.float32, count, shape=(count,), supervised=1.0, tasks=1)
        plan = ck.plan(case.labels)
        call = LinearCall(
            hidden=case.scores,
            weight=case.weight,
            bias=None,
            rows=plan.rows,
            targets=plan.targets,
            tasks=plan.tasks,
            samples=plan.samples,
            row_weights=None,
            normalizer=None,
            num_tasks=1,
            num_samples=1,
            padded=False,
            logit_scale=1.0,
            softcap=None,
            reduction="mean",
            mode="grads",
            wants_hidden=True,
            wants_weight=True,
            wants_bias=False,
            memory_budget=0,
            impl="torch",
        )
        sizes = [part.stop - part.start for part, _, _ in linear._chunks(registry.load("torch"), call)]
        assert sum(sizes) == count
        assert max(sizes) <= small_chunks
        assert max(sizes) - min(sizes) <= len(sizes)


def test_modes_agree(small_chunks: int) -> None:
    for reduction in ("mean", "sum", "none"):
        case = made_case(
            "linear", torch.float64, 7, shape=(5, 6), tasks=3, reduction=reduction, with_bias=True
        )
        kept, chunked = run(case, "torch"), run(case.with_(memory_budget=0), "torch")
        for one, other in zip(
            (*kept.output, kept.grad_scores, kept.grad_weight, kept.grad_bias),
            (*chunked.output, chunked.grad_scores, chunked.grad_weight, chunked.grad_bias),
            strict=True,
        ):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_unsupervised_rows_cost_no_memory() -> None:
    """What a call allocates at most grows with the supervised rows, not with all of them."""
    few, many = (
        made_case("linear", torch.float32, 8, shape=(size,), hidden_size=2, classes=256, tasks=1)
        for size in (64, 2048)
    )
    labels = torch.full((2048,), -100)
    labels[:64] = few.labels.masked_fill(few.labels == -100, 0)
    peaks = []
    for case, of in ((few, labels[:64]), (many, labels)):
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            ck.linear_cross_entropy(
                case.scores.requires_grad_(), case.weight, of, impl="torch"
            ).loss.backward()
        peaks.append(sum(max(0, event.self_cpu_memory_usage) for event in profiled.key_averages()))
    assert peaks[1] - peaks[0] < 2048 * 256 * 4 / 4
