"""Heads with adapters: LoRA, DoRA, modules_to_save, before and after balance; the others are refused."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from support.models.tiny_models import random_batch, tiny_llama, tiny_llava
from support.tune.step_oracle import gradients_of, largest_deviation, oracle_step, to_double
from torch import nn

from cotbal.tune import balance, handle_of
from cotbal.tune.effective_weight import head_product

# peft 0.21 still asks transformers by the old name.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*lora_bias=True.*has no bias"),
    pytest.mark.filterwarnings("ignore:.*tie_word_embeddings.*"),
]
WEIGHTS = [0.5, 2.0, 0.1]
BODY = ["q_proj", "up_proj"]
ADAPTERS = {
    "lora body": {"target_modules": BODY},
    "lora head": {"target_modules": [*BODY, "lm_head"]},
    "lora head with bias": {"target_modules": ["lm_head"], "lora_bias": True},
    "rslora head": {"target_modules": ["lm_head"], "use_rslora": True},
    "dora body": {"target_modules": BODY, "use_dora": True},
    "dora head": {"target_modules": [*BODY, "lm_head"], "use_dora": True},
    "modules to save": {"target_modules": BODY, "modules_to_save": ["lm_head"]},
}
adapters = pytest.mark.parametrize("adapter", ADAPTERS)


def config(adapter, **options):
    # Random B as well: with the usual zeros the adapter would add nothing to the logits.
    return LoraConfig(
        r=3, lora_alpha=5, init_lora_weights=False, task_type="CAUSAL_LM", **{**ADAPTERS[adapter], **options}
    )


def make(maker=tiny_llama, **options):
    return to_double(maker(**options)[0])


def with_adapter(model, adapter, **options):
    torch.manual_seed(4)
    return get_peft_model(model, config(adapter, **options), autocast_adapter_dtype=False).double().train()


def batch_for(model, seed=0):
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    batch = random_batch(base, batch_size=3, num_tasks=3, seed=seed)
    return {k: v.double() if v.is_floating_point() else v for k, v in batch.items()}


def check_against_oracle(model, stock):
    batch = batch_for(stock)
    loss, gradients = oracle_step(stock, [batch], WEIGHTS)
    model.zero_grad()
    out = model(**batch).loss
    out.backward()
    assert out.item() == pytest.approx(loss, rel=1e-10)
    assert largest_deviation(gradients_of(model), gradients) < 1e-10


@adapters
@pytest.mark.parametrize("balanced_first", [False, True])
@pytest.mark.parametrize("maker", [tiny_llama, tiny_llava])
def test_adapters_are_exact(adapter, balanced_first, maker):
    stock = with_adapter(make(maker), adapter)
    model = make(maker)
    if balanced_first:
        balance(model, WEIGHTS)
    model = with_adapter(model, adapter)
    if not balanced_first:
        balance(model, WEIGHTS)
    check_against_oracle(model, stock)


@adapters
def test_adapters_added_between_two_steps(adapter):
    model = make().train()
    balance(model, WEIGHTS)
    model(**batch_for(model)).loss.backward()
    stock = with_adapter(make(), adapter)
    check_against_oracle(with_adapter(model, adapter), stock)


@pytest.mark.parametrize("adapter", ["lora head", "dora head"])
def test_adapter_dropout_is_the_stock_layers(adapter):
    """The same dropout mask gives the same logits as peft's own layer: W x + ... on the dropped input."""
    model = with_adapter(make(), adapter, lora_dropout=0.5)
    head = model.get_base_model().lm_head
    hidden = torch.randn(2, 5, 32, dtype=torch.float64)
    torch.manual_seed(7)
    expected = head(hidden)
    torch.manual_seed(7)
    product = head_product(head, hidden)
    found = product.hidden @ product.weight.T
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(found, head.eval()(hidden))


