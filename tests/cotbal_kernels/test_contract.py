"""The contract of both losses, over every implementation: against the float64 oracle, outputs poisoned."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.kernels.loss_contract import DEVICES, IMPLEMENTATIONS, LAYOUTS, check, skip_unless_runnable
from support.kernels.loss_strategies import FUNCTIONS, REDUCTIONS, Function, loss_cases, made_case
from support.kernels.product_dtypes import BFLOAT16_PRODUCTS, Bfloat16Products, bfloat16_products

import cotbal_kernels as ck

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def dtype_id(value: object) -> str | None:
    return str(value).removeprefix("torch.") if isinstance(value, torch.dtype) else None


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_id)
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_every_layout(
    impl: str, function: Function, dtype: torch.dtype, reduction: str, layout: str, device: str
) -> None:
    skip_unless_runnable(impl, device, dtype, function)
    for seed, options in enumerate(
        (
            {"shift": True, "tasks": 3, "weighted_tokens": True},
            {"with_bias": True, "softcap": 5.0, "logit_scale": 0.5, "classes": 33, "planned": True},
            {"shape": (9,), "classes": 65, "tasks": 1, "spread": 6.0},
            {
                "packed": True,
                "shape": (2, 6),
                "planned": True,
                "capacity": 12,
                "classes": 31,
                "hidden_size": 8,
            },
        )
    ):
        case = made_case(function, dtype, seed, reduction=reduction, **options)
        check(case, impl, device, layout)
        if function == "linear":
            check(case.with_(memory_budget=0), impl, device, layout)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_id)
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@given(data=st.data())
def test_every_option(
    impl: str, function: Function, dtype: torch.dtype, device: str, data: st.DataObject
) -> None:
    skip_unless_runnable(impl, device, dtype, function)
    check(data.draw(loss_cases(function, dtype)), impl, device)


@pytest.mark.parametrize("kind", BFLOAT16_PRODUCTS)
@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@given(data=st.data())
def test_bfloat16_products_real_and_emulated(impl: str, kind: Bfloat16Products, data: st.DataObject) -> None:
    """Whatever this processor can do: the same contract for logits in bfloat16 and in float32."""
    with bfloat16_products(kind):
        skip_unless_runnable(impl, "cpu", torch.bfloat16)
        check(data.draw(loss_cases("linear", torch.bfloat16)), impl)


@pytest.mark.parametrize("kind", BFLOAT16_PRODUCTS)
@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_a_large_bias_is_rounded_with_its_logit(impl: str, kind: Bfloat16Products) -> None:
    """Added inside the product: products of 1/512 beside a bias of 1 are gone in bfloat16, and only there.

    The plain computation, a linear layer in the inputs' dtype, is off just so; rounding before the bias is added
    would leave an nll that no linear layer of that dtype has.
    """
    with bfloat16_products(kind):
        skip_unless_runnable(impl, "cpu", torch.bfloat16)
        hidden = torch.full((1, 1), 2.0**-9, dtype=torch.bfloat16)
        weight = torch.tensor([[1.0], [-1.0]], dtype=torch.bfloat16)
        bias = torch.ones(2, dtype=torch.bfloat16)
        out = ck.linear_cross_entropy(hidden, weight, torch.tensor([0]), bias=bias, impl=impl)
    difference = 0.0 if kind == "real" else 2.0**-8
    assert out.loss.item() == pytest.approx(math.log1p(math.exp(-difference)), abs=2e-7)
