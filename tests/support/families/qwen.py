"""Qwen's vision-language models and GLM-4V: pictures of any size, positions in three dimensions."""

from __future__ import annotations

from typing import Any

import transformers
from support.families.base import Family, Made, chat_tokenizer, pictures_only, settled, template, text_sizes
from support.models.tiny_models import tiny_qwen2_5_vl
from transformers.models.glm4v.image_processing_pil_glm4v import Glm4vImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

_MARKS = {
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
}
_CHAT = template("<|vision_start|><|image_pad|><|vision_end|>")
_POSITIONS = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}


def _qwen(prefix: str, patch: int, text: dict[str, Any], vision: dict[str, Any]) -> Made:
    tokenizer = chat_tokenizer(chat=_CHAT, **_MARKS)
    kind = prefix.removesuffix("Moe")
    processor = pictures_only(
        getattr(transformers, f"{kind}Processor"),
        image_processor=Qwen2VLImageProcessorPil(
            size={"shortest_edge": (2 * patch) ** 2, "longest_edge": (4 * patch) ** 2},
            patch_size=patch,
            merge_size=2,
        ),
        tokenizer=tokenizer,
        chat_template=_CHAT,
    )
    config = getattr(transformers, f"{prefix}Config")(
        text_config=text_sizes(tokenizer, rope_parameters=_POSITIONS, **text),
        vision_config={"depth": 2, "num_heads": 2, "patch_size": patch, **vision},
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
    )
    return settled(getattr(transformers, f"{prefix}ForConditionalGeneration"), config, tokenizer), processor


_HALF = {**_POSITIONS, "mrope_section": [1, 1, 2], "partial_rotary_factor": 0.5}
_THREE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "out_hidden_size": 32,
    "num_position_embeddings": 16,
    "deepstack_visual_indexes": [0],
}
_EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "output_router_logits": True,
    "router_aux_loss_coef": 0.02,
}


def _qwen2() -> Made:
    return _qwen("Qwen2VL", 14, {}, {"embed_dim": 32, "hidden_size": 32})


def _qwen3() -> Made:
    return _qwen("Qwen3VL", 16, {"head_dim": 16}, _THREE)


def _qwen3_experts() -> Made:
    return _qwen("Qwen3VLMoe", 16, {"head_dim": 16, **_EXPERTS}, _THREE)


def _glm() -> Made:
    marks = {
        "image_token": "<|image|>",
        "video_token": "<|video|>",
        "start": "<|begin_of_image|>",
        "end": "<|end_of_image|>",
        "video_start": "<|begin_of_video|>",
        "video_end": "<|end_of_video|>",
    }
    chat = template("<|begin_of_image|><|image|><|end_of_image|>")
    tokenizer = chat_tokenizer(chat=chat, **marks)
    processor = pictures_only(
        transformers.Glm4vProcessor,
        image_processor=Glm4vImageProcessorPil(
            size={"shortest_edge": 28 * 28, "longest_edge": 2 * 56 * 56}, patch_size=14, merge_size=2
        ),
        tokenizer=tokenizer,
        chat_template=chat,
    )
    ids = tokenizer.convert_tokens_to_ids
    config = transformers.Glm4vConfig(
        text_config=text_sizes(
            tokenizer,
            rope_parameters=_HALF,
        ),
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "num_heads": 2,
            "image_size": 56,
            "out_hidden_size": 32,
            "intermediate_size": 48,
        },
        image_token_id=ids("<|image|>"),
        video_token_id=ids("<|video|>"),
        image_start_token_id=ids("<|begin_of_image|>"),
        image_end_token_id=ids("<|end_of_image|>"),
        video_start_token_id=ids("<|begin_of_video|>"),
        video_end_token_id=ids("<|end_of_video|>"),
    )
    return settled(transformers.Glm4vForConditionalGeneration, config, tokenizer), processor


FAMILIES = (
    Family("Qwen2-VL", _qwen2),
    Family("Qwen2.5-VL", tiny_qwen2_5_vl),
    Family("Qwen3-VL", _qwen3),
    Family("Qwen3-VL, mixture of experts", _qwen3_experts),
    Family("GLM-4V", _glm),
)
