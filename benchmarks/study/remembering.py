"""Keep in memory what becomes of each record: a process of the study encodes the same few thousand again and again.

What is kept is what was made the first time, so results are the same to the bit; a unit takes about a third less.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from PIL import Image

from cotbal.data.chat import ChatRenderer, RenderedChat
from cotbal.data.encode import Encoder
from cotbal.data.pictures import load_picture
from cotbal.data.prompts import PromptCollator
from cotbal.data.records import Record

__all__ = ["remember"]


def remember(processor: Any) -> None:
    """Let the encoders of this process remember texts and pictures; all are of one processor."""
    render: Callable[[ChatRenderer, Record], RenderedChat] = ChatRenderer.render
    tokens = Encoder.tokens
    renderer, encoder = ChatRenderer(processor), Encoder(processor)
    rendered = cache(lambda record: render(renderer, record))
    tokenized = cache(lambda text: tokens(encoder, text))
    loaded = cache(load_picture)
    prepare = processor.image_processor.preprocess
    # By the picture itself, which `loaded` keeps and gives every time.
    pixels: dict[int, torch.Tensor] = {}

    def preprocess(images: list[list[Image.Image]], **options: Any) -> dict[str, torch.Tensor]:
        pictures = [picture for row in images for picture in row]
        for picture in pictures:
            if id(picture) not in pixels:
                pixels[id(picture)] = prepare([picture], return_tensors="pt")["pixel_values"]
        return {"pixel_values": torch.cat([pixels[id(picture)] for picture in pictures])}

    collate = PromptCollator.__call__
    prompts = cache(lambda records: collate(PromptCollator(processor), records))

    ChatRenderer.render = lambda self, record: rendered(record)  # type: ignore[method-assign]
    Encoder.tokens = lambda self, text: tokenized(text)  # type: ignore[method-assign]
    Encoder.images = lambda self, record: tuple(map(loaded, record.images))  # type: ignore[method-assign]
    type(processor.image_processor).preprocess = lambda self, images, **options: preprocess(images, **options)
    PromptCollator.__call__ = lambda self, records: dict(prompts(tuple(records)))  # type: ignore[method-assign]
