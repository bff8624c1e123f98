"""Gemma 3 and 4, and PaliGemma 2."""

from __future__ import annotations

import torch
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
    vision_sizes,
)
from support.models.tiny_families import VISION, tiny_family
from support.models.tiny_families import family_batch as paligemma_batch
from support.models.tiny_models import tiny_gemma3_processor
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma4Config,
    Gemma4ForConditionalGeneration,
    Gemma4Processor,
    PaliGemmaProcessor,
)
from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil


def _gemma3() -> Made:
    processor = tiny_gemma3_processor()
    tokenizer = processor.tokenizer
    config = Gemma3Config(
        text_config=text_sizes(tokenizer, head_dim=16),
        vision_config=VISION,
        mm_tokens_per_image=4,
        image_token_index=tokenizer.image_token_id,
        boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
    )
    return settled(Gemma3ForConditionalGeneration, config, tokenizer), processor


def _gemma4() -> Made:
    marks = {
        "image_token": "<|image|>",
        "boi_token": "<|image>",
        "eoi_token": "<image|>",
        "audio_token": "<|audio|>",
        "boa_token": "<|audio>",
        "eoa_token": "<audio|>",
    }
    chat = template("<|image|>", bos=True)
    tokenizer = chat_tokenizer("<|video|>", chat=chat, **marks)
    processor = pictures_only(
        Gemma4Processor,
        feature_extractor=None,
        image_processor=Gemma4ImageProcessorPil(patch_size=4, pooling_kernel_size=2, max_soft_tokens=70),
        tokenizer=tokenizer,
        video_processor=None,
        chat_template=chat,
    )
    config = Gemma4Config(
        text_config=text_sizes(
            tokenizer,
            head_dim=16,
            global_head_dim=16,
            final_logit_softcapping=4.0,
            hidden_size_per_layer_input=8,
            vocab_size_per_layer_input=len(tokenizer),
            layer_types=["sliding_attention", "full_attention"],
        ),
        vision_config={
            **vision_sizes(),
            "patch_size": 4,
            "pooling_kernel_size": 2,
            "head_dim": 16,
            "num_key_value_heads": 2,
            "position_embedding_size": 128,
        },
        audio_config=None,
        image_token_id=tokenizer.image_token_id,
        boi_token_id=tokenizer.boi_token_id,
        eoi_token_id=tokenizer.eoi_token_id,
        audio_token_id=tokenizer.audio_token_id,
        video_token_id=tokenizer.convert_tokens_to_ids("<|video|>"),
    )
    return settled(Gemma4ForConditionalGeneration, config, tokenizer), processor


def _paligemma() -> Made:
    chat = template("<image>", bos=True)
    tokenizer = chat_tokenizer(chat=chat, image_token="<image>")
    pictures = SiglipImageProcessorPil(size={"height": PIXELS, "width": PIXELS})
    pictures.image_seq_length = 4
    return tiny_family("paligemma2"), PaliGemmaProcessor(pictures, tokenizer, chat_template=chat)


def _paligemma_tensors(model: torch.nn.Module, seed: int) -> Batch:
    return paligemma_batch("paligemma2", batch_size=3, seed=seed)


FAMILIES = (
    Family("Gemma 3", _gemma3),
    # Its vision tower has linear layers of its own class, which peft does not know.
    Family("Gemma 4", _gemma4, lora=r".*language_model.*\.(q_proj|v_proj)"),
    Family(
        "PaliGemma 2",
        _paligemma,
        tensors=_paligemma_tensors,
        refused="its answers cannot be located",
        note="its processor puts `bos` and a line break of its own into every text",
    ),
)
