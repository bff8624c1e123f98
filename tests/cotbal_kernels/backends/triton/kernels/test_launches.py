"""How many kernels a call launches: as many as the design says, whatever its size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

import cotbal_kernels as ck
from cotbal_kernels.backends.triton import kernels as triton_kernels

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@contextmanager
def launches() -> Iterator[list[str]]:
    """Names of the kernels launched inside, in order."""
    names: list[str] = []
    kind = type(triton_kernels.statistics_kernel)
    original = kind.run

    def run(kernel: Any, *arguments: Any, **options: Any) -> Any:
        names.append(kernel.fn.__name__)
        return original(kernel, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "run", run)
        yield names


def made(tokens: int, classes: int) -> tuple[torch.Tensor, torch.Tensor, ck.Plan]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, 16, generator=generator).to(DEVICE).requires_grad_()
    weight = torch.randn(classes, 16, generator=generator).to(DEVICE).requires_grad_()
    labels = torch.randint(0, classes, (tokens,), generator=generator)
    labels[::3] = -100
    plan = ck.plan(labels, torch.arange(tokens) % 3, torch.tensor([0.5, 1.0, 2.0]), num_tasks=3)
    return hidden, weight, plan.to(DEVICE)


@pytest.mark.parametrize(("tokens", "classes"), [(12, 70), (40, 300), (3, 5000)])
def test_logits_take_one_pass_and_one_reduction(tokens: int, classes: int) -> None:
    logits = torch.randn(tokens, classes, device=DEVICE).requires_grad_()
    _, _, plan = made(tokens, classes)
    weights = torch.tensor([0.5, 1.0, 2.0], device=DEVICE)
    with launches() as forward:
        out = ck.cross_entropy(logits, None, None, weights, plan=plan, impl="triton")
    with launches() as backward:
        out.loss.backward()
    assert forward == ["row_scale_kernel", "row_kernel", "statistics_kernel"]
    # On a GPU the host does not know that the upstream gradient is 1: a launch finds out, and then makes no pass.
    assert backward == ([] if DEVICE == "cpu" else ["rescale_kernel"])


@pytest.mark.parametrize(("tokens", "classes"), [(12, 70), (40, 300), (3, 5000)])
def test_the_head_takes_six_launches_beside_its_products(tokens: int, classes: int) -> None:
    hidden, weight, plan = made(tokens, classes)
    weights = torch.tensor([0.5, 1.0, 2.0], device=DEVICE)
    with launches() as names:
        out = ck.linear_cross_entropy(hidden, weight, None, None, weights, plan=plan, impl="triton")
        out.loss.backward()
    assert names[:3] == ["scale_rows_kernel", "row_kernel", "statistics_kernel"]
    assert sorted(names[3:]) == ["row_scale_kernel", "scale_rows_kernel", "scale_rows_kernel"]
