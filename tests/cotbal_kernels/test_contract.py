"""The contract of both losses, over every implementation: against the float64 oracle, outputs poisoned."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.kernels.loss_contract import DEVICES, IMPLEMENTATIONS, LAYOUTS, check, skip_unless_runnable
from support.kernels.loss_strategies import FUNCTIONS, REDUCTIONS, Function, loss_cases, made_case

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
