"""LLaVA's format: `{"id", "image", "conversations": [{"from", "value"}], "task"}`.

Also what LLaMA-Factory calls ShareGPT: the same `conversations`, with `images` and `system` beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cotbal.data.fields import ROLES, as_turn, record_images
from cotbal.data.loss_weights import message_weight
from cotbal.data.records import RawSample, RecordError, Turn
from cotbal.data.unsupported import refuse_unsupported_turn

FIELD = "conversations"


def parse(raw: Mapping[str, Any]) -> RawSample:
    """Read one record.

    Raises:
        RecordError: naming the field, what was found and what is accepted.
    """
    conversation = raw[FIELD]
    if not isinstance(conversation, list):
        raise RecordError(f"'conversations' is {type(conversation).__name__}; expected a list of turns")
    turns: list[Turn] = []
    for position, turn in enumerate(conversation):
        if type(turn) is dict and len(turn) == 2:
            # The common case, which makes up millions of turns, without the other fields' checks.
            speaker, text = turn.get("from"), turn.get("value")
            role = ROLES.get(speaker) if type(speaker) is str else None
            if role is not None and type(text) is str and text.isascii():
                turns.append(Turn(role, text))
                continue
        if not isinstance(turn, Mapping):
            raise RecordError(f"turn {position} is {type(turn).__name__}; expected an object")
        refuse_unsupported_turn(turn, position)
        speaker, said = _one_of(turn, "from", "role", position), _one_of(turn, "value", "content", position)
        turns.append(as_turn(speaker, said, position, message_weight(turn, position)))
    return RawSample(images=record_images(raw), turns=tuple(turns))


def _one_of(turn: Mapping[str, Any], field: str, other: str, position: int) -> object:
    """What stands in one of two fields; tables fill what a turn lacks with nothing."""
    first, second = turn.get(field), turn.get(other)
    if first is not None and second is not None and first != second:
        raise RecordError(f"turn {position} has {field!r} and {other!r}, which differ; keep one of the two")
    return second if first is None else first
