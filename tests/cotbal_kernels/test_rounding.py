"""Gradients of 16-bit inputs: rounded once whatever the upstream gradient, and not gone under a loss scale."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.kernels.budgets import UNIT, exact
from support.kernels.loss_contract import DEVICES, always_chunks, skip_unless_runnable
from support.kernels.product_dtypes import bfloat16_products

import cotbal_kernels as ck

BACKENDS = ("torch", "native", "triton")


def logits_gradients(
    impl: str, device: str, dtype: torch.dtype, rows: int, classes: int, upstream: float
) -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(rows, classes, generator=generator).to(device, dtype).requires_grad_()
    labels = torch.randint(0, classes, (rows,), generator=generator).to(device)
    # A part of a large step: the normalizer counts far more tokens than these.
    (ck.cross_entropy(logits, labels, normalizer=4096.0, impl=impl).loss * upstream).backward()
    true = logits.detach().double().requires_grad_()
    (F.cross_entropy(true, labels, reduction="sum") / 4096 * upstream).backward()
    return logits.grad, exact(true.grad)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("impl", BACKENDS)
def test_logits_in_f16_under_a_loss_scale(impl: str, device: str) -> None:
    """Without the scale, 97 of 100 entries are below f16's least number."""
    skip_unless_runnable(impl, device, torch.float16, "logits")
    found, true = logits_gradients(impl, device, torch.float16, 6, 32_000, 65536.0)
    assert (found == 0).float().mean().item() < 1e-3
    assert (np.abs(exact(found) - true) <= 1.02 * UNIT[torch.float16] * np.abs(true) + 2.0**-24).all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("impl", BACKENDS)
def test_a_head_in_f16_under_a_loss_scale(impl: str, device: str) -> None:
    skip_unless_runnable(impl, device, torch.float16)
    generator = torch.Generator().manual_seed(2)
    hidden = torch.randn(12, 16, generator=generator).to(torch.float16)
    weight = torch.randn(32_000, 16, generator=generator).mul(0.25).to(torch.float16)
    labels = torch.randint(0, 32_000, (12,), generator=generator)
    true = [each.double().requires_grad_() for each in (hidden, weight)]
    (F.cross_entropy(true[0] @ true[1].T, labels, reduction="sum") / 4096 * 65536).backward()
    for budget in (None, 0):
        leaves = [each.to(device).requires_grad_() for each in (hidden.clone(), weight.clone())]
        with always_chunks():
            out = ck.linear_cross_entropy(
                leaves[0],
                leaves[1],
                labels.to(device),
                normalizer=4096.0,
                impl=impl,
                memory_budget=budget,
            )
            (out.loss * 65536.0).backward()
        for leaf, exactly in zip(leaves, true, strict=True):
            wanted = exact(exactly.grad)
            # On a device the gradient of the logits is f16 before it is scaled: spacing 2^-24, sums of 12.
            spacing = 2.0**-24 * 16 * 4 * 12 if device == "cuda" else 2.0**-24
            off = np.abs(exact(leaf.grad) - wanted)
            assert (off <= 2 * UNIT[torch.float16] * np.abs(wanted) + spacing).all()
            assert (leaf.grad[wanted != 0] == 0).float().mean().item() < 0.01


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("impl", BACKENDS)
@pytest.mark.parametrize("upstream", [1.0, 1 / 3, 7.3])
def test_logits_in_bf16_are_rounded_once(impl: str, device: str, upstream: float) -> None:
    """No entry further than half an ulp (and f32's own errors) from the exact gradient."""
    skip_unless_runnable(impl, device, torch.bfloat16, "logits")
    found, true = logits_gradients(impl, device, torch.bfloat16, 40, 700, upstream)
    half_ulps = np.abs(exact(found) - true) / (2.0 ** (np.floor(np.log2(np.abs(true))) - 8))
    assert half_ulps.max() <= 1.01


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("impl", BACKENDS)
@pytest.mark.parametrize("upstream", [1.0, 1 / 3, 7.3])
def test_a_head_in_bf16_is_rounded_once(impl: str, device: str, upstream: float) -> None:
    """Where the products' sums are f32: on CPUs with products in f32, and on CUDA. In chunks and kept."""
    skip_unless_runnable(impl, device, torch.bfloat16)
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(48, 24, generator=generator).to(torch.bfloat16)
    weight = torch.randn(90, 24, generator=generator).mul(0.2).to(torch.bfloat16)
    labels = torch.randint(0, 90, (48,), generator=generator)
    true = [each.double().requires_grad_() for each in (hidden, weight)]
    (F.cross_entropy(true[0] @ true[1].T, labels) * upstream).backward()
    for budget in (None, 0):
        leaves = [each.to(device).requires_grad_() for each in (hidden.clone(), weight.clone())]
        with always_chunks(), bfloat16_products("emulated"):
            out = ck.linear_cross_entropy(
                leaves[0], leaves[1], labels.to(device), impl=impl, memory_budget=budget
            )
            (out.loss * upstream).backward()
        for leaf, exactly in zip(leaves, true, strict=True):
            wanted = exact(exactly.grad)
            ulp = 2.0 ** (np.floor(np.log2(np.abs(wanted))) - 8)
            # On a device the gradient of the logits is bf16 already; 48 such errors add to the one of the result.
            allowed = 1.01 * ulp + (2e-6 if device == "cpu" else 2.0**-8) * np.abs(wanted).max()
            assert (np.abs(exact(leaf.grad) - wanted) <= allowed).all()
