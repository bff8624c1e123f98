"""Whole models: whatever a saved model or adapter lacks, or has too much, is named in place of made up."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from support.models.tiny_models import random_batch, tiny_llama, tiny_llava
from support.tune.recorded_steps import MicroBatches, single, training_arguments
from torch import Tensor
from transformers import LlamaForCausalLM

from cotbal.config.model import ModelConfig
from cotbal.config.yaml_file import ConfigError
from cotbal.models.loading import load_model, quieten
from cotbal.tune import TaskBalancedTrainer
from cotbal.tune.whole_model import IncompleteModelError, load_whole

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

Tensors = dict[str, Tensor]


def saved(
    folder: Path, maker: Callable[..., tuple[torch.nn.Module, object]] = tiny_llava, **options: object
) -> Path:
    maker(**options)[0].save_pretrained(folder)
    return folder


def spoil(folder: Path, change: Callable[[Tensors], Tensors]) -> None:
    (path,) = folder.glob("*.safetensors")
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def settings(folder: Path, **changes: object) -> ModelConfig:
    return ModelConfig.model_validate({"name": str(folder), **changes})


def state(model: torch.nn.Module) -> dict[str, bytes]:
    tensors = {**model.state_dict(), **{f"buffer {name}": b for name, b in model.named_buffers()}}
    return {
        name: value.detach().contiguous().view(torch.uint8).numpy().tobytes()
        for name, value in tensors.items()
    }


def without(part: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: value for name, value in tensors.items() if part not in name}


def reshaped(tensors: Tensors) -> Tensors:
    name = next(name for name in tensors if "lm_head" in name)
    return {**tensors, name: tensors[name][:, :-1].contiguous()}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("maker", [tiny_llava, tiny_llama])
def test_a_whole_model_loads_and_is_the_same_whatever_the_seed(
    tmp_path: Path, maker: Callable[..., tuple[torch.nn.Module, object]], tied: bool
) -> None:
    saved(tmp_path, maker, tie_word_embeddings=tied)
    torch.manual_seed(1)
    one = load_model(settings(tmp_path))
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    assert state(load_model(settings(tmp_path))) == state(one)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("vision_tower"), r"tensors of the model are missing: .*vision_tower.* and \d+ more"),
        (without("lm_head"), r"1 tensors of the model are missing: lm_head\.weight"),
        (
            lambda tensors: {**tensors, "new.weight": torch.zeros(2)},
            r"1 tensors are not the model's: new\.weight",
        ),
        (
            reshaped,
            r"1 tensors have another shape: lm_head\.weight \(\d+ x \d+ in the file, \d+ x \d+ in the model",
        ),
    ],
    ids=["no vision tower", "no head", "one too many", "another shape"],
)
def test_a_base_model_that_is_not_whole_is_refused_with_names(
    tmp_path: Path, change: Callable[[Tensors], Tensors], message: str
) -> None:
    saved(tmp_path)
    spoil(tmp_path, change)
    with pytest.raises(ConfigError, match=message) as caught:
        load_model(settings(tmp_path))
    assert str(tmp_path) in str(caught.value)
    assert "allow_missing" in str(caught.value)


@pytest.mark.parametrize("keep", [0.9, 0.001, 0.0])
def test_a_file_that_was_cut_is_refused_with_its_folder(tmp_path: Path, keep: float) -> None:
    saved(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(ConfigError, match=f"{tmp_path}: its weights cannot be read"):
        load_model(settings(tmp_path))


def test_what_is_insisted_on_loads_and_is_the_same_whatever_the_seed(tmp_path: Path) -> None:
    saved(tmp_path)
    spoil(tmp_path, without("vision_tower"))
    allowed = settings(tmp_path, allow_missing=["vision_tower"])
    torch.manual_seed(1)
    one = load_model(allowed)
    torch.manual_seed(2)
    assert state(load_model(allowed)) == state(one)


def test_insisting_covers_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    saved(tmp_path)
    spoil(tmp_path, lambda tensors: without("lm_head")(without("vision_tower")(tensors)))
    with pytest.raises(ConfigError, match=r"1 tensors of the model are missing: lm_head\.weight"):
        load_model(settings(tmp_path, allow_missing=["vision_tower"]))
    with pytest.raises(ConfigError, match="allow_missing names projector, but no such tensor is missing"):
        load_model(settings(tmp_path, allow_missing=["vision_tower", "lm_head", "projector"]))


def test_a_units_own_model_is_held_to_all_its_tensors(tmp_path: Path) -> None:
    """What the base model may lack says nothing of what was trained and saved."""
    base, unit = saved(tmp_path / "base"), saved(tmp_path / "unit")
    for folder in (base, unit):
        spoil(folder, without("vision_tower"))
    with pytest.raises(ConfigError, match=f"{unit} is not a whole"):
        load_model(settings(base, allow_missing=["vision_tower"]), unit)


def test_tensors_that_old_files_carry_along_are_harmless(tmp_path: Path) -> None:
    saved(tmp_path, tiny_llama)
    spoil(
        tmp_path, lambda tensors: {**tensors, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    )
    loaded = load_model(settings(tmp_path)).state_dict()
    kept = load_file(tmp_path / "model.safetensors")
    assert "model.layers.0.self_attn.rotary_emb.inv_freq" in kept
    assert all(torch.equal(loaded[name], kept[name]) for name in loaded.keys() & kept.keys())


def test_an_adapter_in_the_models_place_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, tiny_llama)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(IncompleteModelError, match=r"holds an adapter.*cotbal export"):
        load_whole(LlamaForCausalLM, tmp_path)
    with pytest.raises(ConfigError, match="only adapters of LoRA"):
        load_model(settings(tmp_path))


def test_the_report_of_loading_is_heard_when_all_else_is_quiet(tmp_path: Path) -> None:
    saved(tmp_path, tiny_llama)
    spoil(tmp_path, without("lm_head"))
    said: list[str] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    ear = Ear()
    library = logging.getLogger("transformers")
    library.addHandler(ear)
    quieten()
    try:
        load_model(settings(tmp_path, allow_missing=["lm_head"]))
        assert not logging.getLogger("transformers.trainer").isEnabledFor(logging.WARNING)
    finally:
        library.removeHandler(ear)
        library.setLevel(logging.WARNING)
    assert any("lm_head.weight" in message and "MISSING" in message for message in said)


def peft_trainer(folder: Path, **arguments: object) -> TaskBalancedTrainer:
    model = get_peft_model(tiny_llama()[0], LoraConfig(target_modules=["q_proj", "v_proj"], r=2))
    batches = []
    for number in range(4):
        batch = random_batch(model.get_base_model(), batch_size=1, seed=number)
        batch["loss_task_index"] = torch.tensor([number % 2])
        batches.append(batch)
    return TaskBalancedTrainer(
        model,
        training_arguments(folder, max_steps=2, **arguments),
        tasks=["a", "b"],
        strategy="ew",
        train_dataset=MicroBatches(batches),
        data_collator=single,
    )


@pytest.mark.filterwarnings("ignore:.*missing adapter keys")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors, None),
        (
            without("layers.1.self_attn.q_proj.lora_B"),
            r"1 tensors of the model are missing: .*q_proj\.lora_B",
        ),
        (
            lambda tensors: {**tensors, "base_model.model.other.lora_A.weight": torch.zeros(2)},
            r"1 tensors are not the model's: .*other\.lora_A",
        ),
    ],
    ids=["whole", "one missing", "one too many"],
)
def test_a_checkpoint_of_adapters_is_whole_or_refused(
    tmp_path: Path, change: Callable[[Tensors], Tensors], message: str | None
) -> None:
    peft_trainer(tmp_path, save_strategy="steps", save_steps=1).train()
    checkpoint = tmp_path / "checkpoint-1"
    spoil(checkpoint, change)
    again = peft_trainer(tmp_path / "again")
    if message is None:
        again.train(resume_from_checkpoint=str(checkpoint))
        return
    with pytest.raises(IncompleteModelError, match=message):
        again.train(resume_from_checkpoint=str(checkpoint))
