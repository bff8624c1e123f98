"""Chat formats: `{"messages": [{"role", "content"}], "images", "channel"}` (ms-swift, LLaMA-Factory, HF).

A content is a string or HF's typed list, `[{"type": "image", "image": PATH}, {"type": "text", "text": ...}]`;
LLaMA-Factory's v1 writes `value` for what is in a part.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cotbal.data.fields import as_turn, image_source, record_images
from cotbal.data.loss_weights import message_weight
from cotbal.data.records import IMAGE_PLACEHOLDER, RawSample, RecordError, Turn
from cotbal.data.unsupported import refuse_unsupported_turn

FIELD = "messages"


def parse(raw: Mapping[str, Any]) -> RawSample:
    """Read one record.

    Raises:
        RecordError: naming the field, what was found and what is accepted.
    """
    turns, inside = message_turns(raw[FIELD], FIELD)
    return RawSample(images=choose_images(record_images(raw), inside), turns=turns)


def message_turns(messages: object, field: str) -> tuple[tuple[Turn, ...], tuple[str | bytes, ...]]:
    """Turns of a list of messages, and the images found inside typed contents.

    Raises:
        RecordError: it is not a list of messages.
    """
    if not isinstance(messages, list):
        raise RecordError(f"'{field}' is {type(messages).__name__}; expected a list of messages")
    turns: list[Turn] = []
    images: list[str | bytes] = []
    for position, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise RecordError(f"turn {position} is {type(message).__name__}; expected an object")
        refuse_unsupported_turn(message, position)
        content = message.get("content")
        if isinstance(content, list):
            content = _flatten(content, position, images)
        turns.append(as_turn(message.get("role"), content, position, message_weight(message, position)))
    return tuple(turns), tuple(images)


def choose_images(
    beside: tuple[str | bytes, ...], inside: tuple[str | bytes, ...]
) -> tuple[str | bytes, ...]:
    """Images listed beside the messages or inside them; where both list them, the same ones.

    Raises:
        RecordError: both are given, and they differ.
    """
    if beside and inside and beside != inside:
        raise RecordError("images are listed beside the messages and inside them; expected one of the two")
    return beside or inside


def _flatten(content: list[object], position: int, images: list[str | bytes]) -> str:
    """Text of a typed content, an image part becoming a placeholder; its image, if any, goes to `images`."""
    texts: list[str] = []
    for part in content:
        if not isinstance(part, Mapping):
            raise RecordError(
                f"turn {position} has a content part that is {type(part).__name__}; expected an object"
            )
        kind = part.get("type")
        if kind == "text":
            text = _either(part, "text", "value")
            if not isinstance(text, str):
                raise RecordError(
                    f"turn {position} has a text part without its 'text' (found {', '.join(map(str, part))})"
                )
            texts.append(text)
        elif kind in ("image", "image_url"):
            texts.append(IMAGE_PLACEHOLDER)
            source = _either(part, "image", "path", "url", "image_url", "value")
            if source is not None:
                images.append(image_source(source, "content"))
        else:
            raise RecordError(
                f"turn {position} has a content part of type {kind!r:.40}; known are text and image"
            )
    return "".join(texts)


def _either(part: Mapping[str, Any], *keys: str) -> Any:
    """The first of the part's values that is there; tables fill what a part lacks with nothing."""
    return next((part[key] for key in keys if part.get(key) is not None), None)
