"""The tiny mixture with a LLaVA of 57 million parameters, for memory that is more than noise."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from support.models import tiny_mixture, tiny_models
from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration

ADAPTER: dict[str, Any] = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}
CASES: dict[str, dict[str, Any]] = {
    "full": {},
    "checkpointing": {"training": {"gradient_checkpointing": True, "bf16": True}},
    "lora": {"model": {"adapter": ADAPTER}},
    "4-bit": {
        "model": {"adapter": ADAPTER, "dtype": "bfloat16", "quantization": {"bits": 4}},
        "training": {"gradient_checkpointing": True},
    },
    "8-bit": {"model": {"adapter": ADAPTER, "quantization": {"bits": 8}}},
    "ddp": {"launch": {"processes": 2}, "training": {"per_device_train_batch_size": 2}},
    "fsdp2": {"launch": {"processes": 2}, "training": {"fsdp": True}},
}


def write_large_mixture(folder: Path, case: dict[str, Any]) -> Path:
    """Write the mixture whose units make four steps, and return its config."""
    path = tiny_mixture.write_mixture(
        folder,
        samples=16,
        text_only=False,
        metrics=("loss", "loss"),
        model={"name": "model", **case.get("model", {})},
        preparation={"mini_fraction": 0.5, "training": {"max_steps": 4}},
        training={
            "num_train_epochs": 1,
            "per_device_train_batch_size": 4,
            "global_batch_size": 8,
            "save_steps": 2,
            "logging_steps": 2,
            "use_cpu": True,
            **case.get("training", {}),
        },
        launch={"processes": 1, **case.get("launch", {})},
        comparison={"strategies": ["cotbal"], "seeds": [0]},
    )
    shutil.rmtree(folder / "model")
    large_llava().save_pretrained(folder / "model")
    tiny_models.tiny_llava()[1].save_pretrained(folder / "model")
    return path


def large_llava() -> LlavaForConditionalGeneration:
    """LLaVA with 57 million parameters, for the tiny one's processor."""
    tiny = tiny_models.tiny_llava()[0].config
    text = tiny.text_config.to_dict() | {
        "hidden_size": 640,
        "intermediate_size": 1728,
        "num_hidden_layers": 8,
        "num_attention_heads": 10,
        "num_key_value_heads": 10,
        "head_dim": 64,
        "vocab_size": 4000,
    }
    vision = CLIPVisionConfig(
        hidden_size=384,
        intermediate_size=1536,
        num_hidden_layers=6,
        num_attention_heads=6,
        image_size=28,
        patch_size=14,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tiny.image_token_index,
        image_seq_length=4,
    )
    return LlavaForConditionalGeneration(config)
