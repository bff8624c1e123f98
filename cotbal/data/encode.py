"""One face for multimodal processors and plain tokenizers: rendering, tokens, images, batches, positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from PIL import Image

from cotbal.data.chat import ChatRenderer
from cotbal.data.pictures import load_picture
from cotbal.data.records import Record
from cotbal.data.special_tokens import PLACEHOLDER_ATTRIBUTES
from cotbal.data.token_spans import expanded_positions


class Encoder:
    """What collation needs of a processor (with images) or a tokenizer (text only).

    Attributes:
        renderer: the processor's chat template.
        sees: whether it takes images.
        mixes_rows: whether rows with and without images may share a batch. Where pictures are attended to from
            layers of their own (Mllama), transformers' model adds the mean of a blank picture to rows without one.

    Raises:
        ValueError: no chat template, no fast tokenizer, or no padding token.
    """

    def __init__(self, processor: Any) -> None:
        self.renderer = ChatRenderer(processor)
        self.processor = processor
        self.tokenizer = self.renderer.tokenizer
        name = type(self.tokenizer).__name__
        if not getattr(self.tokenizer, "is_fast", False):
            raise ValueError(f"{name} is not a fast tokenizer; answers are located by its character offsets")
        if self.tokenizer.pad_token is None:
            raise ValueError(
                f"{name} has no padding token; set one, such as tokenizer.pad_token = tokenizer.eos_token"
            )
        self.sees = getattr(processor, "image_processor", None) is not None
        self.mixes_rows = "cross_attention_mask" not in getattr(processor, "model_input_names", ())
        self.placeholders = self._placeholders() if self.sees else frozenset()

    def tokens(self, text: str) -> tuple[tuple[int, ...], list[tuple[int, int]]]:
        """Token ids of a text, images one placeholder each, and their (start, end) characters."""
        encoded = self.tokenizer(text, return_offsets_mapping=True, truncation=False, **self._special(text))
        return tuple(encoded["input_ids"]), encoded["offset_mapping"]

    def encode(
        self, texts: Sequence[str], images: Sequence[Sequence[Image.Image]], side: Literal["left", "right"]
    ) -> dict[str, Any]:
        """The processor's tensors for a batch of texts and their images, padded on the given side."""
        # A tokenizer's file may hold a truncation of its own; only `max_length` cuts.
        options = {
            "padding": True,
            "padding_side": side,
            "truncation": False,
            "return_tensors": "pt",
            **self._special(texts[0]),
        }
        if not self.sees:
            return dict(self.tokenizer(list(texts), **options))
        if not any(images):
            return dict(self.processor(text=list(texts), images=None, **options))
        if not self.mixes_rows and not all(images):
            raise ValueError(
                f"{type(self.processor).__name__}: a batch holds rows with and without pictures, and in this family "
                "rows without pictures attend to the padding of the others; use batches of one row"
            )
        # One list per row says which image is whose, in rows without images too.
        return dict(self.processor(text=list(texts), images=[list(row) for row in images], **options))

    def locate(self, plain: Sequence[int], expanded: Sequence[int]) -> list[int]:
        """Positions in a row of the batch of the tokens that `tokens` gave; -1 for image placeholders.

        Raises:
            ValueError: the processor did more to the text than to expand images.
        """
        try:
            return expanded_positions(plain, expanded, self.placeholders)
        except ValueError as error:
            raise ValueError(
                f"{type(self.processor).__name__}: {error}; its answers cannot be located"
            ) from None

    def images(self, record: Record) -> tuple[Image.Image, ...]:
        """The record's images, as `load_picture` gives them.

        Raises:
            RecordError: a file is missing or cannot be decoded.
            PictureFaultError: a file is there, but the machine cannot read it.
            ValueError: the record has images and the processor takes none.
        """
        if record.images and not self.sees:
            raise ValueError(
                f"{record.source}, record {record.index} has images, but {type(self.processor).__name__} takes none; "
                "hand in the model's processor, not its tokenizer"
            )
        return tuple(map(load_picture, record.images))

    def _special(self, text: str) -> dict[str, bool]:
        return {"add_special_tokens": False} if self.renderer.starts_with_bos(text) else {}

    def _placeholders(self) -> frozenset[int]:
        found: set[int] = set()
        for attribute in PLACEHOLDER_ATTRIBUTES:
            token = getattr(self.processor, attribute, None)
            if isinstance(token, str) and token:
                ids = self.tokenizer.encode(token, add_special_tokens=False)
                if len(ids) == 1:
                    found.update(ids)
        return frozenset(found)
