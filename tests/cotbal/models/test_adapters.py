"""Adapters and quantisation of a config: handed to peft and transformers, or refused by name before anything runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.models import tiny_models
from support.units.adapter_jobs import ADAPTER

from cotbal.config.model import ModelConfig, QuantizationConfig
from cotbal.config.schema import load_config
from cotbal.config.yaml_file import ConfigError
from cotbal.models.adapters import check_adapter, without_peft
from cotbal.models.loading import load_model
from cotbal.models.model_source import model_content, model_settings, model_source, processor_source
from cotbal.models.quantization import check_quantization
from cotbal.units.arguments import training_settings
from cotbal.units.batches import batch_layout

EXAMPLE = Path(__file__).parents[3] / "examples" / "qwen2.5-vl-7b-lora.yaml"
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*tie_word_embeddings.*"),
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    made = {
        "llava": tiny_models.tiny_llava(),
        "llama": tiny_models.tiny_llama(),
        "tied": tiny_models.tiny_llama(tie_word_embeddings=True),
    }
    for name, (model, processor) in made.items():
        model.save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
    return folder


def settings(name: Path | str, **changes: Any) -> ModelConfig:
    return ModelConfig.model_validate({"name": str(name), **changes})


@pytest.mark.parametrize(
    ("adapter", "said"),
    [
        ({"alpha": 16}, r"model\.adapter\.alpha: cannot be set here; peft calls it `lora_alpha`"),
        ({"lora_alhpa": 16}, r"model\.adapter\.lora_alhpa: .*did you mean `lora_alpha`"),
        ({"inference_mode": True}, r"model\.adapter\.inference_mode: cannot be set here"),
        (
            {"init_lora_weights": "pissa"},
            r"init_lora_weights: found 'pissa'; accepted: true, false, gaussian",
        ),
        ({"r": 0, "target_modules": ["q_proj"]}, "peft refuses these settings"),
    ],
)
def test_settings_that_peft_lacks_or_cotbal_sets_are_refused(
    saved: Path, adapter: dict[str, Any], said: str
) -> None:
    config = settings(saved / "llama", adapter=adapter)

    def refused() -> None:
        check_adapter(config)
        load_model(config)

    with pytest.raises(ConfigError, match=said):
        refused()


@pytest.mark.parametrize(
    ("quantization", "said"),
    [
        ({"bits": 4, "load_in_8bit": True}, "load_in_8bit: cannot be set here; write `bits: 8`"),
        ({"bits": 4, "bnb_4bit_quant_typ": "nf4"}, "did you mean `bnb_4bit_quant_type`"),
        ({"bits": 4, "bnb_4bit_use_double_quant": "perhaps"}, "transformers refuses these settings"),
    ],
)
def test_quantisation_that_transformers_lacks_is_refused(
    saved: Path, quantization: dict[str, Any], said: str
) -> None:
    pytest.importorskip("bitsandbytes")
    with pytest.raises(ConfigError, match=said):
        check_quantization(settings(saved / "llama", adapter=ADAPTER, quantization=quantization), {})


def test_other_bits_and_quantised_training_without_adapters_or_sharded_are_refused(saved: Path) -> None:
    pytest.importorskip("bitsandbytes")
    with pytest.raises(ValueError, match="4 or 8"):
        settings(saved / "llama", quantization=3)
    with pytest.raises(ConfigError, match=r"add `model\.adapter`"):
        check_quantization(settings(saved / "llama", quantization=4), {})
    with pytest.raises(ConfigError, match=r"training\.fsdp: not with model\.quantization"):
        check_quantization(settings(saved / "llama", adapter=ADAPTER, quantization=4), {"fsdp": True})


def test_layers_left_out_of_quantisation_are_checked_by_their_types(saved: Path) -> None:
    pytest.importorskip("bitsandbytes")

    def load(*skipped: str) -> Any:
        section = {"bits": 4, "llm_int8_skip_modules": list(skipped)}
        return without_peft(load_model(settings(saved / "llava", adapter=ADAPTER, quantization=section)))

    def kinds(model: Any, part: str) -> set[str]:
        return {
            type(m).__name__ for name, m in model.named_modules() if part in name and name.endswith("fc1")
        }

    assert kinds(load("model.vision_tower"), "vision_tower") == {"Linear"}
    assert type(load("model.vision_tower").lm_head) is torch.nn.Linear
    with pytest.raises(ConfigError, match=r"'vision_tower' was ignored: .*write `model\.vision_tower`"):
        load("vision_tower")
    with pytest.raises(ConfigError, match="'tower' names no part of this model"):
        load("tower")


def test_adapters_on_tied_embeddings_or_heads_are_refused(saved: Path) -> None:
    for adapter in (
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": ["embed_tokens"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    ):
        with pytest.raises(ConfigError, match="ties embeddings and head to one weight"):
            load_model(settings(saved / "tied", adapter=adapter))
        load_model(settings(saved / "llama", adapter=adapter))


def test_a_trained_head_is_kept_and_merged(saved: Path, tmp_path: Path) -> None:
    config = settings(
        saved / "llama",
        adapter={"target_modules": ["q_proj", "embed_tokens"], "modules_to_save": ["lm_head"]},
    )
    model = load_model(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter), alpha=1.0)
                assert "lora" in name or "modules_to_save" in name
    model.save_pretrained(tmp_path / "kept", save_embedding_layers=False)
    again = load_model(config, tmp_path / "kept")
    ids = torch.arange(10, 30)[None]
    wanted = model.eval()(input_ids=ids).logits
    assert torch.equal(again.eval()(input_ids=ids).logits, wanted)
    again.merge_and_unload(safe_merge=True).save_pretrained(tmp_path / "merged")
    merged = load_model(settings(tmp_path / "merged")).eval()
    torch.testing.assert_close(merged(input_ids=ids).logits, wanted, rtol=1e-4, atol=1e-5)


def test_the_seed_decides_a_new_adapter_and_nothing_else_does(saved: Path) -> None:
    config = settings(saved / "llama", adapter=ADAPTER)

    def first(seed: int) -> torch.Tensor:
        torch.rand(3)
        return next(p for n, p in load_model(config, seed=seed).named_parameters() if "lora_A" in n)

    state = torch.get_rng_state()
    load_model(config)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))


def test_freezing_everything_that_is_adapted_is_refused(saved: Path) -> None:
    config = settings(saved / "llama", adapter=ADAPTER, freeze=["layers"])
    with pytest.raises(ConfigError, match="no parameter is left to train"):
        load_model(config)


def test_an_adapters_folder_names_its_base(saved: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    load_model(settings(saved / "llama", adapter=ADAPTER)).save_pretrained(adapter)
    config = settings(adapter)
    assert model_source(config).base == str(saved / "llama")
    assert processor_source(config) == str(saved / "llama")
    assert "an adapter of sha256" in model_content(config)
    assert any(p.requires_grad for n, p in load_model(config).named_parameters() if "lora_A" in n)
    path = adapter / "adapter_config.json"
    values = json.loads(path.read_text())
    for changes, said in (
        ({"base_model_name_or_path": str(tmp_path / "gone")}, "there is no such folder"),
        ({"base_model_name_or_path": None}, "write the folder or hub id"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
    ):
        path.write_text(json.dumps({**values, **changes}))
        with pytest.raises(ConfigError, match=said):
            model_source(config)
    path.write_text("[")
    with pytest.raises(ConfigError, match="not the config of an adapter"):
        model_source(config)


def test_units_made_before_there_were_adapters_are_not_stale(saved: Path) -> None:
    assert not {"adapter", "quantization"} & model_settings(settings(saved / "llama")).keys()
    assert model_settings(settings(saved / "llama", adapter=ADAPTER, quantization=4))["quantization"] == {
        "bits": 4
    }


def test_the_example_for_one_card_adapts_the_language_model_alone(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    config = load_config(EXAMPLE)
    check_adapter(config.model)
    assert training_settings(config, "tune")["optim"] == "paged_adamw_8bit"
    assert batch_layout(training_settings(config, "tune"), 1).accumulation == 16
    model, processor = tiny_models.tiny_qwen2_5_vl()
    model.save_pretrained(tmp_path / "qwen")
    processor.save_pretrained(tmp_path / "qwen")
    small = config.model.model_copy(update={"name": str(tmp_path / "qwen")})
    # What the example has in a comment fits too.
    for quantization in (None, QuantizationConfig.model_validate({"bits": 4, "bnb_4bit_quant_type": "nf4"})):
        asked = small.model_copy(update={"quantization": quantization})
        check_quantization(asked, config.training)
        adapted = load_model(asked)
        trained = [name for name, p in adapted.named_parameters() if p.requires_grad]
        layers = len(model.model.language_model.layers)
        assert len(trained) == 2 * 7 * layers
        assert not any("visual" in name for name in trained)
        assert all(p.dtype == torch.float32 for p in adapted.parameters() if p.requires_grad)
        assert without_peft(adapted).lm_head.weight.dtype == torch.bfloat16
