"""Chat formats: `{"messages": [{"role", "content"}], "images", "channel"}` (ms-swift, LLaMA-Factory, HF).

A content is a string or HF's typed list, `[{"type": "image", "image": PATH}, {"type": "text", "text": ...}]`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cotbal.data.fields import (
    as_turn,
    image_path,
    image_paths,
    record_id,
    record_references,
    record_task,
)
from cotbal.data.records import IMAGE_PLACEHOLDER, RawSample, RecordError, Turn


def matches(raw: Mapping[str, Any]) -> bool:
    """True for a record with a `messages` field."""
    return "messages" in raw


def parse(raw: Mapping[str, Any]) -> RawSample:
    """Read one record.

    Raises:
        RecordError: naming the field, what was found and what is accepted.
    """
    turns, inside = message_turns(raw["messages"], "messages")
    beside = image_paths(raw)
    return RawSample(
        id=record_id(raw),
        task=record_task(raw),
        images=choose_images(beside, inside),
        turns=turns,
        references=record_references(raw),
    )


def message_turns(messages: object, field: str) -> tuple[tuple[Turn, ...], tuple[str, ...]]:
    """Turns of a list of messages, and the image paths found inside typed contents.

    Raises:
        RecordError: it is not a list of messages.
    """
    if not isinstance(messages, list):
        raise RecordError(f"'{field}' is {type(messages).__name__}; expected a list of messages")
    turns: list[Turn] = []
    images: list[str] = []
    for position, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise RecordError(f"turn {position} is {type(message).__name__}; expected an object")
        content = message.get("content")
        if isinstance(content, list):
            content = _flatten(content, position, images)
        turns.append(as_turn(message.get("role"), content, position))
    return tuple(turns), tuple(images)


def choose_images(beside: tuple[str, ...], inside: tuple[str, ...]) -> tuple[str, ...]:
    """Images listed beside the messages or inside them; not both.

    Raises:
        RecordError: both are given.
    """
    if beside and inside:
        raise RecordError("images are listed beside the messages and inside them; expected one of the two")
    return beside or inside


def _flatten(content: list[object], position: int, images: list[str]) -> str:
    """Text of a typed content, an image part becoming a placeholder; its path, if any, goes to `images`."""
    texts: list[str] = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
        if isinstance(part, Mapping) and kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif isinstance(part, Mapping) and kind in ("image", "image_url"):
            texts.append(IMAGE_PLACEHOLDER)
            source = next((part[key] for key in ("image", "path", "url", "image_url") if part.get(key)), None)
            if source is not None:
                images.append(image_path(source, "content"))
        else:
            raise RecordError(
                f"turn {position} has a content part of type {kind!r}; known are text and image"
            )
    return "".join(texts)
