"""Question and answer in fields: Alpaca's `instruction`, `input`, `output`, and ms-swift's `query`, `response`.

Earlier turns stand in `history: [[question, answer], ...]`. ms-swift's `conversation: [{"human", "assistant"}, ...]`
is read too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cotbal.data.fields import as_turn, record_images
from cotbal.data.loss_weights import message_weight
from cotbal.data.records import RawSample, RecordError, Turn


def parse_instruction(raw: Mapping[str, Any]) -> RawSample:
    """Read a record with `instruction`, `input` (which may be missing or empty) and `output`.

    Raises:
        RecordError: naming the field, what was found and what is accepted.
    """
    if raw.get("output") is None:
        raise RecordError("an 'instruction' without an 'output': there is no answer to train on")
    _refuse_beside(raw, "instruction", "context")
    question, more = raw["instruction"], raw.get("input")
    if more:
        question = f"{as_turn('user', question, 0).text}\n{as_turn('user', more, 0).text}".strip("\n")
    return _sample(raw, question, raw["output"])


def parse_query(raw: Mapping[str, Any]) -> RawSample:
    """Read a record with `query` and `response`.

    Raises:
        RecordError: naming the field, what was found and what is accepted.
    """
    if raw.get("response") is None:
        raise RecordError("a 'query' without a 'response': there is no answer to train on")
    _refuse_beside(raw, "query", "input")
    return _sample(raw, raw["query"], raw["response"])


def parse_conversation(raw: Mapping[str, Any]) -> RawSample:
    """Read a record with `conversation`, a list of exchanges.

    Raises:
        RecordError: naming the field, what was found and what is accepted.
    """
    exchanges = raw["conversation"]
    if not isinstance(exchanges, list):
        raise RecordError(f"'conversation' is {type(exchanges).__name__}; expected a list of exchanges")
    turns: list[Turn] = []
    for number, exchange in enumerate(exchanges):
        if not isinstance(exchange, Mapping) or not {"human", "assistant"} <= set(exchange):
            raise RecordError(f"'conversation[{number}]' has no 'human' and 'assistant'")
        turns.append(as_turn("user", exchange["human"], 2 * number))
        weight = message_weight(exchange, 2 * number + 1)
        turns.append(as_turn("assistant", exchange["assistant"], 2 * number + 1, weight))
    return RawSample(images=record_images(raw), turns=tuple(turns))


def _refuse_beside(raw: Mapping[str, Any], question: str, field: str) -> None:
    """A part of the question that is not read must not be lost without a word."""
    if raw.get(field):
        raise RecordError(
            f"{field!r} is not read beside {question!r}; write it into {question!r}, or remove it"
        )


def _sample(raw: Mapping[str, Any], question: object, answer: object) -> RawSample:
    turns: list[Turn] = []
    history = raw.get("history") or []
    if not isinstance(history, list):
        raise RecordError(f"'history' is {type(history).__name__}; expected a list of [question, answer]")
    for pair in [*history, (question, answer)]:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise RecordError(f"'history' holds {pair!r:.60}; expected [question, answer]")
        turns.append(as_turn("user", pair[0], len(turns)))
        turns.append(as_turn("assistant", pair[1], len(turns)))
    return RawSample(images=record_images(raw), turns=tuple(turns))
