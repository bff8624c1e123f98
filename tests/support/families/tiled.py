"""Families that cut pictures into tiles."""

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
from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    Llama4Config,
    Llama4ForConditionalGeneration,
    LlamaConfig,
    MllamaConfig,
    MllamaForConditionalGeneration,
    MllamaProcessor,
    Phi4MultimodalConfig,
    Phi4MultimodalForCausalLM,
    Qwen2Config,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil

_TORCHVISION = ("torchvision",)
_SMOLVLM = ("torchvision", "num2words")
_LLAMA4 = "its processor gives pictures in bfloat16, which a float32 model refuses; they are cast here"
_IDEFICS = ("<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>")


def _idefics_config(kind: Any, tokenizer: Any) -> Any:
    return kind(
        vision_config=vision_sizes(),
        text_config=LlamaConfig(**text_sizes(tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )


def _idefics3() -> Made:
    chat = template("<image>")
    tokenizer = chat_tokenizer(*_IDEFICS, chat=chat)
    processor = Idefics3Processor(
        Idefics3ImageProcessorPil(size={"longest_edge": 2 * PIXELS}, max_image_size={"longest_edge": PIXELS}),
        tokenizer,
        image_seq_len=1,
        chat_template=chat,
    )
    model = settled(Idefics3ForConditionalGeneration, _idefics_config(Idefics3Config, tokenizer), tokenizer)
    return model, processor


def _smolvlm() -> Made:
    chat = template("<image>")
    tokenizer = chat_tokenizer(*_IDEFICS, chat=chat)
    model = settled(SmolVLMForConditionalGeneration, _idefics_config(SmolVLMConfig, tokenizer), tokenizer)
    if not usable(_SMOLVLM):
        return model, None
    pictures = transformers.SmolVLMImageProcessor(
        size={"longest_edge": 2 * PIXELS}, max_image_size={"longest_edge": PIXELS}
    )
    return model, transformers.SmolVLMProcessor(
        pictures, tokenizer, transformers.SmolVLMVideoProcessor(), image_seq_len=1, chat_template=chat
    )


def _smolvlm_tensors(model: Any, seed: int) -> Batch:
    batch = token_batch(model, seed)
    batch["input_ids"][:2, 2] = model.config.image_token_id
    generator = torch.Generator().manual_seed(seed)
    batch["pixel_values"] = torch.randn(3, 1, 3, PIXELS, PIXELS, generator=generator)
    batch["pixel_values"][2] = 0  # no picture there
    return batch


def _internvl() -> Made:
    marks = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    chat = template("<IMG_CONTEXT>\\n")
    tokenizer = chat_tokenizer(chat=chat, **marks)
    processor = pictures_only(
        InternVLProcessor,
        image_processor=GotOcr2ImageProcessorPil(size={"height": PIXELS, "width": PIXELS}, max_patches=2),
        tokenizer=tokenizer,
        video_processor=None,
        image_seq_length=1,
        chat_template=chat,
    )
    config = InternVLConfig(
        vision_config={**vision_sizes(), "image_size": [PIXELS, PIXELS], "patch_size": [14, 14]},
        text_config=Qwen2Config(**text_sizes(tokenizer)),
        image_token_id=tokenizer.context_image_token_id,
        image_seq_length=1,
        tie_word_embeddings=False,
    )
    return settled(InternVLForConditionalGeneration, config, tokenizer), processor


def _mllama() -> Made:
    chat = template("<|image|>", bos=True)
    tokenizer = chat_tokenizer("<|python_tag|>", chat=chat, image_token="<|image|>")
    processor = MllamaProcessor(
        MllamaImageProcessorPil(size={"height": PIXELS, "width": PIXELS}, max_image_tiles=2),
        tokenizer,
        chat_template=chat,
    )
    config = MllamaConfig(
        vision_config={
            "hidden_size": 32,
            "attention_heads": 2,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_global_layers": 1,
            "image_size": PIXELS,
            "patch_size": 14,
            "max_num_tiles": 2,
            "vision_output_dim": 64,
            "intermediate_layers_indices": [0],
            "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]],
        },
        text_config=text_sizes(tokenizer, num_hidden_layers=3, cross_attention_layers=[1]),
        image_token_index=tokenizer.image_token_id,
    )
    model = settled(MllamaForConditionalGeneration, config, tokenizer)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "gate" in name and parameter.numel() == 1:
                parameter.fill_(0.5)  # as initialised they are 0, and no picture would count
    return model, processor


def _llama4() -> Made:
    marks = ("<|image_start|>", "<|image_end|>", "<|tile_x_separator|>", "<|tile_y_separator|>", "<|image|>")
    chat = template("<|image|>")
    tokenizer = chat_tokenizer("<|patch|>", *marks, chat=chat)
    config = Llama4Config(
        vision_config={
            **vision_sizes(),
            "vision_output_dim": 32,
            "projector_input_dim": 32,
            "projector_output_dim": 32,
            "intermediate_size": 128,
        },
        text_config=text_sizes(
            tokenizer,
            head_dim=16,
            intermediate_size_mlp=48,
            num_local_experts=2,
            interleave_moe_layer_step=2,
            attention_chunk_size=16,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<|patch|>"),
    )
    model = settled(Llama4ForConditionalGeneration, config, tokenizer)
    if not usable(_TORCHVISION):
        return model, None
    pictures = transformers.Llama4ImageProcessor(size={"height": PIXELS, "width": PIXELS}, max_patches=2)
    return model, transformers.Llama4Processor(pictures, tokenizer, patch_size=14, chat_template=chat)


def _llama4_tensors(model: Any, seed: int) -> Batch:
    batch = token_batch(model, seed)
    batch["input_ids"][:2, 2] = model.config.image_token_index
    batch["pixel_values"] = torch.randn(2, 3, PIXELS, PIXELS, generator=torch.Generator().manual_seed(seed))
    return batch


def _phi4() -> Made:
    chat = template("<|image|>")
    tokenizer = chat_tokenizer(chat=chat, image_token="<|image|>", audio_token="<|audio|>")
    # Its processor counts the tokens of crops of 32 x 32 patches, whatever their size.
    side, patch = (64, 2) if usable(_TORCHVISION) else (PIXELS, 14)
    config = Phi4MultimodalConfig(
        **text_sizes(tokenizer, max_position_embeddings=2048),
        vision_config={
            **vision_sizes(),
            "crop_size": side,
            "image_size": side,
            "patch_size": patch,
            "image_token_id": tokenizer.image_token_id,
        },
        audio_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_blocks": 1,
            "num_attention_heads": 2,
            "ext_pw_out_channel": 32,
            "depthwise_separable_out_channel": 32,
            "nemo_conv_channels": 32,
            "input_size": 16,
            "audio_token_id": tokenizer.audio_token_id,
        },
    )
    model = settled(Phi4MultimodalForCausalLM, config, tokenizer)
    if not usable(_TORCHVISION):
        return model, None
    return model, transformers.Phi4MultimodalProcessor(
        transformers.Phi4MultimodalImageProcessor(size={"height": side, "width": side}, patch_size=patch),
        transformers.Phi4MultimodalFeatureExtractor(),
        tokenizer,
        chat_template=chat,
    )


def _phi4_tensors(model: Any, seed: int) -> Batch:
    batch = token_batch(model, seed)
    # One crop and the whole picture, 1 token each, and 3 that end their lines and stand between them.
    batch["input_ids"][:2, 1:6] = model.config.vision_config.image_token_id
    generator = torch.Generator().manual_seed(seed)
    batch["image_pixel_values"] = torch.randn(2, 2, 3, PIXELS, PIXELS, generator=generator)
    batch["image_sizes"] = torch.tensor([[PIXELS, PIXELS]] * 2)
    batch["image_attention_mask"] = torch.ones(2, 2, 2, 2)
    return batch


FAMILIES = (
    Family("Idefics3", _idefics3),
    Family(
        "SmolVLM",
        _smolvlm,
        tensors=_smolvlm_tensors,
        needs=_SMOLVLM,
    ),
    Family("InternVL", _internvl),
    Family(
        "Mllama (Llama 3.2 Vision)",
        _mllama,
        apart=True,
        note="transformers lets rows without pictures attend to the padding of others",
    ),
    Family("Llama 4", _llama4, tensors=_llama4_tensors, needs=_TORCHVISION, note=_LLAMA4),
    Family(
        "Phi-4-multimodal",
        _phi4,
        tensors=_phi4_tensors,
        lora=("qkv_proj", "o_proj"),
        needs=_TORCHVISION,
    ),
)
