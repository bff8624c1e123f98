"""Prompt and completion: `{"prompt", "completion", "images"}`, each a string or a list of messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cotbal.data.fields import as_turn, record_images
from cotbal.data.messages import choose_images, message_turns
from cotbal.data.records import RawSample, RecordError, Role, Turn

FIELD = "prompt"


def parse(raw: Mapping[str, Any]) -> RawSample:
    """Read one record.

    Raises:
        RecordError: naming the field, what was found and what is accepted.
    """
    if raw.get("completion") is None:
        raise RecordError("a 'prompt' without a 'completion': there is no answer to train on")
    prompt, asked = _side(raw["prompt"], "prompt", "user")
    completion, shown = _side(raw["completion"], "completion", "assistant")
    return RawSample(images=choose_images(record_images(raw), asked + shown), turns=prompt + completion)


def _side(value: object, field: str, role: Role) -> tuple[tuple[Turn, ...], tuple[str | bytes, ...]]:
    if isinstance(value, str):
        return (as_turn(role, value, 0),), ()
    return message_turns(value, field)
