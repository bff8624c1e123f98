"""Sums over rows: right, additive, and the same bits on every run."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.kernels.loss_contract import DEVICES, IMPLEMENTATIONS, run, skip_unless_runnable
from support.kernels.loss_strategies import FUNCTIONS, Function, made_case

from cotbal_kernels import statistics


@pytest.mark.parametrize("device", DEVICES)
@given(seed=st.integers(0, 2**31), count=st.integers(1, 6), rows=st.integers(0, 40))
def test_segment_sum_is_the_rounded_exact_sum(device: str, seed: int, count: int, rows: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, generator=generator).exp()
    segments = torch.randint(0, count, (rows,), generator=generator)
    found = statistics.segment_sum(values.to(device), segments.to(device), count)
    counted = statistics.segment_count((values > 1).to(device), segments.to(device), count)
    for segment in range(count):
        own = values[segments == segment]
        assert found[segment].item() == torch.tensor(math.fsum(own.tolist())).item()
        assert counted[segment].item() == int((own > 1).sum())


def test_segment_sum_of_devices_in_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """The path devices take, run on the meta device for its shapes and on values by hand."""
    monkeypatch.setattr(statistics, "_TILE", 8)
    made = statistics.segment_sum(
        torch.ones(4, device="meta"), torch.zeros(4, dtype=torch.int64, device="meta"), 7
    )
    assert made.shape == (7,)
    assert made.dtype == torch.float32


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_every_result_is_the_same_on_every_run(impl: str, function: Function, device: str) -> None:
    skip_unless_runnable(impl, device, torch.float32)
    case = made_case(function, torch.float32, 1, shape=(8, 64), classes=97, hidden_size=16, tasks=5)
    first = run(case, impl, device)
    for _ in range(3):
        again = run(case, impl, device)
        for one, other in zip(first.output, again.output, strict=True):
            assert (one is None and other is None) or torch.equal(one, other)
        assert torch.equal(first.grad_scores, again.grad_scores)
        assert first.grad_weight is None or torch.equal(first.grad_weight, again.grad_weight)


def test_normalizer_is_never_zero_for_want_of_tokens() -> None:
    zero, two = torch.zeros((), dtype=torch.float64), torch.full((), 2.0, dtype=torch.float64)
    assert statistics.normalizer(zero, None, "mean").item() == 1.0
    assert statistics.normalizer(zero, zero, "mean").item() == 1.0
    assert statistics.normalizer(zero, two, "mean").item() == 2.0
    assert statistics.normalizer(two, None, "mean").item() == 2.0
    for illegal in (0.0, -1.0, math.inf, math.nan):
        given = torch.full((), illegal, dtype=torch.float64)
        assert math.isnan(statistics.normalizer(two, given, "mean").item())
    assert statistics.normalizer(two, None, "sum").item() == 1.0
