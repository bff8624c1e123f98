"""Families of language models without pictures."""

from __future__ import annotations

from typing import Any

import transformers
from support.families.base import Family, Made, chat_tokenizer, settled, template, text_sizes

_CHAT = template("", typed=False)
_EXPERTS: dict[str, Any] = {"output_router_logits": True, "router_aux_loss_coef": 0.02}


def _text(name: str, **more: Any) -> Family:
    def make() -> Made:
        tokenizer = chat_tokenizer(chat=_CHAT)
        config = getattr(transformers, f"{name}Config")(**text_sizes(tokenizer, **more))
        return settled(getattr(transformers, f"{name}ForCausalLM"), config, tokenizer), tokenizer

    return Family(_NAMES[name], make, pictures=False)


_NAMES = {
    "Llama": "Llama",
    "Qwen3": "Qwen3",
    "Qwen3Moe": "Qwen3, mixture of experts",
    "Mixtral": "Mixtral",
    "Gemma2": "Gemma 2",
    "Granite": "Granite",
    "Cohere": "Cohere",
    "Cohere2": "Cohere 2",
}
FAMILIES = (
    _text("Llama"),
    _text("Qwen3", head_dim=16),
    _text(
        "Qwen3Moe", head_dim=16, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, **_EXPERTS
    ),
    _text("Mixtral", num_local_experts=4, num_experts_per_tok=2, **_EXPERTS),
    _text("Gemma2", head_dim=16, final_logit_softcapping=5.0),
    _text("Granite", logits_scaling=7.0),
    _text("Cohere", logit_scale=0.0625),
    _text("Cohere2", logit_scale=0.3),
)
