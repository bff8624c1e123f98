"""From records to left-padded prompts for generation, and back from what was generated to answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from cotbal.data.encode import Encoder
from cotbal.data.records import BadRecordsError, Problem, Record, RecordError


@dataclass
class PromptCollator:
    """Turns lists of records into left-padded prompts for `model.generate`.

    A prompt is the conversation up to the last question, with the template's opening of the answer: exactly
    the characters that stand before the supervised ones in training.

    Args:
        processor: as for `TaskCollator`.

    Raises:
        ValueError: the processor has no chat template, fast tokenizer or padding token.
    """

    processor: Any

    def __post_init__(self) -> None:
        self._encoder = Encoder(self.processor)

    def __call__(self, records: Sequence[Record]) -> dict[str, Any]:
        """The processor's tensors for the prompts.

        Raises:
            BadRecordsError: an image cannot be decoded or the template refuses a conversation; a sample that
                is scored is never left out in silence.
        """
        texts: list[str] = []
        images: list[tuple[Image.Image, ...]] = []
        for record in records:
            try:
                texts.append(self._encoder.renderer.render(record).prompt)
                images.append(self._encoder.images(record))
            except RecordError as error:
                raise BadRecordsError([Problem(record.source, record.index, str(error))]) from error
        return self._encoder.encode(texts, images, side="left")

    def decode(self, batch: dict[str, Any], generated: torch.Tensor) -> list[str]:
        """The answers in what `generate` returned for a batch: prompts and special tokens cut off."""
        answers = generated[:, batch["input_ids"].shape[1] :]
        tokenizer = self._encoder.tokenizer
        return [text.strip() for text in tokenizer.batch_decode(answers, skip_special_tokens=True)]
