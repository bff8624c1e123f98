"""Tiny models of families that change their logits between the head and the loss, with random weights.

`FAMILIES[name]()` makes the model; `LOGIT_TRANSFORMS[name]` is what its logits go through, as (scale, softcap).
The figures are odd on purpose: none is a default.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    Cohere2Config,
    Cohere2ForCausalLM,
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    GraniteConfig,
    GraniteForCausalLM,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
)

SIZES: dict[str, Any] = {
    "vocab_size": 160,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
VISION: dict[str, Any] = {
    "model_type": "siglip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
IMAGE_TOKEN = 9

LOGIT_TRANSFORMS: dict[str, tuple[float, float | None]] = {
    "granite": (1 / 7.0, None),
    "cohere": (0.0625, None),
    "cohere2": (0.3, None),
    "gemma2": (1.0, 5.0),
    "gemma3_text": (1.0, 3.0),
    "gemma3": (1.0, None),
    "paligemma2": (1.0, 4.0),
}


def _granite() -> Any:
    return GraniteForCausalLM(GraniteConfig(**SIZES, logits_scaling=7.0))


def _cohere() -> Any:
    return CohereForCausalLM(CohereConfig(**SIZES, logit_scale=0.0625))


def _cohere2() -> Any:
    return Cohere2ForCausalLM(Cohere2Config(**SIZES, logit_scale=0.3))


def _gemma2() -> Any:
    return Gemma2ForCausalLM(Gemma2Config(**SIZES, head_dim=16, final_logit_softcapping=5.0))


def _gemma3_text() -> Any:
    return Gemma3ForCausalLM(Gemma3TextConfig(**SIZES, head_dim=16, final_logit_softcapping=3.0))


def _gemma3() -> Any:
    config = Gemma3Config(
        text_config={**SIZES, "head_dim": 16},
        vision_config=VISION,
        mm_tokens_per_image=4,
        image_token_index=IMAGE_TOKEN,
        boi_token_index=7,
        eoi_token_index=8,
    )
    return Gemma3ForConditionalGeneration(config)


def _paligemma2() -> Any:
    text = {**SIZES, "model_type": "gemma2", "head_dim": 16, "final_logit_softcapping": 4.0}
    config = PaliGemmaConfig(
        text_config=text, vision_config=VISION, image_token_index=IMAGE_TOKEN, projection_dim=32
    )
    return PaliGemmaForConditionalGeneration(config)


_MAKERS = {
    "granite": _granite,
    "cohere": _cohere,
    "cohere2": _cohere2,
    "gemma2": _gemma2,
    "gemma3_text": _gemma3_text,
    "gemma3": _gemma3,
    "paligemma2": _paligemma2,
}
FAMILIES = tuple(_MAKERS)


def tiny_family(name: str, seed: int = 0) -> Any:
    """A tiny model of the family, in eval mode; its logits are wide enough for a cap to matter."""
    torch.manual_seed(seed)
    model = _MAKERS[name]()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(15.0)
    return model.eval()


def family_batch(
    name: str, *, batch_size: int = 2, length: int = 14, num_tasks: int = 3, seed: int = 0
) -> dict[str, torch.Tensor]:
    """Random tensors for one micro-batch, one image a row where the family takes images."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(10, SIZES["vocab_size"], (batch_size, length), generator=generator)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    drawn = torch.rand(batch_size, length, generator=generator) < 0.6
    drawn[:, -1] = True
    if name in ("gemma3", "paligemma2"):
        ids[:, 1:5] = IMAGE_TOKEN
        drawn[:, :6] = False
        batch["pixel_values"] = torch.randn(batch_size, 3, 28, 28, generator=generator)
        batch["token_type_ids"] = (ids == IMAGE_TOKEN).long()
        if name == "paligemma2":  # here it tells the prompt from the answer
            batch["token_type_ids"] = (torch.arange(length) >= 6).long().expand(batch_size, -1).contiguous()
    batch["labels"] = torch.where(drawn, ids, -100)
    batch["loss_task_index"] = torch.arange(batch_size) % num_tasks
    return batch
