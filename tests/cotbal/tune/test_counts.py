"""Counts of a step: the normalizer is the plans' weights added up, and 0 where there is nothing to learn from."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.models.tiny_models import random_batch, tiny_llama
from support.tune.step_oracle import gradients_of

import cotbal_kernels as ck
from cotbal.tune import balance
from cotbal.tune.counts import batch_plan, check_normalization, plan_counts, step_counts
from cotbal.tune.step import begin_step

TASKS = 3


@st.composite
def batches(draw: st.DrawFn) -> list[dict[str, torch.Tensor]]:
    """Up to three micro-batches, some of their tokens supervised, with or without weights for each token."""
    made = []
    weighted = draw(st.booleans())
    for _ in range(draw(st.integers(0, 3))):
        rows, length = draw(st.integers(1, 3)), draw(st.integers(1, 6))
        random = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
        labels = torch.randint(0, 9, (rows, length), generator=random)
        labels[torch.rand(rows, length, generator=random) < draw(st.floats(0, 1))] = -100
        batch = {"labels": labels, "loss_task_index": torch.randint(0, TASKS, (rows,), generator=random)}
        if weighted:
            batch["loss_token_weights"] = torch.rand(rows, length, generator=random)
        made.append(batch)
    return made


@given(batches(), st.lists(st.floats(0, 4), min_size=TASKS, max_size=TASKS))
def test_the_normalizer_is_that_of_the_plans_added_up(
    made: list[dict[str, torch.Tensor]], weights: list[float]
) -> None:
    table = torch.tensor(weights, dtype=torch.float64)
    counts = step_counts(made, TASKS)
    plans = [batch_plan(batch, TASKS) for batch in made]
    wanted = sum(float(plan.row_weights(table).double().sum()) for plan in plans)
    # The plans' row weights are float32: half a unit in the last place of each term, denormal ones too.
    assert float(counts.normalizer(table)) == pytest.approx(wanted, rel=2.0**-22, abs=2.0**-140)
    tokens = sum(int((plan.targets >= 0).sum()) for plan in plans)
    assert float(counts.normalizer(table, "tokens")) == tokens
    if tokens == 0:
        assert float(counts.normalizer(table)) == 0
    assert sum(int(plan_counts(plan).tokens.sum()) for plan in plans) == tokens


@pytest.mark.parametrize("normalize", ["weights", "tokens"])
@pytest.mark.parametrize("empty", ["no token", "no weight"])
def test_a_step_without_weight_has_loss_0_and_gradients_of_0(normalize: str, empty: str) -> None:
    model = tiny_llama()[0].train()
    made = [random_batch(model, batch_size=2, length=8, num_tasks=TASKS, seed=seed) for seed in (0, 1)]
    weights = [1.0] * TASKS if empty == "no token" else [0.0] * TASKS
    if empty == "no token":
        for batch in made:
            batch["labels"].fill_(-100)
    handle = balance(model, weights, normalize=normalize)
    begin_step(handle, made)
    assert handle.normalizer is not None
    tokens = sum(int((batch["labels"][:, 1:] >= 0).sum()) for batch in made)
    assert float(handle.normalizer) == (tokens if normalize == "tokens" else 0)
    for batch in made:
        loss = model(**batch).loss
        assert loss.item() == 0
        loss.backward()
    gradients = gradients_of(model)
    assert gradients
    assert all((value == 0).all() for value in gradients.values())


def test_other_modes_and_plans_are_refused() -> None:
    with pytest.raises(ValueError, match="'weights', 'tokens'"):
        check_normalization("samples")
    with pytest.raises(TypeError, match="loss_plan is a list"):
        batch_plan({"loss_plan": []}, TASKS)
    plan = ck.plan(
        torch.zeros(1, 4, dtype=torch.int64), num_tasks=2, task_ids=torch.zeros(1, dtype=torch.int64)
    )
    with pytest.raises(ValueError, match="made for 2 tasks"):
        batch_plan({"loss_plan": plan}, TASKS)
    with pytest.raises(ValueError, match="neither loss_plan nor labels"):
        batch_plan({"input_ids": plan.rows}, TASKS)
