"""4-bit and 8-bit base models: what LoRA layers on them are trained by, before and after passes without gradients."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from support.models.tiny_models import random_batch, tiny_llama
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from cotbal.tune import balance, handle_of
from cotbal.tune.override import held_still

pytest.importorskip("bitsandbytes")
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:MatMul8bitLt.*"),
]
WEIGHTS = [0.5, 2.0, 0.1]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    # As wide as a block of the quantisation at least, so that bitsandbytes can repack every layer.
    tiny_llama(hidden_size=64, intermediate_size=64)[0].save_pretrained(folder)
    return folder


def quantized(folder: Path, bits: int) -> Any:
    config = BitsAndBytesConfig(**{f"load_in_{bits}bit": True})
    model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=config, device_map={"": "cpu"})
    torch.manual_seed(3)
    adapter = LoraConfig(
        r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM"
    )
    return get_peft_model(model, adapter).train()


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("bits", [8, 4])
def test_loss_and_gradients_are_the_formulas(saved: Path, bits: int) -> None:
    stock, model = quantized(saved, bits), quantized(saved, bits)
    batch = random_batch(model.get_base_model(), batch_size=3, num_tasks=3)
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "loss_task_index")}
    # The formula, on the stock model's own logits.
    logits = stock(**inputs).logits[:, :-1].double()
    labels = batch["labels"][:, 1:]
    rows = nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
    weights = torch.tensor(WEIGHTS, dtype=torch.float64)[batch["loss_task_index"]][:, None] * (labels != -100)
    expected = (rows * weights).sum() / weights.sum()
    expected.backward()
    balance(model, WEIGHTS)
    loss = model(**batch).loss
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    wanted, found = gradients(stock), gradients(model)
    assert wanted.keys() == found.keys()
    assert all("lora_" in name for name in found)
    for name, gradient in wanted.items():
        # 8-bit layers compute in float16: its rounding of the gradients between layers.
        size = float(gradient.abs().max())
        assert size > 0
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=(0.02 if bits == 8 else 1e-4) * size)


def test_an_answer_in_between_leaves_4_bit_gradients_alone(saved: Path) -> None:
    """Where the CPU has bf16 products, bitsandbytes repacks layers for good at their first pass in evaluation."""
    model = quantized(saved, 4)
    batch = random_batch(model.get_base_model(), batch_size=3, num_tasks=3)
    balance(model, WEIGHTS)
    model(**batch).loss.backward()
    wanted = gradients(model)
    model.zero_grad()
    model.eval()
    with torch.no_grad():
        model(input_ids=batch["input_ids"])
    model.train()
    model(**batch).loss.backward()
    found = gradients(model)
    assert wanted.keys() == found.keys()
    assert all(torch.equal(found[name], gradient) for name, gradient in wanted.items())


def test_verify_compares_the_gradients_of_adapters(saved: Path) -> None:
    model = quantized(saved, 4)
    batch = random_batch(model.get_base_model(), batch_size=3, num_tasks=3)
    result = balance(model, WEIGHTS).verify(batch, model=model)
    assert result.passed, str(result)
    assert result.adapter_deviation is not None
    assert result.adapter_deviation < 1e-4
    assert "gradients of the adapters" in str(result)


class RepackedForInference(nn.Linear):
    """Changes for good at its first pass in evaluation mode, as bitsandbytes' 4-bit layers do on some CPUs."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        if not self.training and not hidden.requires_grad:
            self.weight.data = torch.zeros_like(self.weight)
        return super().forward(hidden)


def with_repacking(pass_in_evaluation: bool) -> Any:
    model = tiny_llama()[0]
    for layer in model.model.layers:
        layer.mlp.down_proj.__class__ = RepackedForInference
    adapter = LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    adapted = get_peft_model(model.train(), adapter).train()
    balance(adapted, WEIGHTS)
    if pass_in_evaluation:
        handle = handle_of(adapted)
        assert handle is not None
        original = handle._forward

        def forward(inner: Any, inputs: dict[str, Any]) -> Any:
            if handle.transform is None and not handle._stock_only:
                inner.eval()
                with torch.no_grad():
                    type(inner).forward(inner, input_ids=inputs["input_ids"])
                inner.train()
            return original(inner, inputs)

        handle._forward = forward  # type: ignore[method-assign]
    return adapted


@pytest.mark.parametrize("in_evaluation", [False, True])
def test_layers_that_change_in_evaluation_are_seen_by_verify_and_untouched_by_the_probe(
    in_evaluation: bool,
) -> None:
    model = with_repacking(in_evaluation)
    handle = handle_of(model)
    assert handle is not None
    batch = random_batch(model.get_base_model(), batch_size=3, num_tasks=3)
    result = handle.verify(batch, model=model)
    assert result.passed is not in_evaluation
    assert result.adapter_deviation is not None
    assert (result.adapter_deviation > 1e-3) is in_evaluation


def test_held_still_leaves_statistics_and_modes_as_they_were() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 4)).train()
    model[3].eval()
    modes = [module.training for module in model.modules()]
    before = copy.deepcopy(model.state_dict())
    data = torch.randn(5, 4)
    with held_still(model):
        assert model.training
        assert model[0].training
        assert torch.equal(model(data), model(data))
    assert [module.training for module in model.modules()] == modes
    after = model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
