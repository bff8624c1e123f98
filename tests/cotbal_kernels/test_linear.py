"""The product driver: how many products each mode costs, chunks, and precision across them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.kernels.loss_contract import always_chunks, check, run, skip_unless_runnable
from support.kernels.loss_strategies import LossCase, made_case
from support.kernels.product_dtypes import BFLOAT16_PRODUCTS, Bfloat16Products, bfloat16_products
from torch.profiler import ProfilerActivity, profile

import cotbal_kernels as ck
from benchmarks import counts
from cotbal_kernels import linear, products
from cotbal_kernels.backends import registry, torch_backend
from cotbal_kernels.call import LinearCall

HIDDEN, CLASSES, ROWS = 8, 16, 40


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> int:
    """Chunks of 4 rows, blocks of 5 classes: what large calls do, at the size of a test."""
    monkeypatch.setattr(linear, "_LEAST_CHUNK", 4)
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

    with always_chunks():
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


@given(
    rows=st.integers(1, 9000),
    classes=st.integers(1, 3000),
    width=st.integers(1, 512),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
    budgets=st.lists(st.integers(0, 2**26), min_size=2, max_size=6),
)
def test_a_lower_budget_never_holds_more(
    rows: int, classes: int, width: int, dtype: torch.dtype, budgets: list[int]
) -> None:
    """The documented formula, and that it falls with the budget until its least."""
    hidden, weight = torch.empty(1, width, dtype=dtype), torch.empty(1, dtype=dtype).expand(classes, width)
    held, b = [], products.product_dtype(dtype, hidden.device).itemsize
    for budget in sorted(budgets, reverse=True):
        memory = linear.memory_of(hidden, weight, rows, budget, True)
        whole, sums = rows * classes * b, 0 if dtype.itemsize >= 4 else 4 * classes * width
        chunked = memory.chunk * classes * b + sums
        mode = linear.choose_mode(memory, "mean", dtype)
        held.append(whole if mode == "keep" else chunked)
        least = min(whole, min(rows, 512) * classes * b + sums)
        assert held[-1] <= max(budget, least)
        assert held[-1] <= whole
    assert held == sorted(held, reverse=True)


@pytest.mark.parametrize("kind", BFLOAT16_PRODUCTS)
@pytest.mark.parametrize("impl", ["torch", "native"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "width", "classes"), [(2048, 128, 1024), (768, 512, 2048)])
def test_measured_peaks_fall_with_the_budget(
    rows: int,
    width: int,
    classes: int,
    impl: str,
    dtype: torch.dtype,
    kind: Bfloat16Products,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Five budgets, and the memory that was really held: never more at a lower one, and within the formula."""
    skip_unless_runnable(impl, "cpu", dtype)
    monkeypatch.setattr(torch_backend, "_BLOCK", {"cpu": 2**14})  # its f32 copies of 16-bit logits
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, classes, (rows,), generator=generator)
    peaks = []
    with bfloat16_products(kind):
        b = products.product_dtype(dtype, labels.device).itemsize
        for budget in (2**30, 3 * 2**21, 3 * 2**20, 2**20, 0):
            hidden = torch.randn(rows, width, generator=generator).to(dtype).requires_grad_()
            weight = torch.randn(classes, width, generator=generator).to(dtype).requires_grad_()

            def step(hidden: Any = hidden, weight: Any = weight, budget: int = budget) -> None:
                ck.linear_cross_entropy(
                    hidden, weight, labels, impl=impl, memory_budget=budget
                ).loss.backward()

            step()
            hidden.grad = weight.grad = None
            peaks.append(counts.count(step).peak_bytes)
    logits, sums = classes * b, 0 if dtype == torch.float32 else 4 * classes * width
    # Inputs of the products and their results, in f32 where products are.
    around = 3 * rows * width * 4 + 2 * classes * width * 4 + 128 * rows + 4096
    assert peaks[0] <= rows * logits + around
    assert peaks[-1] <= 512 * logits + sums + around
    slack = 0.02 * peaks[0]
    assert all(lower <= higher + slack for higher, lower in pairwise(peaks)), peaks
    # Where the head is large beside the rows, sums of its gradient would cost more than chunks of logits save.
    assert rows < 4 * width or peaks[-1] < 0.75 * peaks[0], peaks
