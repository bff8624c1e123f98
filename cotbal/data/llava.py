"""The LLaVA format: `{"id", "image", "conversations": [{"from", "value"}], "task"}`.

Also what LLaMA-Factory calls ShareGPT: the same `conversations`, with `images` and `system` beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cotbal.data.fields import (
    as_turn,
    image_paths,
    record_id,
    record_references,
    record_task,
)
from cotbal.data.records import RawSample, RecordError, Turn


def matches(raw: Mapping[str, Any]) -> bool:
    """True for a record with a `conversations` field."""
    return "conversations" in raw


def parse(raw: Mapping[str, Any]) -> RawSample:
    """Read one record.

    Raises:
        RecordError: naming the field, what was found and what is accepted.
    """
    conversation = raw["conversations"]
    if not isinstance(conversation, list):
        raise RecordError(f"'conversations' is {type(conversation).__name__}; expected a list of turns")
    turns: list[Turn] = []
    if raw.get("system"):
        turns.append(as_turn("system", raw["system"], 0))
    for position, turn in enumerate(conversation):
        if not isinstance(turn, Mapping):
            raise RecordError(f"turn {position} is {type(turn).__name__}; expected an object")
        role = turn.get("from", turn.get("role"))
        text = turn.get("value", turn.get("content"))
        turns.append(as_turn(role, text, position))
    return RawSample(
        id=record_id(raw),
        task=record_task(raw),
        images=image_paths(raw),
        turns=tuple(turns),
        references=record_references(raw),
    )
