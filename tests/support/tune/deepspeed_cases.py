"""What is trained under DeepSpeed's ZeRO-3 by `deepspeed_job.py`: options of `SetUp`, by name."""

from __future__ import annotations

from typing import Any

# Last: once its arguments are made, transformers splits every new model as it is built.
THE_TRAINER = "the Trainer"
CASES: dict[str, dict[str, Any]] = {
    "LLaVA": {},
    "Qwen2.5-VL": {"model": "qwen2_5_vl"},
    "a rank without a supervised token": {"data": "an empty rank"},
    "Gemma 2": {"model": "gemma2"},
    "tied embeddings": {"model": "llama", "change": "tied embeddings"},
    "LoRA on body and head": {"adapter": "LoRA on body and head"},
    "DoRA on body and head": {"adapter": "DoRA on body and head"},
    "modules_to_save": {"adapter": "modules_to_save"},
    THE_TRAINER: {},
}