def test_two_adapters_disabled_and_merged_ones():
    def build():
        model = with_adapter(make(), "lora head")
        torch.manual_seed(5)
        model.add_adapter("second", config("lora head"))
        model.base_model.set_adapter(["default", "second"])
        return model.double().train()

    model = build()
    balance(model, WEIGHTS)
    check_against_oracle(model, build())
    stock = build()
    with model.disable_adapter(), stock.disable_adapter():
        batch = batch_for(stock)
        inputs = {k: v for k, v in batch.items() if k != "loss_task_index"}
        handle_of(model).weights = [1.0, 1.0, 1.0]
        assert model(**batch).loss.item() == pytest.approx(stock(**inputs).loss.item(), rel=1e-6)
    model.merge_adapter()
    assert model(**batch).loss.item() == pytest.approx(stock(**inputs).loss.item(), rel=1e-6)


@pytest.mark.parametrize("adapter", [None, "lora body", "lora head"])
def test_tied_embeddings(adapter):
    def build():
        model = make(tie_word_embeddings=True)
        assert model.lm_head.weight is model.model.embed_tokens.weight
        return model if adapter is None else with_adapter(model, adapter)

    model = build().train()
    balance(model, WEIGHTS)
    check_against_oracle(model, build())


def test_frozen_head_and_frozen_body():
    for frozen in ("lm_head", "model"):
        model = make().train()
        getattr(model, frozen).requires_grad_(False)
        stock = copy.deepcopy(model)
        balance(model, WEIGHTS)
        check_against_oracle(model, stock)


def test_peft_models_train_evaluate_generate_and_save(tmp_path):
    model = with_adapter(make(), "lora head")
    batch = batch_for(model)
    prompt = {name: batch[name][:1, :8] for name in ("input_ids", "attention_mask")}
    before = model.eval().generate(**prompt, max_new_tokens=3, do_sample=False)
    handle = balance(model.train(), WEIGHTS)
    model(**batch)
    assert torch.equal(model.eval().generate(**prompt, max_new_tokens=3, do_sample=False), before)
    model.save_pretrained(tmp_path, save_embedding_layers=True)
    again = PeftModel.from_pretrained(make(), tmp_path)
    assert torch.equal(
        again.get_base_model().lm_head.lora_B["default"].weight,
        model.get_base_model().lm_head.lora_B["default"].weight,
    )
    twin = copy.deepcopy(model).train()
    handle_of(twin).weights = [1.0, 1.0, 1.0]
    assert twin(**batch).loss.item() != model.train()(**batch).loss.item()
    handle.remove()
    assert handle_of(model) is None


class OtherLinear(nn.Linear):
    def forward(self, hidden):
        return super().forward(hidden) * 2


class Quantised(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.weight = nn.Parameter(inner.weight.detach().to(torch.int8), requires_grad=False)

    def forward(self, hidden):
        return hidden @ self.weight.to(hidden.dtype).T


class QuantisedTensor(torch.Tensor):
    pass


def test_other_heads_are_refused():
    def refused(message, change):
        model = make().train()
        changed = change(model)
        model = model if changed is None else changed
        balance(model, WEIGHTS)
        with pytest.raises(ValueError, match=message):
            model.train()(**batch_for(model))

    def replaced(head):
        def change(model):
            model.lm_head = head(model.lm_head)

        return change

    def other(inner):
        head = OtherLinear(*inner.weight.T.shape, bias=False).double()
        head.weight = inner.weight
        return head

    def subclass(inner):
        inner.weight = nn.Parameter(inner.weight.detach().as_subclass(QuantisedTensor))
        return inner

    def patched(inner):
        inner.forward = lambda hidden: hidden @ inner.weight.T * 2
        return inner

    refused("OtherLinear", replaced(other))
    refused("Quantised, whose logits", replaced(Quantised))
    refused("weight is a QuantisedTensor", replaced(subclass))
    refused("was replaced on the instance", replaced(patched))
    refused("device meta", replaced(lambda inner: inner.to("meta")))
    refused(
        "ia3",
        lambda model: get_peft_model(model, IA3Config(target_modules=["lm_head"], feedforward_modules=[])),
    )

    def two_doras(model):
        model = with_adapter(model, "dora head")
        model.add_adapter("second", config("dora head"))
        model.base_model.set_adapter(["default", "second"])
        return model.double()

    refused("one of them DoRA", two_doras)
    with pytest.raises(ValueError, match="PromptTuningConfig puts virtual tokens"):
        balance(
            get_peft_model(make(), PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM")), WEIGHTS
        )
