"""The shipped examples with models of the published dimensions and no weights, and data of their shape."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from PIL import Image
from support.models import tiny_models
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaProcessor, Qwen2_5_VLConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from cotbal.config.schema import Config, load_config

EXAMPLES = Path(__file__).parents[3] / "examples"
RECORDS = 200


def llava_7b() -> tuple[LlavaConfig, LlavaProcessor]:
    """LLaVA-1.5-7B: CLIP ViT-L/14 at 336 pixels, Vicuna-7B; 576 tokens per picture."""
    tiny = tiny_models.tiny_llava()[1].tokenizer
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}
        ),
        tokenizer=tiny,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=tiny_models.LLAVA_TEMPLATE,
    )
    vision = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
        projection_dim=768,
    )
    text = LlamaConfig(
        vocab_size=32064,
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=32,
        max_position_embeddings=4096,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tiny.convert_tokens_to_ids("<image>"),
        image_seq_length=576,
    )
    config.architectures = ["LlavaForConditionalGeneration"]
    return config, processor


def qwen_7b() -> tuple[Qwen2_5_VLConfig, tiny_models.PictureQwenProcessor]:
    """Qwen2.5-VL-7B; one token for 28 x 28 pixels, at most 16,384 per picture."""
    tokenizer = tiny_models.tiny_qwen2_5_vl()[1].tokenizer
    processor = tiny_models.PictureQwenProcessor(
        image_processor=Qwen2VLImageProcessorPil(
            size={"shortest_edge": 3136, "longest_edge": 12_845_056}, patch_size=14, merge_size=2
        ),
        tokenizer=tokenizer,
        chat_template=tiny_models.CHATML_TEMPLATE,
    )
    text = {
        "vocab_size": 152_064,
        "hidden_size": 3584,
        "intermediate_size": 18_944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "max_position_embeddings": 128_000,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": 3584,
        "fullatt_block_indexes": [7, 15, 23, 31],
        "window_size": 112,
    }
    ids = tokenizer.convert_tokens_to_ids
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
        tie_word_embeddings=False,
    )
    config.architectures = ["Qwen2_5_VLForConditionalGeneration"]
    return config, processor


def write_example(name: str, folder: Path, model: Any, /, **changes: Any) -> Config:
    """A shipped example beside data of its shape, with a model described in `folder`.

    Args:
        name: of the file in `examples`.
        folder: where all is written.
        model: the model's config.
        changes: keys that are set in sections of the example; a section that is None is left out.
    """
    values = yaml.safe_load((EXAMPLES / name).read_text())
    described = folder / "described"
    model.save_pretrained(described)
    values["model"] |= {"name": str(described)}
    for section, change in changes.items():
        values[section] = {**values.get(section, {}), **change} if isinstance(change, dict) else change
    (folder / "data" / "images").mkdir(parents=True)
    Image.new("RGB", (1000, 700)).save(folder / "data" / "images" / "0.png")
    for task in values["tasks"]:
        for split in ("train", "validation", "test"):
            paths = task.get(split, [])
            for path in [paths] if isinstance(paths, str) else paths:
                _write_records(folder / path, with_picture="images" in task)
    path = folder / name
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return load_config(path)


def _write_records(path: Path, *, with_picture: bool) -> None:
    """Records of up to about two thousand tokens."""
    records = []
    for number in range(RECORDS):
        text = "the digits in this scene " * (number * 205 // RECORDS)
        records.append(
            {
                "id": str(number),
                "conversations": [
                    {"from": "human", "value": ("<image>\n" if with_picture else "") + f"{text}?"},
                    {"from": "gpt", "value": "three digits"},
                ],
                **({"image": "0.png"} if with_picture else {}),
            }
        )
    lines = [json.dumps(record) for record in records]
    path.write_text("\n".join(lines) + "\n" if path.suffix == ".jsonl" else json.dumps(records))
