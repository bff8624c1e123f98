"""The plan: supervised rows with target, task, sample and weight, against a loop in plain Python."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.kernels.loss_bands import tokens_of
from support.kernels.loss_strategies import LossCase, loss_cases, made_case

import cotbal_kernels as ck
from cotbal_kernels import statistics


@given(case=loss_cases("logits", torch.float32))
def test_rows_are_the_supervised_tokens(case: LossCase) -> None:
    plan = ck.plan(case.labels, **case.plan_options, vocab_size=case.classes, capacity=case.capacity)
    tokens = tokens_of(case)
    count = len(tokens)
    assert plan.num_supervised == count
    assert plan.rows.shape == (count if case.capacity is None else case.capacity,)
    assert plan.rows[:count].tolist() == [
        int(np.ravel_multi_index(token.index, case.labels.shape)) for token in tokens
    ]
    assert plan.targets[:count].tolist() == [token.target for token in tokens]
    assert plan.tasks[:count].tolist() == [token.task for token in tokens]
    samples = plan.samples if plan.sample_ids is None else plan.sample_ids[plan.samples]
    assert samples[:count].tolist() == [token.sample for token in tokens]
    assert plan.max_target == max((token.target for token in tokens), default=-1)
    by_class = {"class_weights": case.class_weights}
    weights = plan.row_weights(**by_class)
    assert weights[:count].double().tolist() == pytest.approx([token.weight for token in tokens])
    assert plan.normalizer(**by_class).item() == pytest.approx(sum(token.weight for token in tokens))
    assert plan.normalizer().dtype == torch.float64
    assert plan.normalizer(normalize="tokens").item() == count
    assert sum(plan.task_tokens.tolist()) == count
    for name in ("rows", "targets", "tasks", "samples"):
        assert getattr(plan, name).dtype == torch.int64


@given(case=loss_cases("logits", torch.float32))
def test_padding_points_at_one_unsupervised_position_and_weighs_nothing(case: LossCase) -> None:
    plan = ck.plan(case.labels, **case.plan_options, capacity=case.labels.numel())
    padding = slice(plan.num_supervised, None)
    assert plan.padded
    assert (plan.targets[padding] == -1).all()
    assert (plan.row_weights()[padding] == 0).all()
    assert len(set(plan.rows[padding].tolist())) <= 1
    assert not set(plan.rows[padding].tolist()) & set(plan.rows[: plan.num_supervised].tolist())
    assert plan.normalizer(normalize="tokens").item() == plan.num_supervised


def test_tasks_per_sample_of_packed_rows() -> None:
    labels = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
    samples = torch.tensor([[0, 0, 1, 1], [2, 2, 2, -1]])
    labels[1, 3] = -100
    plan = ck.plan(labels, torch.tensor([1, 0, 2]), num_tasks=3, sample_ids=samples)
    assert plan.tasks.tolist() == [1, 1, 0, 0, 2, 2, 2]
    assert plan.num_samples == 3


def test_shift_stays_inside_each_row() -> None:
    labels = torch.tensor([[9, 1, 2], [9, 3, 4]])
    plan = ck.plan(labels, torch.tensor([[5, 0, 1], [5, 1, 0]]), num_tasks=2, shift=True)
    assert plan.rows.tolist() == [0, 1, 3, 4]
    assert plan.targets.tolist() == [1, 2, 3, 4]
    assert plan.tasks.tolist() == [0, 1, 1, 0]


def test_shifted_labels_equal_labels_with_shift() -> None:
    case = made_case("logits", torch.float32, 3, shape=(4, 7), tasks=3, per_token_tasks=True)
    moved = torch.full_like(case.labels, -100)
    moved[:, :-1] = case.labels[:, 1:]
    tasks = torch.zeros_like(case.task_ids)
    tasks[:, :-1] = case.task_ids[:, 1:]
    one = ck.plan(case.labels, case.task_ids, case.task_weights, shift=True)
    other = ck.plan(moved, tasks, case.task_weights)
    for name in ("rows", "targets", "tasks", "samples"):
        assert torch.equal(getattr(one, name), getattr(other, name))


def test_moving_a_plan() -> None:
    plan = ck.plan(
        torch.tensor([[1, -100]]), torch.tensor([0]), [2.0], token_weights=torch.tensor([[0.5, 1.0]])
    )
    assert plan.to("cpu") is plan
    moved = plan.to("meta")
    tensors = [moved.rows, moved.targets, moved.tasks, moved.samples, moved.token_weights, moved.task_weights]
    assert all(tensor.device.type == "meta" for tensor in tensors)
    assert (moved.num_supervised, moved.label_shape, moved.padded) == (1, (1, 2), False)


@pytest.mark.gpu
def test_pinned_plan_moves_without_waiting() -> None:
    plan = ck.plan(torch.tensor([[1, -100]]), torch.tensor([0]), [2.0]).pin_memory()
    assert plan.rows.is_pinned()
    assert plan.to("cuda", non_blocking=True).rows.tolist() == [0]


def test_task_weights_at_the_call_replace_those_of_the_plan() -> None:
    plan = ck.plan(torch.tensor([[1, 2], [3, -100]]), torch.tensor([0, 1]), [1.0, 10.0])
    assert plan.row_weights().tolist() == [1.0, 1.0, 10.0]
    assert plan.row_weights([2.0, 3.0]).tolist() == [2.0, 2.0, 3.0]
    assert plan.normalizer([2.0, 3.0]).item() == 7.0
    assert ck.plan(torch.tensor([1, 2])).row_weights().tolist() == [1.0, 1.0]


@given(seed=st.integers(0, 2**31))
def test_normalizers_of_parts_add_up(seed: int) -> None:
    case = made_case("logits", torch.float32, seed, shape=(4, 5), tasks=3, weighted_tokens=True, shift=True)
    whole = ck.plan(case.labels, **case.plan_options).normalizer().item()
    parts = 0.0
    for row in range(4):
        options = case.plan_options | {
            "task_ids": case.task_ids[row : row + 1],
            "token_weights": case.token_weights[row : row + 1],
        }
        parts += ck.plan(case.labels[row : row + 1], **options).normalizer().item()
    assert parts == pytest.approx(whole, rel=1e-12)


@given(seed=st.integers(0, 2**31), spread=st.sampled_from([1, 7, 100_000]))
def test_sums_are_made_over_the_samples_there_are(seed: int, spread: int) -> None:
    """Sample ids may be indices of a data set: the work follows their number, the results stand at their ids."""
    case = made_case("logits", torch.float32, seed, shape=(3, 8), packed=True, tasks=2)
    wide = case.with_(sample_ids=case.sample_ids * spread + spread - 1)
    near, far = (ck.plan(each.labels, **each.plan_options) for each in (case, wide))
    present = torch.unique(case.sample_ids[case.labels != -100])
    assert far.num_samples == (int(case.sample_ids.max()) + 1) * spread
    if far.sample_ids is not None:
        assert far.sample_ids.tolist() == (present * spread + spread - 1).tolist()
        assert int(far.samples.max()) < len(present)
    one = ck.cross_entropy(case.scores, plan=near, impl="torch")
    other = ck.cross_entropy(case.scores, plan=far, impl="torch")
    for name in ("sample_loss_sum", "sample_tokens"):
        dense, sparse = getattr(one, name), getattr(other, name)
        assert sparse.shape == (far.num_samples,)
        at = present * spread + spread - 1
        assert torch.equal(sparse[at], dense[present])
        assert int((sparse != 0).sum()) <= len(present)


def test_data_set_indices_cost_as_many_bins_as_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    bins = []
    plain = statistics.row_statistics

    def counted(*arguments: Any) -> Any:
        bins.append(inspect.signature(plain).bind(*arguments).arguments["num_samples"])
        return plain(*arguments)

    monkeypatch.setattr(statistics, "row_statistics", counted)
    labels, ids = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[7, 7, 599_999, 599_999]])
    out = ck.cross_entropy(torch.zeros(1, 4, 5), labels, sample_ids=ids, impl="torch")
    assert bins == [2]
    assert out.sample_tokens.shape == (600_000,)
    assert out.sample_tokens[[7, 599_999]].tolist() == [2, 2]
