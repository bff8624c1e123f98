"""What must not change the result, and how what does must: properties over drawn calls."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.kernels.loss_contract import Outcome, poisoned_memory, run
from support.kernels.loss_strategies import FUNCTIONS, Function, LossCase, loss_cases, made_case

import cotbal_kernels as ck

pytestmark = pytest.mark.parametrize("function", FUNCTIONS)


def everything(made: Outcome) -> list[torch.Tensor]:
    parts = (*made.output, made.grad_scores, made.grad_weight, made.grad_bias)
    return [part.detach() for part in parts if part is not None]


def assert_equal(one: Outcome, other: Outcome) -> None:
    for left, right in zip(everything(one), everything(other), strict=True):
        assert torch.equal(left, right)


def assert_close(one: Outcome, other: Outcome) -> None:
    for left, right in zip(everything(one), everything(other), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-10)


@given(data=st.data())
def test_a_plan_made_beforehand_changes_nothing(function: Function, data: st.DataObject) -> None:
    case = data.draw(loss_cases(function, torch.float32)).with_(planned=False, capacity=None)
    with poisoned_memory():
        assert_equal(run(case, "torch"), run(case.with_(planned=True), "torch"))


@given(data=st.data())
def test_padding_a_plan_changes_nothing(function: Function, data: st.DataObject) -> None:
    case = data.draw(loss_cases(function, torch.float64)).with_(planned=True, capacity=None)
    with poisoned_memory():
        assert_close(run(case, "torch"), run(case.with_(capacity=case.labels.numel()), "torch"))


@given(data=st.data(), factor=st.sampled_from([0.125, 3.0]))
def test_scaling_all_weights_cancels_in_a_mean(
    function: Function, data: st.DataObject, factor: float
) -> None:
    case = data.draw(loss_cases(function, torch.float64)).with_(reduction="mean", normalizer=None)
    case = case.with_(upstream=torch.ones(()))
    if case.task_weights is None:
        case = case.with_(task_weights=torch.ones(1, dtype=torch.float64))
    assert_close(run(case, "torch"), run(case.with_(task_weights=factor * case.task_weights), "torch"))


@given(seed=st.integers(0, 2**31))
def test_order_of_samples_does_not_matter(function: Function, seed: int) -> None:
    case = made_case(function, torch.float64, seed, shape=(4, 5), tasks=3, shift=True)
    case = case.with_(upstream=torch.ones(()))
    order = torch.randperm(4, generator=torch.Generator().manual_seed(seed))
    moved = case.with_(scores=case.scores[order], labels=case.labels[order], task_ids=case.task_ids[order])
    one, other = run(case, "torch"), run(moved, "torch")
    torch.testing.assert_close(one.output.loss, other.output.loss)
    torch.testing.assert_close(one.output.task_loss_sum, other.output.task_loss_sum)
    torch.testing.assert_close(one.output.sample_loss_sum[order], other.output.sample_loss_sum)
    torch.testing.assert_close(one.grad_scores[order], other.grad_scores)


@given(seed=st.integers(0, 2**31))
def test_order_of_tasks_does_not_matter(function: Function, seed: int) -> None:
    case = made_case(function, torch.float64, seed, shape=(4, 5), tasks=3)
    order = torch.randperm(3, generator=torch.Generator().manual_seed(seed))
    renamed = case.with_(task_ids=order.argsort()[case.task_ids], task_weights=case.task_weights[order])
    one, other = run(case, "torch"), run(renamed, "torch")
    torch.testing.assert_close(one.output.loss, other.output.loss)
    assert torch.equal(one.output.task_loss_sum[order], other.output.task_loss_sum)
    assert torch.equal(one.output.task_tokens[order], other.output.task_tokens)
    assert torch.equal(one.grad_scores, other.grad_scores)


@given(seed=st.integers(0, 2**31))
def test_shift_equals_shifted_labels(function: Function, seed: int) -> None:
    case = made_case(function, torch.float64, seed, shape=(3, 6), shift=True)
    moved = torch.full_like(case.labels, -100)
    moved[:, :-1] = case.labels[:, 1:]
    assert_equal(run(case, "torch"), run(case.with_(labels=moved, shift=False), "torch"))


@given(seed=st.integers(0, 2**31))
def test_rows_equal_one_flat_row(function: Function, seed: int) -> None:
    case = made_case(function, torch.float64, seed, shape=(3, 6), per_token_tasks=True, reduction="none")
    flat = case.with_(
        scores=case.scores.flatten(0, 1),
        labels=case.labels.flatten(),
        task_ids=case.task_ids.flatten(),
        upstream=case.upstream.flatten(),
    )
    one, other = run(case, "torch"), run(flat, "torch")
    assert torch.equal(one.output.loss.flatten(), other.output.loss)
    assert torch.equal(one.grad_scores.flatten(0, 1), other.grad_scores)
    assert other.output.sample_tokens.tolist() == [int(one.output.sample_tokens.sum())]


@given(data=st.data())
def test_none_sums_to_sum_and_mean(function: Function, data: st.DataObject) -> None:
    case = data.draw(loss_cases(function, torch.float64)).with_(normalizer=None, token_gradients=False)
    by_token = run(case.with_(reduction="none", upstream=torch.ones(case.labels.shape)), "torch")
    summed = run(case.with_(reduction="sum", upstream=torch.ones(())), "torch")
    mean = run(case.with_(reduction="mean", upstream=torch.ones(())), "torch")
    plan = ck.plan(case.labels, **case.plan_options)
    normalizer = plan.normalizer(class_weights=case.class_weights).item() or 1.0
    torch.testing.assert_close(by_token.output.loss.sum(), summed.output.loss)
    torch.testing.assert_close(by_token.grad_scores, summed.grad_scores)
    torch.testing.assert_close(mean.output.loss * normalizer, summed.output.loss)
    torch.testing.assert_close(mean.grad_scores * normalizer, summed.grad_scores)


def test_nothing_given_is_plain_cross_entropy(function: Function) -> None:
    case: LossCase = made_case(function, torch.float64, 1, tasks=1)
    logits = case.scores if case.weight is None else case.scores @ case.weight.T
    plain = torch.nn.functional.cross_entropy(logits.flatten(0, 1), case.labels.flatten())
    made = run(case, "torch").output
    torch.testing.assert_close(made.loss.detach(), plain)
    torch.testing.assert_close(made.task_loss, plain.unsqueeze(0))
