"""Alignments of the tasks' gradients with a validation set's: against autograd on real models, and in trainings."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from support.models.tiny_families import tiny_family
from support.models.tiny_models import random_batch, tiny_llama, tiny_llava
from support.tune.recorded_steps import MicroBatches, single, training_arguments
from support.tune.step_oracle import to_double
from torch import Tensor

from cotbal import strategies
from cotbal.tune import TaskBalancedTrainer, balance, begin_step, end_step
from cotbal.tune.validation import ValidationDraws, validation_draws

TASKS = ("caption", "vqa", "ocr")
# Gemma 2 caps its logits, and Granite scales them.
FAMILIES = {
    "llama": lambda: tiny_llama()[0],
    "llava": lambda: tiny_llava()[0],
    "gemma2": lambda: tiny_family("gemma2"),
    "granite": lambda: tiny_family("granite"),
}


def _batches(model: Any, count: int, first: int = 0) -> list[dict[str, Any]]:
    made = []
    for number in range(first, first + count):
        batch = random_batch(model, batch_size=2, seed=number, supervised=0.4)
        dtype = next(model.parameters()).dtype
        batch = {name: v.to(dtype) if v.is_floating_point() else v for name, v in batch.items()}
        batch["loss_task_index"] = (torch.arange(2) + number) % len(TASKS)
        made.append(batch)
    return made


def _token_losses(model: Any, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Losses of the supervised tokens and their tasks, from the stock model's full logits."""
    inputs = {name: v for name, v in batch.items() if name not in ("labels", "loss_task_index")}
    logits = model(**inputs).logits[:, :-1].double()
    labels = batch["labels"][:, 1:]
    there = labels != -100
    losses = torch.nn.functional.cross_entropy(logits[there], labels[there], reduction="none")
    return losses, batch["loss_task_index"][:, None].expand_as(labels)[there]


def _autograd(model: Any, training: list[dict[str, Any]], validation: list[dict[str, Any]]) -> Tensor:
    """By its definition: each task's summed gradient of the head against the validation's, by backward passes."""
    head = model.get_output_embeddings().weight
    found = [_token_losses(model, batch) for batch in validation]
    losses, tasks = (torch.cat(parts) for parts in zip(*found, strict=True))
    means = [losses[tasks == k].mean() for k in range(len(TASKS)) if (tasks == k).any()]
    (wanted,) = torch.autograd.grad(torch.stack(means).mean(), head)
    sums = torch.zeros(len(TASKS), dtype=torch.float64)
    for batch in training:
        losses, tasks = _token_losses(model, batch)
        for k in range(len(TASKS)):
            if (tasks == k).any():
                (gradient,) = torch.autograd.grad(losses[tasks == k].sum(), head, retain_graph=True)
                sums[k] += (gradient * wanted).sum()
    return sums


@pytest.mark.parametrize("family", FAMILIES)
def test_alignments_are_autograds_over_micro_batches(family: str) -> None:
    model = to_double(FAMILIES[family]()).train()
    if model.config.tie_word_embeddings:
        # The definition is of the head alone: autograd must not follow the input embeddings into it.
        model.get_output_embeddings().weight = torch.nn.Parameter(
            model.get_output_embeddings().weight.detach().clone()
        )
    training, validation = _batches(model, 3), _batches(model, 2, first=10)
    wanted = _autograd(model, training, validation)
    handle = balance(model, [0.5, 2.0, 0.1])
    strategy = strategies.get("fastmix", 3)
    begin_step(handle, training, strategy=strategy)
    handle.direction = handle.head_direction(model, validation)
    for batch in training:
        model(**batch).loss.backward()
    found = handle.alignments()
    assert found.tolist() == pytest.approx(wanted.tolist(), rel=1e-9, abs=1e-12)
    end_step(handle, strategy=strategy)
    assert handle.direction is None
    assert strategy.logits.abs().sum() > 0  # type: ignore[union-attr]
    assert model.training


def test_a_search_leaves_gradients_random_state_and_statistics_alone() -> None:
    model = tiny_llama(attention_dropout=0.5)[0].train()
    handle = balance(model, [1.0] * 3)
    batch = _batches(model, 1)[0]
    model(**batch).loss.backward()
    before = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    random, sums = torch.get_rng_state(), handle.statistics().loss.clone()
    one = handle.head_direction(model, _batches(model, 1, first=5))
    two = handle.head_direction(model, _batches(model, 1, first=5))
    assert torch.equal(one.weight, two.weight)  # no dropout
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(handle.statistics().loss, sums)
    after = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    for old, new in zip(before, after, strict=True):
        assert torch.equal(old, new)


def test_a_validation_set_without_answers_is_refused() -> None:
    model = tiny_llama()[0].train()
    handle = balance(model, [1.0] * 3)
    (batch,) = _batches(model, 1)
    batch["labels"] = torch.full_like(batch["labels"], -100)
    with pytest.raises(ValueError, match="no supervised token"):
        handle.head_direction(model, [batch])


def _trainer(folder: Path, resume: str | None = None, **arguments: Any) -> TaskBalancedTrainer:
    model = tiny_llama(attention_dropout=0.1)[0]
    trainer = TaskBalancedTrainer(
        model,
        training_arguments(folder, optim="adamw_torch", learning_rate=1e-3, max_steps=8, **arguments),
        tasks=TASKS,
        strategy=strategies.get("fastmix", 3, learning_rate=0.3, every=2, samples=3),
        train_dataset=MicroBatches(_batches(model, 8)),
        eval_dataset=MicroBatches(_batches(model, 5, first=20)),
        data_collator=single,
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def test_a_training_resumed_at_any_step_is_the_same_bit_for_bit(tmp_path: Path) -> None:
    whole = _trainer(tmp_path / "whole", save_strategy="steps", save_steps=1)
    logs = [entry["weight/caption"] for entry in whole.state.log_history if "weight/caption" in entry]
    assert len({round(value, 12) for value in logs}) > 3  # the weights have moved
    state = copy.deepcopy(whole.model.state_dict())
    for step in range(1, 8):
        again = _trainer(tmp_path / "again", str(tmp_path / "whole" / f"checkpoint-{step}"))
        for name, value in again.model.state_dict().items():
            assert torch.equal(value, state[name]), (step, name)
        for name, value in again.strategy.state_dict().items():
            assert torch.equal(value, whole.strategy.state_dict()[name]), (step, name)


def test_without_a_validation_set_it_is_refused(tmp_path: Path) -> None:
    model = tiny_llama()[0]
    with pytest.raises(ValueError, match=r"'fastmix' aligns gradients .* give eval_dataset"):
        TaskBalancedTrainer(
            model,
            training_arguments(tmp_path),
            tasks=TASKS,
            strategy="fastmix",
            train_dataset=MicroBatches(_batches(model, 2)),
            data_collator=single,
        )


def test_draws_go_round_the_validation_set() -> None:
    draws = validation_draws(strategies.get("fastmix", 2, every=5, samples=3), list("abcdefgh"), seed=1)
    assert isinstance(draws, ValidationDraws)
    assert [step for step in range(16) if draws.due(step)] == [5, 10, 15]
    seen = [sample for step in (5, 10, 15) for sample in draws.samples(step)]
    assert sorted(seen[:8]) == list("abcdefgh")
    assert seen[8] == seen[0]
    assert validation_draws(strategies.get("ew", 2), None, seed=1) is None


@pytest.mark.parametrize(("given", "said"), [({"a": [1]}, "is a dict"), ([], "is empty")])
def test_unfit_validation_sets_are_refused(given: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        validation_draws(strategies.get("fastmix", 2), given, seed=1)
