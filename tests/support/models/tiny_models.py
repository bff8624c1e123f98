"""Tiny multimodal and text models of transformers' own classes, with random weights and real processors.

`tiny_llava()`, `tiny_qwen2_5_vl()` and `tiny_llama()` return `(model, processor)`; the last one's processor
is a plain tokenizer. `random_batch(model, ...)` makes tensors for any of them without a processor.
Nothing is downloaded: tokenizers are trained in code on a few sentences.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPVisionConfig,
    Gemma3Processor,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

CORPUS = (
    "What number is in the picture? Answer with one word.",
    "A red seven is left of a small blue four.",
    "How many digits are there? There are three digits in this scene.",
    "Where is the nine? It is at the top, between zero and two. Describe the image: 0 1 2 3 4 5 6 7 8 9",
    "system user assistant SYSTEM USER ASSISTANT Read the digits from left to right, please.",
)

# No end-of-turn marker at all, as in the template published with LLaVA-1.5's converted weights.
LLAVA_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'][0]['text'] + ' ' }}"
    "{% else %}{{ message['role'] | upper }}:{{ ' ' }}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] + ' ' }}{% endfor %}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)

CHATML_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{% endif %}"
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# Starts with the bos token and trims contents, as Llama 3's does.
HEADER_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{{ message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)


@lru_cache
def _trained(special: tuple[str, ...], size: int) -> str:
    """A byte-level BPE tokenizer as JSON: every text has tokens and exact character offsets."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(special),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer.to_str()


def tiny_tokenizer(*special: str, bos: str, eos: str, pad: str, template: str) -> PreTrainedTokenizerFast:
    """A fast tokenizer of about 400 entries with the named special tokens and chat template."""
    names = tuple(dict.fromkeys((pad, bos, eos, *special)))
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_trained(names, 400)),
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        extra_special_tokens=[name for name in special if name not in (bos, eos, pad)],
        chat_template=template,
        clean_up_tokenization_spaces=False,
    )


def tiny_llava(seed: int = 0, **text_options: Any) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """LLaVA: CLIP vision tower (28 x 28 pixels, 4 patches), Llama of 2 layers; 4 tokens per image."""
    tokenizer = tiny_tokenizer("<image>", bos="<s>", eos="</s>", pad="<pad>", template=LLAVA_TEMPLATE)
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}
        ),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA_TEMPLATE,
    )
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=28,
            patch_size=14,
        ),
        text_config=_llama_config(tokenizer, **text_options),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=4,
    )
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config)
    _settle(model, tokenizer)
    return model, processor


def tiny_llama(seed: int = 0, **options: Any) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """A text-only Llama of 2 layers with a Llama-3-like template."""
    tokenizer = tiny_tokenizer(
        "<|start_header_id|>",
        "<|end_header_id|>",
        bos="<|begin_of_text|>",
        eos="<|eot_id|>",
        pad="<|pad|>",
        template=HEADER_TEMPLATE,
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(_llama_config(tokenizer, **options))
    _settle(model, tokenizer)
    return model, tokenizer


# Typed contents as in Gemma 3's template, whose processor expects one list of images per row.
GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' }}"
    "{% for p in m['content'] %}{{ '<start_of_image>' if p['type'] == 'image' else p['text'] }}{% endfor %}"
    "{{ '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)


def name_tokens(tokenizer: Any, names: Mapping[str, str]) -> None:
    """Give a tokenizer attributes such as `image_token`, each with its `_id`."""
    for name, token in names.items():
        setattr(tokenizer, name, token)
        setattr(tokenizer, f"{name}_id", tokenizer.convert_tokens_to_ids(token))


def tiny_gemma3_processor() -> Gemma3Processor:
    """Gemma 3's own processor on a tiny tokenizer; 4 tokens an image."""
    names = {
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
        "image_token": "<image_soft_token>",
    }
    tokenizer: Any = tiny_tokenizer(
        "<start_of_turn>",
        "<end_of_turn>",
        *names.values(),
        bos="<bos>",
        eos="<eos>",
        pad="<pad>",
        template=GEMMA_TEMPLATE,
    )
    name_tokens(tokenizer, names)
    images = Gemma3ImageProcessorPil(size={"height": 28, "width": 28})
    return Gemma3Processor(images, tokenizer, chat_template=GEMMA_TEMPLATE, image_seq_length=4)


class PictureQwenProcessor(Qwen2_5_VLProcessor):
    """Qwen2.5-VL's processor without its video part, which cannot be built without torchvision."""

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: Any = None) -> None:
        self.image_token = "<|image_pad|>"
        self.video_token = "<|video_pad|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        super(Qwen2_5_VLProcessor, self).__init__(image_processor, tokenizer, chat_template=chat_template)


