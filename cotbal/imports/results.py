"""What the readers of other tools' files hand on."""

from __future__ import annotations

import ast
import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Result:
    """One sample of one model on one task.

    Attributes:
        where: its file and line, for errors.
        id: what it is paired by over the models.
        check: what has to be equal where ids are: a hash or the reference. Empty: nothing is known.
        score: the other tool's own, where there is one.
        unscored: why there is none.
        prediction, references: for a metric of ours; None and empty where the file has none.
        group: what the sample shares with others (its picture); empty: not known.
    """

    where: str
    id: str
    check: str = ""
    score: float | None = None
    unscored: str = ""
    prediction: str | None = None
    references: tuple[str, ...] = ()
    group: str = ""


@dataclass(frozen=True)
class ResultFile:
    """The samples of one file, and whether its scores are better when higher (None: the file does not say)."""

    results: tuple[Result, ...]
    higher_is_better: bool | None = None


def finite(value: Any) -> float | None:
    """A number or truth value, or the text of one, as a float; None for anything else, NaN and infinities."""
    if isinstance(value, str):
        value = {"true": 1.0, "false": 0.0}.get(value.strip().lower(), value)
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def texts(value: Any) -> tuple[str, ...]:
    """Accepted answers: a text, several, or several written as Python writes a list.

    A list of numbers is one answer, a box.

    >>> texts("['two', '2']"), texts([0.1, 0.2, 0.3, 0.4]), texts("[a]")
    (('two', '2'), ('[0.1, 0.2, 0.3, 0.4]',), ('[a]',))
    """
    if isinstance(value, str) and value.startswith("["):
        listed = literal(value)
        value = listed if isinstance(listed, list) and any(isinstance(v, str) for v in listed) else value
    if isinstance(value, list) and value and all(isinstance(entry, str) for entry in value):
        return tuple(value)
    return () if value is None or value == "" or value == [] else (str(value),)


def literal(text: str) -> Any:
    """The value of a Python literal, None where the text is none."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
