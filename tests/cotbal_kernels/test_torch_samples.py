"""Torch's own samples for its two losses, through every backend, against torch's functions in float64."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from support.kernels.budgets import UNIT, assert_within_budget, exact
from support.kernels.loss_contract import IMPLEMENTATIONS, skip_unless_runnable
from support.kernels.torch_samples import FUNCTIONS, TorchSample, applicability, samples
from support.pages.torch_samples_page import TORCH, page
from torch import Tensor

pytest.importorskip("expecttest", reason="torch's samples need the package expecttest (extra dev)")
PAGE = Path(__file__).parents[2] / "docs" / "torch-samples.md"
Result = tuple[Tensor, list[Tensor]]


def with_gradients(loss: Tensor, leaves: list[Tensor], upstream: Tensor) -> Result:
    return loss.detach(), list(torch.autograd.grad(loss, leaves, upstream.to(loss.dtype)))


def rounding(sample: TorchSample, upstream: Tensor, dtype: torch.dtype) -> float:
    """What rounding may change in a sum of as many products as a loss or gradient of the sample is made of."""
    terms = sum(each.numel() for each in sample.differentiable()) + sample.target.numel()
    magnitude = 1.0
    for each in (*sample.differentiable(), sample.options.get("weight"), upstream):
        if each is not None and each.numel():
            magnitude *= max(1.0, each.detach().abs().max().item())
    return terms * magnitude * UNIT[dtype]


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_every_sample_gives_torchs_loss_and_gradients(function: str, dtype: torch.dtype, impl: str) -> None:
    if not hasattr(torch.nn.functional, function):
        pytest.skip(f"torch {torch.__version__} has no F.{function}")
    skip_unless_runnable(impl, "cpu", dtype, "logits")
    compared = 0
    for number, sample in enumerate(samples(function, dtype)):
        if sample.not_applicable() is not None:
            continue
        wide = sample.in_dtype(torch.float64)
        truth_loss = wide.stock()
        upstream = torch.randn(
            truth_loss.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(number)
        )
        truth = with_gradients(truth_loss, wide.differentiable(), upstream)
        plain = with_gradients(sample.stock(), sample.differentiable(), upstream)
        mine = with_gradients(sample.ours(impl), sample.differentiable(), upstream)
        band = rounding(sample, upstream, dtype)
        what = f"{function} sample {number} ({sample.options})"
        assert_within_budget(f"{what} loss", mine[0], plain[0], exact(truth[0]), band)
        for place, (ours, stock, true) in enumerate(zip(mine[1], plain[1], truth[1], strict=True)):
            assert_within_budget(f"{what} gradient {place}", ours, stock, exact(true), band)
        compared += 1
    assert compared == applicability(function, dtype)[None] >= 10


def test_the_losses_refuse_what_is_not_applicable() -> None:
    """Not one sample that is left out above is computed as something else in silence (a mean of nothing apart)."""
    refused: Counter[str] = Counter()
    for function in FUNCTIONS:
        for sample in samples(function, torch.float64):
            reason = sample.not_applicable()
            if reason is None or "a mean over no" in reason:
                continue
            with pytest.raises((ValueError, TypeError, RuntimeError)):
                sample.ours("torch")
            refused[reason] += 1
    assert len(refused) >= 2


def test_the_page_is_current() -> None:
    written = PAGE.read_text()
    if f"torch {TORCH}." not in written:
        pytest.skip(f"docs/torch-samples.md tells of another torch than {TORCH}")
    assert written == page()