def tiny_qwen2_5_vl(
    seed: int = 0, **text_options: Any
) -> tuple[Qwen2_5_VLForConditionalGeneration, PictureQwenProcessor]:
    """Qwen2.5-VL of 2 + 2 layers; images of 28 to 56 pixels a side, one token for 28 x 28 pixels."""
    tokenizer = tiny_tokenizer(
        "<|im_start|>",
        "<|im_end|>",
        "<|vision_start|>",
        "<|vision_end|>",
        "<|image_pad|>",
        "<|video_pad|>",
        bos="<|endoftext|>",
        eos="<|im_end|>",
        pad="<|endoftext|>",
        template=CHATML_TEMPLATE,
    )
    processor = PictureQwenProcessor(
        image_processor=Qwen2VLImageProcessorPil(
            size={"shortest_edge": 28 * 28, "longest_edge": 56 * 56}, patch_size=14, merge_size=2
        ),
        tokenizer=tokenizer,
        chat_template=CHATML_TEMPLATE,
    )
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 512,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **text_options,
    }
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "out_hidden_size": text["hidden_size"],
        "fullatt_block_indexes": [1],
        "window_size": 56,
    }
    ids = tokenizer.convert_tokens_to_ids
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
    )
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(config)
    _settle(model, tokenizer)
    return model, processor


def random_batch(
    model: torch.nn.Module,
    *,
    batch_size: int = 2,
    length: int = 24,
    supervised: float = 0.5,
    images: bool = True,
    num_tasks: int | None = None,
    seed: int = 0,
) -> dict[str, torch.Tensor]:
    """Random tensors for one micro-batch: ids with one image a row, right padding, labels on a random part.

    Every row has at least one supervised token; row b keeps `length - b` tokens (at least 16). With
    `num_tasks`, `loss_task_index` (int64 [batch_size]) counts through the tasks.
    """
    generator = torch.Generator().manual_seed(seed)
    config = model.config
    kind = config.model_type
    text = config.get_text_config()
    first = 20  # past every special token of the tiny tokenizers
    ids = torch.randint(first, text.vocab_size, (batch_size, length), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(batch_size):
        keep = max(min(16, length), length - row)
        ids[row, keep:] = text.pad_token_id
        mask[row, keep:] = 0
    batch: dict[str, torch.Tensor] = {"input_ids": ids, "attention_mask": mask}
    prompt = 2
    if kind == "llava" and images:
        ids[:, 1:5] = config.image_token_id
        prompt = 6
        batch["pixel_values"] = torch.randn(batch_size, 3, 28, 28, generator=generator)
    elif kind == "qwen2_5_vl" and images:
        ids[:, 1] = config.vision_start_token_id
        ids[:, 2:4] = config.image_token_id
        ids[:, 4] = config.vision_end_token_id
        prompt = 6
        batch["pixel_values"] = torch.randn(batch_size * 8, 3 * 2 * 14 * 14, generator=generator)
        batch["image_grid_thw"] = torch.tensor([[1, 2, 4]] * batch_size)
    if kind == "qwen2_5_vl":
        batch["mm_token_type_ids"] = (ids == config.image_token_id).long()
    drawn = torch.rand(batch_size, length, generator=generator) < supervised
    drawn[:, prompt] = True
    drawn &= mask.bool() & (torch.arange(length) >= prompt)
    batch["labels"] = torch.where(drawn, ids, -100)
    if num_tasks is not None:
        batch["loss_task_index"] = torch.arange(batch_size) % num_tasks
    return batch


def _llama_config(tokenizer: PreTrainedTokenizerFast, **options: Any) -> LlamaConfig:
    return LlamaConfig(
        **{
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 512,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            **options,
        }
    )


def _settle(model: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    """Token ids for `generate`, and the eval mode in which `from_pretrained` returns models."""
    model.generation_config.bos_token_id = tokenizer.bos_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.eval()
