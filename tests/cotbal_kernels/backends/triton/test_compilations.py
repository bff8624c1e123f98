"""How many kernels a training compiles: as many as its head asks for, whatever its batches are."""

from __future__ import annotations

import random
from collections.abc import Iterator
from unittest import mock

import pytest
import torch
import triton
from support.kernels.launches import PRODUCTS, operators
from support.kernels.loss_contract import always_chunks
from support.kernels.product_dtypes import bfloat16_products
from support.kernels.triton_binaries import launched

import cotbal_kernels as ck
from cotbal_kernels import arguments
from cotbal_kernels.backends.triton.backend import BACKEND as triton_backend
from cotbal_kernels.backends.triton.backend import TritonBackend

if triton.knobs.runtime.interpret:
    pytest.skip("kernels are interpreted in this process", allow_module_level=True)

PLANS = 200


@pytest.fixture(autouse=True)
def on_the_cpu() -> Iterator[None]:
    """The whole way to each launch runs on CPU tensors; what would be launched is compiled instead."""
    with mock.patch.object(TritonBackend, "unavailable", return_value=None), bfloat16_products("real"):
        yield


def test_statistics_are_compiled_once() -> None:
    """Counts of 1, multiples of 16 and any other, of rows, tasks and samples; and slices at any address."""
    dice = random.Random(0)

    def sums() -> None:
        for _ in range(PLANS):
            count, tasks, samples = (dice.choice([1, 7, 16, 33, 64]) for _ in range(3))
            ids = torch.zeros(count + 1, dtype=torch.int64)[dice.randint(0, 1) :][:count]
            hits = torch.zeros(count + 1, dtype=torch.bool)[dice.randint(0, 1) :][:count]
            triton_backend.row_statistics(
                torch.zeros(count + 1)[dice.randint(0, 1) :][:count],
                hits,
                ids,
                ids,
                ids,
                torch.ones(count),
                None,
                tasks,
                samples,
                "mean",
            )

    found = launched("sm_90", sums)
    assert len(found) == PLANS
    assert len(set(map(id, found))) == 1


@pytest.mark.parametrize("chunked", [False, True])
def test_warm_up_leaves_nothing_to_compile(chunked: bool) -> None:
    """200 random plans after it, forward and backward: not one kernel that it has not compiled."""
    dice = random.Random(1)
    weight = torch.zeros(90, 24, dtype=torch.bfloat16).requires_grad_()
    warm = set(map(id, launched("sm_90", lambda: ck.warm_up(weight, impl="triton"))))
    assert weight.grad is None

    def training() -> None:
        for _ in range(PLANS):
            rows, tasks = dice.choice([1, 5, 16, 31, 48]), dice.choice([1, 3, 16])
            shape = (rows, dice.choice([1, 4, 16]))
            labels = torch.where(torch.rand(shape) < 0.6, torch.randint(0, 90, shape), -100)
            weights = torch.ones(tasks) if dice.random() < 0.5 else None
            plan = ck.plan(labels, torch.randint(0, tasks, (rows,)), weights, num_tasks=tasks)
            hidden = torch.zeros(*shape, 24, dtype=torch.bfloat16).requires_grad_()
            ck.linear_cross_entropy(
                hidden, weight, plan=plan, impl="triton", memory_budget=0 if chunked else None
            ).loss.backward()

    if chunked:
        with always_chunks():
            found = launched("sm_90", training)
    else:
        found = launched("sm_90", training)
    assert len(found) > 3 * PLANS / 2
    assert set(map(id, found)) <= warm


@pytest.mark.parametrize("with_bias", [False, True])
def test_a_weighted_step_with_a_plan_takes_ten_launches_beside_its_products(with_bias: bool) -> None:
    """Forward and backward, the seed of the backward pass included; torch's operators and Triton's kernels."""
    weight = torch.zeros(90, 24, dtype=torch.bfloat16).requires_grad_()
    bias = torch.zeros(90, dtype=torch.bfloat16) if with_bias else None
    hidden = torch.zeros(3, 16, 24, dtype=torch.bfloat16).requires_grad_()
    labels = torch.randint(0, 90, (3, 16))
    labels[:, :5] = -100
    plan = ck.plan(labels, torch.tensor([0, 1, 2]), num_tasks=3)
    weights, normalizer = torch.ones(3), torch.full((), 40.0, dtype=torch.float64)
    names: list[str] = []

    def step() -> None:
        out = ck.linear_cross_entropy(
            hidden, weight, bias=bias, plan=plan, task_weights=weights, normalizer=normalizer, impl="triton"
        )
        out.loss.backward()

    def counted() -> None:
        # What the CPU reads to check its arguments a device never does.
        with (
            mock.patch.object(arguments.checks, "legal_weights", lambda name, values: threshold(values)),
            mock.patch.object(arguments, "check_normalizer"),
        ):
            names.extend(operators(step))

    kernels = [kernel.name for kernel in launched("sm_90", counted)]
    products = [name for name in names if name in PRODUCTS]
    others = [name for name in names if name not in PRODUCTS]
    # Whether an earlier call met a bad label is read from the host's own memory.
    others.remove("aten::_local_scalar_dense")
    assert len(products) == 3
    assert len(others) + len(kernels) <= 10, (others, kernels)


def threshold(values: torch.Tensor) -> torch.Tensor:
    """What `checks.legal_weights` does on a device."""
    return torch.nn.functional.threshold(values, -torch.finfo(values.dtype).tiny, float("nan"))
