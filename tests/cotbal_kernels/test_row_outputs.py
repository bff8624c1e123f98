"""Penalties and token outputs cost nothing where they are not asked for, and mean what the pages say."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from support.kernels.launches import operators
from support.kernels.loss_contract import skip_unless_runnable

import cotbal_kernels as ck
from cotbal_kernels import ops
from cotbal_kernels.backends.native.backend import NativeBackend
from cotbal_kernels.backends.torch_backend import TorchBackend

BACKENDS = {"torch": TorchBackend, "native": NativeBackend}
# Each of them off, in every way a caller may say so.
OFF: dict[str, Any] = {
    "label_smoothing": 0.0,
    "lse_square_scale": 0.0,
    "class_weights": None,
    "token_outputs": (),
    "token_gradients": False,
}
LABELS = torch.tensor([[3, -100, 5], [6, 0, -100]])


def step(**options: Any) -> Callable[[], ck.LossOutput]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 3, 8, generator=generator).requires_grad_()
    weight = torch.randn(40, 8, generator=generator).requires_grad_()
    plan = ck.plan(LABELS, torch.tensor([0, 1]), num_tasks=2)

    def call() -> ck.LossOutput:
        out = ck.linear_cross_entropy(hidden, weight, plan=plan, task_weights=[1.0, 2.0], **options)
        out.loss.backward()
        return out

    return call


@pytest.mark.parametrize("budget", [None, 0])
@pytest.mark.parametrize("impl", BACKENDS)
def test_what_is_off_reaches_no_backend_and_adds_no_operator(impl: str, budget: int | None) -> None:
    skip_unless_runnable(impl, "cpu", torch.float32)
    seen: list[Any] = []
    original = BACKENDS[impl].row_pass

    def row_pass(*arguments: Any, **options: Any) -> Any:
        seen.append(options.get("terms"))
        return original(*arguments, **options)

    with mock.patch.object(BACKENDS[impl], "row_pass", row_pass):
        plainly = operators(step(impl=impl, memory_budget=budget))
        assert operators(step(impl=impl, memory_budget=budget, **OFF)) == plainly
        assert seen
        assert all(terms is None for terms in seen)
        more = operators(
            step(impl=impl, memory_budget=budget, label_smoothing=0.1, token_outputs=("entropy",))
        )
    assert any(terms is not None for terms in seen)
    assert len(more) > len(plainly)


def test_what_is_off_is_neither_allocated_nor_saved() -> None:
    made: list[Any] = []
    original = ops.linear_cross_entropy

    def kept(call: Any) -> Any:
        made.append(original(call))
        return made[-1]

    with mock.patch.object(ops, "linear_cross_entropy", kept):
        step()()
        step(lse_square_scale=0.1, token_outputs=("entropy",))()
    plain, asked = made
    assert (plain.losses.numel(), plain.entropy.numel()) == (0, 0)
    assert (asked.losses.numel(), asked.entropy.numel()) == (4, 4)


def test_log_probabilities_are_the_nll_and_cost_no_term() -> None:
    out = step(token_outputs=("log_probabilities",), reduction="sum")()
    assert out.token_log_probabilities is not None
    assert not out.token_log_probabilities.requires_grad
    assert out.token_log_probabilities.shape == LABELS.shape
    assert (out.token_log_probabilities[LABELS < 0] == 0).all()
    torch.testing.assert_close(-out.token_log_probabilities.sum(), out.task_loss_sum.sum())


@pytest.mark.parametrize("impl", BACKENDS)
def test_label_smoothing_and_class_weights_are_torchs(impl: str) -> None:
    skip_unless_runnable(impl, "cpu", torch.float32)
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(6, 9, generator=generator)
    labels = torch.tensor([0, 8, -100, 3, 3, 5])
    weights = torch.rand(9, generator=generator)
    for options, torchs in (
        ({"label_smoothing": 0.3}, {"label_smoothing": 0.3}),
        ({"class_weights": weights}, {"weight": weights}),
    ):
        for reduction in ("mean", "sum", "none"):
            found = ck.cross_entropy(logits, labels, reduction=reduction, impl=impl, **options).loss  # type: ignore[arg-type]
            wanted = F.cross_entropy(logits, labels, reduction=reduction, **torchs)  # type: ignore[arg-type]
            torch.testing.assert_close(found, wanted)


def test_a_masked_class_makes_a_smoothed_loss_infinite() -> None:
    logits = torch.tensor([[1.0, -torch.inf, 0.0]])
    assert ck.cross_entropy(logits, torch.tensor([0]), label_smoothing=0.1).loss.item() == math.inf


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_smoothing": 1.5}, r"label_smoothing is 1.5; accepted: 0 to 1"),
        ({"lse_square_scale": -1.0}, r"lse_square_scale is -1.0; a finite number >= 0 is needed"),
        ({"lse_square_scale": math.inf}, r"lse_square_scale is inf"),
        (
            {"token_outputs": ("entropies",)},
            r"token_outputs holds 'entropies'; accepted are 'log_probabilities'",
        ),
        (
            {"token_outputs": "entropy"},
            r"token_outputs is 'entropy', a string; accepted: a sequence of names",
        ),
        ({"token_gradients": True}, r"token_gradients came without token_outputs"),
        ({"class_weights": torch.ones(3)}, r"class_weights has shape \(3,\); accepted: \(40,\)"),
        ({"class_weights": -torch.ones(40)}, r"class_weights\[0\] is -1.0: not a finite number >= 0"),
        (
            {"class_weights": torch.ones(40), "label_smoothing": 0.1},
            r"class_weights came with label_smoothing",
        ),
    ],
)
def test_refusals(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        step(**options)()
