"""A tiny LLaVA: transformers' own classes, a tokenizer, an image processor and a chat template, built in code."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from cotbal.demo.questions import COLUMN_WORDS, DIGIT_WORDS, ROW_WORDS
from cotbal.demo.scenes import BOARD_NOISE, CELL_PIXELS, CELLS, COLOURS, SCENE_PIXELS

BOARD_MEAN = BOARD_NOISE / 2 / 255

PAD, BOS, EOS, UNKNOWN, IMAGE = "<pad>", "<s>", "</s>", "<unk>", "<image>"

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ 'USER: ' }}{% elif message['role'] == 'assistant' %}{{ 'ASSISTANT: ' }}"
    "{% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>\n' }}{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% else %}{{ ' ' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)

_WORDS = (
    *("USER", "ASSISTANT", ":", ";", ",", ".", "?", "[", "]", "a", "and", "at", "the", "of", "is", "are"),
    *("Describe", "picture", "Give", "box", "Read", "all", "digits", "digit", "in", "order"),
    *("How", "many", "Which", "largest", "smallest"),
)


def vocabulary(more: Iterable[str] = ()) -> list[str]:
    """Every word the shared mixture's questions and answers use, after the special tokens, and `more`."""
    numbers = [str(n) for n in range(10)]
    numbers += [str(n * CELL_PIXELS) for n in range(1, CELLS + 1)]
    words: Iterable[str] = (*_WORDS, *DIGIT_WORDS, *ROW_WORDS, *COLUMN_WORDS, *COLOURS, *numbers, *more)
    return [PAD, BOS, EOS, UNKNOWN, IMAGE, *dict.fromkeys(words)]


def build_processor(more: Iterable[str] = ()) -> LlavaProcessor:
    """A processor that takes scenes as they are (48 x 48 pixels) and splits texts into words, `more` among them."""
    words = {word: number for number, word in enumerate(vocabulary(more))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Strip()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        unk_token=UNKNOWN,
        extra_special_tokens=[IMAGE],
        clean_up_tokenization_spaces=False,
        model_max_length=256,
    )
    image_processor = CLIPImageProcessorPil(
        do_resize=False,
        do_center_crop=False,
        size={"height": SCENE_PIXELS, "width": SCENE_PIXELS},
        crop_size={"height": SCENE_PIXELS, "width": SCENE_PIXELS},
        # The dark board becomes 0, so that the vision tower sees strokes.
        image_mean=[BOARD_MEAN] * 3,
        image_std=[0.25] * 3,
    )
    return LlavaProcessor(  # type: ignore[no-untyped-call]
        image_processor=image_processor,
        tokenizer=fast,
        patch_size=CELL_PIXELS,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def build_model(processor: LlavaProcessor, *, seed: int = 0, **changes: Any) -> LlavaForConditionalGeneration:
    """Build a LLaVA of about a million parameters with random weights."""
    tokenizer = processor.tokenizer
    text: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        # The usual 0.02 suits widths of thousands; at 128 the model then never learns to attend to images.
        "initializer_range": 0.08,
        "max_position_embeddings": 256,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        **changes,
    }
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=SCENE_PIXELS,
            patch_size=CELL_PIXELS,
        ),
        text_config=LlamaConfig(**text),
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=CELLS * CELLS,
        vision_feature_layer=-1,
    )
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config)
    model.generation_config.bos_token_id = tokenizer.bos_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model
