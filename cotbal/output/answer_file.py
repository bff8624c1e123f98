"""Answers kept as they come, one line each, so that a killed scoring goes on where it was."""

from __future__ import annotations

import json
import math
import zlib

from cotbal.output.store import json_line

__all__ = ["Answer", "answer_line", "read_answer"]

Answer = str | float
"""A generated text or, for a metric of losses, the mean loss of an answer's tokens."""


def answer_line(index: int, value: Answer, source: str) -> str:
    """The line of one sample's answer; `source` is what it came from, and is not written."""
    return json_line({"index": index, "answer": value, "check": _check(index, value, source)})


def read_answer(line: bytes, kind: type[str] | type[float], source: str) -> tuple[int, Answer] | None:
    """The sample's index and its answer; None if the line is damaged, or came from another source."""
    try:
        values = json.loads(line)
        index, value = values["index"], values["answer"]
        fits = type(index) is int and type(value) is kind and (isinstance(value, str) or math.isfinite(value))
        whole = line.endswith(b"\n") and fits and values["check"] == _check(index, value, source)
    except (ValueError, RecursionError, KeyError, TypeError):
        return None
    return (index, value) if whole else None


def _check(index: int, value: Answer, source: str) -> int:
    return zlib.crc32(json.dumps([index, value, source]).encode())
