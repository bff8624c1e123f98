"""The fused loss inside the model: equal to the stock loss with equal weights, to the oracle with others."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
from types import MethodType

import pytest
import torch
from support.models.tiny_models import random_batch, tiny_llama, tiny_llava, tiny_qwen2_5_vl
from support.tune.step_oracle import gradients_of, largest_deviation, oracle_step, to_double
from torch import nn
from transformers import LlamaForCausalLM

import cotbal
import cotbal_kernels as ck
from cotbal.strategies import Fixed
from cotbal.tune import balance, handle_of
from cotbal.tune.counts import step_counts

MODELS = {"llava": tiny_llava, "qwen2_5_vl": tiny_qwen2_5_vl, "llama": tiny_llama}
families = pytest.mark.parametrize("family", MODELS)


def make(family, dtype=torch.float32, **options):
    model = MODELS[family](**options)[0]
    return (to_double(model) if dtype == torch.float64 else model).train()


def batch_for(model, **options):
    dtype = next(model.parameters()).dtype
    batch = random_batch(model, **{"batch_size": 3, "num_tasks": 3, **options})
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in batch.items()}


def stock_inputs(batch):
    return {name: value for name, value in batch.items() if not name.startswith("loss_")}


def backward(model, batch):
    model.zero_grad(set_to_none=True)
    loss = model(**batch).loss
    loss.backward()
    return loss.item(), gradients_of(model)


@families
def test_equal_weights_are_the_stock_loss(family):
    model = make(family)
    batch = batch_for(model)
    loss, gradients = backward(model, stock_inputs(batch))
    balance(model, [1.0, 1.0, 1.0])
    ours, found = backward(model, batch)
    assert ours == pytest.approx(loss, rel=1e-6)
    assert largest_deviation(found, gradients) < 1e-5


@families
@pytest.mark.parametrize("normalize", ["weights", "tokens"])
def test_unequal_weights_are_the_oracle(family, normalize):
    model = make(family, torch.float64)
    batch = batch_for(model)
    batch["loss_token_weights"] = torch.rand(
        batch["labels"].shape, generator=torch.Generator().manual_seed(1)
    )
    weights = [0.5, 2.0, 0.1]
    loss, gradients = oracle_step(model, [batch], weights, normalize=normalize)
    balance(model, weights, normalize=normalize)
    ours, found = backward(model, batch)
    assert ours == pytest.approx(loss, rel=1e-10)
    assert largest_deviation(found, gradients) < 1e-10


@families
def test_a_plan_from_the_collator_changes_nothing(family):
    model = make(family)
    batch = batch_for(model)
    balance(model, [0.5, 2.0, 0.1])
    plain = backward(model, batch)
    plan = ck.plan(batch["labels"], batch.pop("loss_task_index"), num_tasks=3, shift=True)
    planned = backward(model, {**batch, "loss_plan": plan})
    assert planned[0] == plain[0]
    assert largest_deviation(planned[1], plain[1]) == 0.0


def test_task_of_each_token():
    model = make("llama", torch.float64)
    batch = batch_for(model)
    batch["loss_task_index"] = torch.randint(0, 3, batch["labels"].shape)
    loss, gradients = oracle_step(model, [batch], [0.5, 2.0, 0.1])
    balance(model, [0.5, 2.0, 0.1])
    ours, found = backward(model, batch)
    assert ours == pytest.approx(loss, rel=1e-10)
    assert largest_deviation(found, gradients) < 1e-10


def test_already_shifted_labels():
    model = make("llama", torch.float64)
    batch = batch_for(model)
    balance(model, [0.5, 2.0, 0.1])
    expected = backward(model, batch)
    shifted = torch.nn.functional.pad(batch["labels"], (0, 1), value=-100)[:, 1:]
    found = backward(model, {**batch, "shift_labels": shifted})
    assert found[0] == pytest.approx(expected[0], rel=1e-12)
    assert largest_deviation(found[1], expected[1]) < 1e-12


def test_normalizer_replaces_the_batchs_own_one():
    model = make("llama", torch.float64)
    batch = batch_for(model)
    handle = balance(model, [0.5, 2.0, 0.1])
    loss, gradients = backward(model, batch)
    own = step_counts([batch], 3).normalizer(handle.weights)
    handle.normalizer = 2.5 * own
    scaled, found = backward(model, batch)
    assert 2.5 * scaled == pytest.approx(loss, rel=1e-12)
    assert largest_deviation({name: 2.5 * value for name, value in found.items()}, gradients) < 1e-12


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
def test_a_batch_without_supervision_has_zero_gradients(weights):
    model = make("llama")
    batch = batch_for(model)
    if any(weights):
        batch["labels"].fill_(-100)
    balance(model, weights)
    loss, gradients = backward(model, batch)
    assert loss == 0.0
    assert {name for name, _ in model.named_parameters()} == set(gradients)
    assert all((value == 0).all() for value in gradients.values())


def test_statistics_add_up_over_passes():
    model = make("llama")
    handle = balance(model, [1.0, 3.0, 0.0])
    batches = [batch_for(model, seed=seed) for seed in (0, 1)]
    expected = torch.zeros(3, dtype=torch.float64)
    for batch in batches:
        model(**batch)
        expected += handle.last.task_loss_sum
        assert not handle.last.loss.requires_grad
    sums = handle.statistics()
    assert handle.passes == 2
    torch.testing.assert_close(sums.loss, expected)
    for task in range(3):
        rows = [batch["labels"][task, 1:] for batch in batches]
        assert sums.tokens[task] == sum(int((row != -100).sum()) for row in rows)
    handle.reset_statistics()
    assert handle.statistics().tokens.tolist() == [0, 0, 0]


@families
def test_evaluation_and_generation_are_untouched(family):
    model = make(family).eval()
    batch = batch_for(model)
    with torch.no_grad():
        before = model(**stock_inputs(batch))
    # generate() takes prompts: one image each, the same length for all rows.
    prompt = {name: value for name, value in stock_inputs(batch).items() if name != "labels"}
    settings = {"max_new_tokens": 3, "do_sample": False}
    text = model.generate(**prompt, **settings)
    signature = inspect.signature(model.forward)
    handle = balance(model, [1.0, 2.0, 3.0])
    for _ in range(2):
        with torch.no_grad():
            after = model(**batch)
        assert torch.equal(after.loss, before.loss)
        assert torch.equal(after.logits, before.logits)
        assert torch.equal(model.generate(**prompt, **settings), text)
        model.train()(**batch)
        model.eval()
    assert list(signature.parameters) == [
        name for name in inspect.signature(model.forward).parameters if not name.startswith("loss_")
    ]
    handle.remove()
    assert inspect.signature(model.forward) == signature
    assert torch.equal(model(**stock_inputs(batch)).loss, before.loss)
    assert not [name for name in model.__dict__ if "cotbal" in name or name in ("forward", "__reduce_ex__")]
    assert not hasattr(model.lm_head, "_cotbal_balance")


def copies_of(model):
    stored = io.BytesIO()
    torch.save(model, stored)
    stored.seek(0)
    return {
        "deepcopy": copy.deepcopy(model),
        "pickle": pickle.loads(pickle.dumps(model)),
        "torch.save": torch.load(stored, weights_only=False),
    }


@families
def test_copies_are_balanced_and_independent(family):
    model = make(family)
    handle = balance(model, [1.0, 1.0, 1.0])
    copies = copies_of(model)
    batch = batch_for(model)
    plain = model(**batch).loss.item()
    for kind, twin in copies.items():
        assert twin(**batch).loss.item() == plain, kind
        handle_of(twin).weights = [5.0, 1.0, 0.1]
        assert twin(**batch).loss.item() != plain, kind
        assert handle_of(twin).model is twin, kind
        assert model(**batch).loss.item() == plain, kind
        # Gradients land in the copy.
        twin(**batch).loss.backward()
        assert all(p.grad is None for p in model.parameters()), kind
        handle_of(twin).remove()
        assert handle_of(twin) is None
        twin(**stock_inputs(batch))
    assert handle_of(model) is handle
    deep = copy.deepcopy(model)  # after a forward too
    assert deep(**batch).loss.item() == plain


def test_saved_weights_are_the_stock_models(tmp_path):
    model = make("llama")
    keys = set(model.state_dict())
    balance(model, [1.0, 2.0, 3.0])
    model(**batch_for(model))
    assert set(model.state_dict()) == keys
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert handle_of(loaded) is None
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])


def test_remove_refuses_when_wrapped_over():
    model = make("llama")
    handle = balance(model, [1.0])
    ours = model.forward
    model.forward = MethodType(lambda self, **inputs: ours(**inputs), model)
    with pytest.raises(ValueError, match="wrapped or replaced after balance"):
        handle.remove()
    model.forward = ours
    handle.remove()


def test_an_earlier_forward_is_kept_and_put_back():
    model = make("llama")
    calls = []
    stock = model.forward

    def counted(self, **inputs):
        calls.append(sorted(inputs))
        return stock(**inputs)

    model.forward = MethodType(counted, model)
    earlier = model.forward
    handle = balance(model, [1.0, 1.0, 1.0])
    model(**batch_for(model))
    assert calls
    assert not any(name.startswith("loss_") for call in calls for name in call)
    handle.remove()
    assert model.__dict__["forward"] == earlier


def test_a_failing_forward_leaves_the_model_as_it_was():
    model = make("llama")
    balance(model, [1.0, 1.0, 1.0])
    batch = batch_for(model)
    model(**batch)
    wrong = {**batch, "input_ids": torch.full_like(batch["input_ids"], 10**6)}
    with pytest.raises(IndexError):
        model(**wrong)
    assert "forward" not in model.lm_head.__dict__
    assert "_loss_function" not in model.__dict__


def test_the_probe_draws_no_random_numbers():
    model = make("llama", attention_dropout=0.5)
    batch = batch_for(model)
    balance(model, [1.0, 1.0, 1.0])
    losses = []
    for _ in range(2):  # the first forward probes, the second does not
        torch.manual_seed(3)
        losses.append(model(**batch).loss.item())
        assert model.model.layers[0].self_attn.training
    assert losses[0] == losses[1]


def test_positional_inputs():
    model = make("llama")
    batch = batch_for(model)
    balance(model, [1.0, 2.0, 3.0])
    named = model(**batch).loss
    ids, mask = batch.pop("input_ids"), batch.pop("attention_mask")
    assert torch.equal(model(ids, mask, **batch).loss, named)


def test_bad_calls_are_refused_by_name():
    model = make("llama")
    for weights, message in [
        ([1.0, -1.0], r"weights\[1\] is -1.0"),
        ([float("nan")], r"weights\[0\] is nan"),
        ([], "weights has shape"),
        ([[1.0]], "weights has shape"),
    ]:
        with pytest.raises(ValueError, match=message):
            balance(model, weights)
    with pytest.raises(ValueError, match="normalize is 'sum'"):
        balance(model, [1.0], normalize="sum")
    with pytest.raises(ValueError, match="no output head"):
        balance(nn.Linear(2, 2), [1.0])
    with pytest.raises(ValueError, match="DataParallel"):
        balance(nn.DataParallel(model), [1.0])
    handle = balance(model, [1.0, 2.0])
    with pytest.raises(ValueError, match="already balanced"):
        balance(model, [1.0])
    with pytest.raises(ValueError, match="2 weights are needed"):
        handle.weights = [1.0]
    with pytest.raises(ValueError, match="DataParallel"):
        model._replicate_for_data_parallel()
    batch = batch_for(model)
    with pytest.raises(ValueError, match="no loss_task_index"):
        model(**stock_inputs(batch))
    with pytest.raises(ValueError, match="made for 3 tasks"):
        model(**batch, loss_plan=ck.plan(batch["labels"], batch["loss_task_index"], num_tasks=3, shift=True))
    short = ck.plan(batch["labels"][:1], torch.tensor([0]), num_tasks=2, shift=True)
    with pytest.raises(ValueError, match="labels of shape"):
        model(**batch, loss_plan=short)


def test_task_weights_are_taken_as_they_are():
    """Their values are read-only, which must not give a warning."""
    weights = cotbal.combine_terms([0.1, 0.2], [0.2, 0.1], [0.5, 0.8], tasks=["caption", "vqa"])
    expected = list(weights.values)
    assert balance(make("llama"), weights).weights.tolist() == expected
    assert Fixed(2, weights.values).weights.tolist() == expected


class NamelessHead(LlamaForCausalLM):
    """A family that does not say which module is its output head."""

    def get_output_embeddings(self):
        return None


@pytest.mark.parametrize("given", ["module", "name"])
def test_a_head_is_passed_where_the_family_names_none(given):
    model = tiny_llama()[0].train()
    batch = random_batch(model, batch_size=3, num_tasks=3)
    reference = copy.deepcopy(model)
    balance(reference, [0.5, 2.0, 0.1])
    model.__class__ = NamelessHead
    with pytest.raises(ValueError, match=r"If it has one, pass it: balance\(model, weights, head="):
        balance(model, [0.5, 2.0, 0.1])
    with pytest.raises(ValueError, match=r"head is a Linear, which is no module of this .*lm_head"):
        balance(model, [0.5, 2.0, 0.1], head=torch.nn.Linear(2, 2))
    balance(model, [0.5, 2.0, 0.1], head=model.lm_head if given == "module" else "lm_head")
    twin = copy.deepcopy(model)
    for either in (model, twin):
        assert either(**batch).loss.item() == reference(**batch).loss.item()
