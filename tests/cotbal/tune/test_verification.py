"""The self-check passes where the weights act, and fails for each way in which they might not."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from support.models.tiny_families import family_batch, tiny_family
from support.models.tiny_models import random_batch, tiny_llama, tiny_llava, tiny_qwen2_5_vl

import cotbal_kernels as ck
from cotbal.tune import balance, verify
from cotbal.tune import head as head_module

MODELS = {"llava": tiny_llava, "qwen2_5_vl": tiny_qwen2_5_vl, "llama": tiny_llama}
WEIGHTS = [0.5, 2.0, 0.1]


def prepared(family="llama", **options):
    model = MODELS[family](**options)[0].train()
    return model, random_batch(model, batch_size=3, num_tasks=3)


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("normalize", ["weights", "tokens"])
def test_a_balanced_model_passes_and_is_left_as_it_was(family, normalize):
    model, batch = prepared(family, attention_dropout=0.3)
    handle = balance(model, WEIGHTS, normalize=normalize)
    handle.normalizer = torch.tensor(3.0)
    model(**batch).loss.backward()
    model.lm_head.eval()
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    state = (handle.passes, handle.last, handle.weights.tolist(), float(handle.normalizer))
    random_state = torch.get_rng_state()
    found = handle.verify(batch)
    assert found.passed, str(found)
    assert found.normalizers == (pytest.approx(found.expected_normalizer),)
    assert found.task_share > 0
    assert "act by the formula" in str(found)
    assert state == (handle.passes, handle.last, handle.weights.tolist(), float(handle.normalizer))
    assert torch.equal(random_state, torch.get_rng_state())
    assert model.training
    assert not model.lm_head.training
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        assert (parameter.grad is None) == (gradient is None)
        assert gradient is None or torch.equal(parameter.grad, gradient)


def test_other_precisions_and_heads_pass():
    model, batch = prepared()
    handle = balance(model.double(), WEIGHTS)
    assert handle.verify(batch).tolerance == 1e-8
    assert handle.verify(batch).gradient_deviation < 1e-12
    batch["loss_token_weights"] = torch.rand(batch["labels"].shape)
    assert handle.verify(batch).passed
    plan = ck.plan(
        batch["labels"],
        batch["loss_task_index"],
        num_tasks=3,
        shift=True,
        token_weights=batch.pop("loss_token_weights"),
    )
    assert handle.verify({**batch, "loss_plan": plan}).passed
    model, batch = prepared()
    handle = balance(model, WEIGHTS)
    with torch.autocast("cpu", torch.bfloat16):
        found = handle.verify(batch)
    assert found.passed, str(found)
    assert found.tolerance == 0.05
    model = tiny_family("granite").train()
    assert verify(balance(model, WEIGHTS), family_batch("granite")).passed


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_lora_head_passes():
    model, batch = prepared()
    model = get_peft_model(model, LoraConfig(target_modules=["lm_head"], init_lora_weights=False))
    assert balance(model, WEIGHTS).verify(batch, model=model).passed


def test_the_task_to_double():
    model, batch = prepared()
    handle = balance(model, [0.0, 1.0, 2.0])
    assert handle.verify(batch, task=2).task == 2
    assert handle.verify(batch).task != 0
    with pytest.raises(ValueError, match="task 0 has"):
        handle.verify(batch, task=0)
    with pytest.raises(ValueError, match="task 7 has no"):
        handle.verify(batch, task=7)
    batch["labels"].fill_(-100)
    with pytest.raises(ValueError, match="a task with tokens and a weight above 0"):
        handle.verify(batch)


def ignoring_weights(original):
    def loss(hidden, weight, labels, tasks, weights, **options):
        return original(hidden, weight, labels, tasks, torch.ones_like(weights), **options)

    return loss


def ignoring_the_normalizer(original):
    return lambda *args, **options: original(*args, **{**options, "normalizer": None})


def ignoring_the_transform(original):
    return lambda *args, **options: original(*args, **{**options, "logit_scale": 1.0})


@pytest.mark.parametrize(
    ("planted", "family"),
    [(ignoring_weights, "llama"), (ignoring_the_normalizer, "llama"), (ignoring_the_transform, "granite")],
)
def test_planted_bugs_are_seen(monkeypatch, planted, family):
    if family == "granite":
        model, batch = tiny_family("granite").train(), family_batch("granite", batch_size=3)
    else:
        model, batch = prepared(family)
    handle = balance(model, WEIGHTS)
    assert handle.verify(batch).passed
    monkeypatch.setattr(head_module.ck, "linear_cross_entropy", planted(head_module.ck.linear_cross_entropy))
    found = handle.verify(batch)
    assert not found.passed
    assert "DO NOT ACT" in str(found)
