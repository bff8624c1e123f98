"""From records to requests: the conversation as messages, pictures without loss, and how many tokens that makes."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from cotbal.data.encode import Encoder
from cotbal.data.records import BadRecordsError, Problem, Record, RecordError

__all__ = ["Request", "RequestMaker", "renamed"]


@dataclass(frozen=True)
class Request:
    """One question as it is sent.

    Attributes:
        body: the JSON.
        tokens: of its prompt, pictures included, by our own processor.
        pictures: how many it has.
        source, index: the record it asks, by its file and position there.
    """

    body: bytes = field(repr=False)
    tokens: int
    pictures: int
    source: Path
    index: int

    def __str__(self) -> str:
        return f"{self.source}, record {self.index}"


class RequestMaker:
    """Makes the requests of one task.

    A server applies the chat template itself, so messages are sent from which it makes the same prompt as in-process
    scoring. Pictures go through the same handling too (`load_picture`) and are sent as PNG.

    Args:
        processor: the model's.
        model: what the server calls it.
        max_new_tokens: the longest answer.
        options: further fields of every request.
    """

    def __init__(
        self, processor: Any, model: str, max_new_tokens: int, options: Mapping[str, Any] | None = None
    ) -> None:
        self._encoder = Encoder(processor)
        # The penalties are 0 in so many words: servers take those that are not given from the checkpoint.
        self._fixed = {
            "model": model,
            "temperature": 0.0,
            "frequency_penalty": 0.0,
            "presence_penalty": 0.0,
            **(options or {}),
            "max_tokens": max_new_tokens,
        }

    def __call__(self, records: Sequence[Record]) -> Request:
        """The request of a list of one record.

        Raises:
            BadRecordsError: a picture cannot be decoded, or the template refuses the conversation.
        """
        (record,) = records
        try:
            prompt, messages = self._encoder.renderer.asked(record)
            pictures = self._encoder.images(record)
        except RecordError as error:
            raise BadRecordsError([Problem(record.source, record.index, str(error))]) from error
        tokens = self._encoder.encode([prompt], [pictures], side="left")["input_ids"].shape[1]
        urls = iter([_data_url(picture) for picture in pictures])
        body = {**self._fixed, "messages": [_with_pictures(message, urls) for message in messages]}
        return Request(json.dumps(body).encode(), int(tokens), len(pictures), record.source, record.index)


def renamed(request: Request, model: str) -> Request:
    """The same question to a model of another name."""
    body = json.dumps({**json.loads(request.body), "model": model}).encode()
    return Request(body, request.tokens, request.pictures, request.source, request.index)


def _with_pictures(message: Mapping[str, Any], urls: Any) -> dict[str, Any]:
    """A message of a chat template as one of OpenAI's."""
    content = message["content"]
    if isinstance(content, str):
        return dict(message)
    parts = [
        {"type": "image_url", "image_url": {"url": next(urls)}} if part["type"] == "image" else part
        for part in content
    ]
    return {**message, "content": parts}


def _data_url(picture: Image.Image) -> str:
    stream = BytesIO()
    # The quickest compression: most of the time the other end is on this machine.
    picture.save(stream, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
