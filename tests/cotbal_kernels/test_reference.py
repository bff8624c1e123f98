"""The oracle itself: against differences of its own loss, and against torch in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from support.kernels.loss_contract import plain, truth
from support.kernels.loss_strategies import FUNCTIONS, Function, LossCase, loss_cases


@pytest.mark.parametrize("function", FUNCTIONS)
@given(data=st.data())
def test_agrees_with_torch_in_float64(function: Function, data: st.DataObject) -> None:
    case = data.draw(loss_cases(function, torch.float64))
    exact, torchs = truth(case), plain(case)
    scale = 1.0 + np.abs(exact.loss).max(initial=0.0)
    np.testing.assert_allclose(torchs.loss.numpy(), exact.loss, rtol=1e-12, atol=1e-13 * scale)
    for found, expected in (
        (torchs.grad_scores, exact.grad_scores),
        (torchs.grad_weight, exact.grad_weight),
        (torchs.grad_bias, exact.grad_bias),
    ):
        if found is not None:
            bound = 1e-12 * (1.0 + np.abs(expected).max(initial=0.0))
            np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=bound)


@pytest.mark.parametrize("function", FUNCTIONS)
@given(data=st.data())
def test_gradients_are_slopes_of_the_loss(function: Function, data: st.DataObject) -> None:
    """A central difference along a drawn direction, through all inputs at once."""
    # Gradients that outputs per token would add are no part of the loss.
    case: LossCase = data.draw(loss_cases(function, torch.float64)).with_(token_gradients=False)
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    names = [name for name in ("scores", "weight", "bias") if getattr(case, name) is not None]
    direction = {
        name: torch.randn(getattr(case, name).shape, generator=generator, dtype=torch.float64)
        for name in names
    }
    step = 1e-6
    ends = []
    for sign in (1, -1):
        moved = case.with_(**{name: getattr(case, name) + sign * step * direction[name] for name in names})
        ends.append(float((truth(moved).loss * case.upstream.numpy()).sum()))
    exact = truth(case)
    gradients = {"scores": exact.grad_scores, "weight": exact.grad_weight, "bias": exact.grad_bias}
    slope = sum(float((gradients[name] * direction[name].numpy()).sum()) for name in names)
    scale = sum(float(np.abs(gradients[name] * direction[name].numpy()).sum()) for name in names)
    size = max(abs(ends[0]), 1.0)
    # Rounding of the losses over the step, and the third derivative's term.
    assert abs((ends[0] - ends[1]) / (2 * step) - slope) <= 1e-8 * size + 1e-5 * scale + 1e-7


def test_statistics_by_hand() -> None:
    logits = np.log([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6], [0.9, 0.05, 0.05]])
    from cotbal_kernels import reference

    made = reference.cross_entropy(
        logits.reshape(2, 2, 3),
        [[0, 1], [1, -100]],
        [0, 1],
        [2.0, 3.0],
    )
    nll = -np.log([0.5, 0.8, 0.2])
    assert made.loss == pytest.approx((2 * nll[0] + 2 * nll[1] + 3 * nll[2]) / 7)
    assert made.task_loss_sum == pytest.approx([nll[0] + nll[1], nll[2]])
    assert made.task_tokens.tolist() == [2, 1]
    assert made.task_correct.tolist() == [2, 0]
    assert made.sample_loss_sum == pytest.approx([nll[0] + nll[1], nll[2]])
    assert made.sample_tokens.tolist() == [2, 1]


def test_tied_logits_hit_the_first_class() -> None:
    from cotbal_kernels import reference

    assert reference.cross_entropy([[1.0, 1.0]], [0]).task_correct.tolist() == [1]
    assert reference.cross_entropy([[1.0, 1.0]], [1]).task_correct.tolist() == [0]
    assert F.one_hot(torch.tensor([1.0, 1.0]).argmax(), 2).tolist() == [1, 0]
