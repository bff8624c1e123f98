"""LLaVA and its relatives: a vision tower, a projector, a language model."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from support.families.base import (
    PIXELS,
    Batch,
    Family,
    Made,
    chat_tokenizer,
    pictures_only,
    settled,
    template,
    text_sizes,
    token_batch,
    vision_sizes,
)
from support.families.torchvision_operators import usable
from support.models.tiny_models import tiny_llava
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionProcessor,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    MistralConfig,
    PixtralVisionConfig,
    Qwen2Config,
    SiglipVisionConfig,
)
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
    LlavaOnevisionImageProcessorPil,
)

_GRID = [[28, 56], [56, 28], [56, 56]]
_CHAT = template("<image>")
_TORCHVISION = ("torchvision",)


def _next() -> Made:
    tokenizer = chat_tokenizer("<image>", chat=_CHAT)
    processor = LlavaNextProcessor(
        LlavaNextImageProcessorPil(
            size={"shortest_edge": PIXELS},
            crop_size={"height": PIXELS, "width": PIXELS},
            image_grid_pinpoints=_GRID,
        ),
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_CHAT,
    )
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(**vision_sizes()),
        text_config=LlamaConfig(**text_sizes(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=_GRID,
        image_seq_length=4,
    )
    return settled(LlavaNextForConditionalGeneration, config, tokenizer), processor


def _onevision() -> Made:
    tokenizer = chat_tokenizer("<image>", "<video>", chat=_CHAT)
    processor = pictures_only(
        LlavaOnevisionProcessor,
        image_processor=LlavaOnevisionImageProcessorPil(
            size={"height": PIXELS, "width": PIXELS}, image_grid_pinpoints=_GRID
        ),
        tokenizer=tokenizer,
        num_image_tokens=4,
        vision_feature_select_strategy="full",
        chat_template=_CHAT,
    )
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(**vision_sizes(), vision_use_head=False),
        text_config=Qwen2Config(**text_sizes(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=_GRID,
    )
    return settled(LlavaOnevisionForConditionalGeneration, config, tokenizer), processor


def _pixtral_parts() -> tuple[Any, dict[str, Any]]:
    tokenizer = chat_tokenizer("[IMG]", "[IMG_BREAK]", "[IMG_END]", chat=template("[IMG]"))
    return tokenizer, {
        "vision_config": PixtralVisionConfig(**{**vision_sizes(), "image_size": 56}),
        "text_config": MistralConfig(**text_sizes(tokenizer, head_dim=16)),
        "image_token_index": tokenizer.convert_tokens_to_ids("[IMG]"),
    }


def _pixtral_processor(tokenizer: Any, merge: int) -> Any:
    if not usable(_TORCHVISION):
        return None
    return transformers.PixtralProcessor(
        transformers.PixtralImageProcessor(size={"longest_edge": 2 * PIXELS}),
        tokenizer,
        patch_size=14,
        spatial_merge_size=merge,
        chat_template=tokenizer.chat_template,
    )


def _pixtral() -> Made:
    tokenizer, parts = _pixtral_parts()
    config = LlavaConfig(**parts, vision_feature_layer=-1, vision_feature_select_strategy="full")
    model = settled(LlavaForConditionalGeneration, config, tokenizer)
    return model, _pixtral_processor(tokenizer, 1)


def _mistral3() -> Made:
    tokenizer, parts = _pixtral_parts()
    config = Mistral3Config(**parts, spatial_merge_size=2, tie_word_embeddings=False)
    model = settled(Mistral3ForConditionalGeneration, config, tokenizer)
    return model, _pixtral_processor(tokenizer, 2)


def _pixtral_tensors(model: Any, seed: int) -> Batch:
    """Two pictures of 28 x 56 pixels: 2 x 4 patches each, merged by Mistral 3 into 1 x 2."""
    batch = token_batch(model, seed)
    merge = getattr(model.config, "spatial_merge_size", 1)
    batch["input_ids"][:2, 1 : 1 + 8 // merge**2] = model.config.image_token_index
    batch["pixel_values"] = torch.randn(2, 3, 28, 56, generator=torch.Generator().manual_seed(seed))
    batch["image_sizes"] = torch.tensor([[28, 56]] * 2)
    return batch


FAMILIES = (
    Family("LLaVA-1.5", tiny_llava),
    Family("LLaVA-NeXT", _next),
    Family("LLaVA-OneVision", _onevision),
    Family("Pixtral", _pixtral, tensors=_pixtral_tensors, needs=_TORCHVISION),
    Family("Mistral 3", _mistral3, tensors=_pixtral_tensors, needs=_TORCHVISION),
)
