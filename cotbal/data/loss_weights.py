"""Which answers of a record are trained on, and with what weight, as the common formats write it.

In a message: `loss`, `loss_scale` (ms-swift), `loss_weight` (LLaMA-Factory), `train` (Axolotl), `weight` (OpenAI),
each a number or a boolean. Beside the turns: `loss_mask`, `loss_weights`, `loss_scale` or `loss_weight`, one for all
answers or one per turn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from cotbal.data.fields import kind_of
from cotbal.data.records import RecordError, Turn

_OF_MESSAGES = ("loss", "loss_scale", "loss_weight", "loss_mask", "train", "weight")
_OF_RECORDS = (
    "loss_mask",
    "loss_masks",
    "loss_weights",
    "loss_scale",
    "loss_weight",
    "loss",
    "sample_weight",
)
# Fields that other programs take for a mask in ways that numbers do not tell.
_REFUSED = ("train_detail", "train_on", "mask", "masked", "ignore", "trainable", "loss_scale_type")
_NEEDS_A_LOOK = frozenset((*_OF_MESSAGES, *_REFUSED))
_RECORD_NEEDS_A_LOOK = frozenset((*_OF_RECORDS, "weight", "mask"))


def message_weight(message: Mapping[str, Any], position: int) -> float | None:
    """The loss weight that a message gives itself, or None.

    Raises:
        RecordError: not a number of at least 0 nor a boolean, several that differ, or a mask of another kind.
    """
    if _NEEDS_A_LOOK.isdisjoint(message):
        return None
    for field in _REFUSED:
        if message.get(field) is not None:
            raise RecordError(f"turn {position} has {field!r}, which is not supported; use 'loss_weight'")
    found = {
        field: _number(message[field], f"turn {position}: {field!r}")
        for field in _OF_MESSAGES
        if message.get(field) is not None
    }
    if len(set(found.values())) > 1:
        raise RecordError(f"turn {position} has loss weights that differ: {found}")
    return next(iter(found.values()), None)


def weighted(turns: tuple[Turn, ...], raw: Mapping[str, Any]) -> tuple[Turn, ...]:
    """The turns with the weights that stand beside them multiplied in.

    Args:
        turns: as they are listed in the record, a system prompt beside them not among them.

    Raises:
        RecordError: a list of another length than the turns, a loss on a turn that is not an answer, or something
            that could be either a loss weight or not.
    """
    if _RECORD_NEEDS_A_LOOK.isdisjoint(raw):
        return turns
    field = next((field for field in _OF_RECORDS if raw.get(field) is not None), None)
    ambiguous = raw.get("weight")
    if isinstance(ambiguous, (int, float, list)) and ambiguous != 1:
        raise RecordError(
            "'weight' beside the turns could be a loss weight or anything else; call it 'loss_weight', or remove it"
        )
    mask = raw.get("mask")
    if mask is not None and str(mask).lower() not in ("user", "human"):
        raise RecordError(f"'mask' is {mask!r:.40}; use 'loss_mask' with one number per turn")
    if field is None:
        return turns
    value = raw[field]
    if not isinstance(value, list):
        factor = _number(value, repr(field))
        return tuple(_times(turn, factor) for turn in turns)
    if len(value) != len(turns):
        raise RecordError(f"{field!r} has {len(value)} entries for {len(turns)} turns; expected one per turn")
    weights = [_number(item, f"{field!r}[{position}]") for position, item in enumerate(value)]
    for position, (turn, weight) in enumerate(zip(turns, weights, strict=True)):
        if turn.role != "assistant" and weight:
            raise RecordError(
                f"{field!r} asks for a loss on turn {position} ({turn.role}); "
                "only the assistant's turns are trained on"
            )
    return tuple(_times(turn, weight) for turn, weight in zip(turns, weights, strict=True))


def refuse_without_loss(turns: Sequence[Turn]) -> None:
    """Raise RecordError where every answer has weight 0."""
    if not any(turn.weight > 0 for turn in turns if turn.role == "assistant"):
        raise RecordError("no answer to train on: every one is masked out by its loss weight of 0")


def _times(turn: Turn, factor: float) -> Turn:
    return replace(turn, weight=turn.weight * factor) if turn.role == "assistant" else turn


def _number(value: object, place: str) -> float:
    if isinstance(value, (bool, int, float)) and math.isfinite(value) and value >= 0:
        return float(value)
    shown = repr(value)[:40] if isinstance(value, (int, float, str)) else kind_of(value)
    raise RecordError(f"{place} is {shown}; expected a loss weight: true, false or a number of at least 0")
