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

OF_TOKENS = {"token_outputs": ("log_probabilities", "entropy"), "token_gradients": True}


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
            {
                "shift": True,
                "tasks": 3,
                "weighted_tokens": True,
                "label_smoothing": 0.1,
                "lse_square_scale": 1e-2,
            },
            {"with_bias": True, "softcap": 5.0, "logit_scale": 0.5, "classes": 33, "planned": True},
            {"shape": (9,), "classes": 65, "tasks": 1, "spread": 6.0, "by_class": True, **OF_TOKENS},
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


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_detached_token_outputs_change_nothing_else(impl: str, function: Function, device: str) -> None:
    """Bit for bit the same loss, statistics and gradients, whether entropies are looked at or not."""
    skip_unless_runnable(impl, device, torch.float32)
    for budget in (None, 0) if function == "linear" else (None,):
        case = made_case(function, torch.float32, 8, shape=(3, 6), tasks=2, classes=40, memory_budget=budget)
        plain = check(case, impl, device)
        beside = check(case.with_(token_outputs=("log_probabilities", "entropy")), impl, device)
        assert torch.equal(plain.output.loss, beside.output.loss)
        torch.testing.assert_close(plain.grad_scores, beside.grad_scores, rtol=1e-5, atol=1e-7)


def test_masked_classes_have_no_share_in_the_entropy() -> None:
    """-inf masks a class: two classes that are left have an entropy of log 2 at most, and finite gradients."""
    for impl in ("torch", "native"):
        skip_unless_runnable(impl, "cpu", torch.float32)
        logits = torch.tensor([[1.0, 1.0, -torch.inf], [0.0, -torch.inf, -torch.inf]]).requires_grad_()
        out = ck.cross_entropy(
            logits,
            torch.tensor([0, 0]),
            token_outputs=("entropy",),
            token_gradients=True,
            lse_square_scale=0.1,
            impl=impl,
        )
        assert out.token_entropy is not None
        torch.testing.assert_close(out.token_entropy, torch.tensor([math.log(2), 0.0]), atol=1e-6, rtol=0)
        (out.loss + out.token_entropy.sum()).backward()
        assert logits.grad is not None
        assert bool(torch.isfinite(logits.grad).all())
        assert logits.grad[1, 1:].tolist() == [0.0, 0.0]
