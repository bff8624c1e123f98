"""Boxes as models and data sets write them in text.

Every pattern uses possessive quantifiers and starts at a mark of its own, so that the time is linear in the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Layout = Literal["xyxy", "xywh"]
Scale = Literal["numbers", "tokens"]

# No picture is larger; it keeps areas far from the ends of what a float can hold.
LARGEST = 1e9

_NUMBER = r"[-+]?(?:\d++(?:\.\d*+)?+|\.\d++)(?:[eE][-+]?\d++)?+"
_COMMA = r"(?:\s*+,\s*+|\s++)"
_FIFTH = rf"(?:{_COMMA}(?P<score>{_NUMBER}))?+"
_FOUR = _COMMA.join(f"({_NUMBER})" for _ in range(4))
_TWO = _COMMA.join(f"({_NUMBER})" for _ in range(2))
_OPEN, _CLOSE = r"[\[(]\s*+", r"\s*+[\])]"
_TOKENS = re.compile("".join([r"<loc(_?+)(\d{1,4})>", *[r"<loc\1(\d{1,4})>"] * 3]))
_QWEN = re.compile(rf"""bbox_2d["']?\s*+:\s*+\[\s*+{_FOUR}\s*+\]""")
_BRACKETED = re.compile(rf"{_OPEN}{_FOUR}{_FIFTH}{_CLOSE}")
_CORNERS = re.compile(rf"{_OPEN}{_TWO}{_CLOSE}\s*+,?\s*+{_OPEN}{_TWO}{_CLOSE}")
_LISTED = re.compile(rf"(?<![\w.]){_NUMBER}(?:\s*+,\s*+{_NUMBER})*+(?!\w)")
_BLANKS = re.compile(rf"\s*+{_FOUR}\s*+\.?\s*+")


@dataclass(frozen=True)
class Box:
    """A box by its corners, x1 <= x2 and y1 <= y2.

    `scale` says how it was written: in numbers (of whatever unit), or in location tokens of the vocabulary.
    """

    x1: float
    y1: float
    x2: float
    y2: float
    scale: Scale = "numbers"

    @property
    def area(self) -> float:
        """Width times height."""
        return (self.x2 - self.x1) * (self.y2 - self.y1)


def parse_box(text: str, layout: Layout = "xyxy") -> Box | None:
    """The first box in `text`, or None when there is none, it is turned inside out, or is beyond 1e9.

    Read are, in this order, Qwen's `"bbox_2d": [a, b, c, d]`; location tokens, `<loc0010>` four times (PaliGemma: y
    before x) or `<loc_10>` (Florence: x before y), always two corners; `[a, b, c, d]`, also with a confidence from 0
    to 1 as a fifth number, and `(a, b), (c, d)`, whichever comes first; four numbers in a row between commas, within
    a sentence too; and four numbers between blanks that are the whole text.

    >>> parse_box('{"bbox_2d": [10, 20, 30, 40], "label": "7"}')
    Box(x1=10.0, y1=20.0, x2=30.0, y2=40.0, scale='numbers')
    >>> parse_box("(1,2),(3,4)", "xywh")
    Box(x1=1.0, y1=2.0, x2=4.0, y2=6.0, scale='numbers')
    >>> parse_box("It is at 1, 2, 3, 4.") == parse_box("[1, 2, 3, 4, 0.9]")
    True
    """
    tokens = None
    match = _QWEN.search(text)
    if match is None:
        tokens = _TOKENS.search(text)
    if tokens is not None:
        a, b, c, d = (float(group) for group in tokens.groups()[1:])
        corners = (a, b, c, d) if tokens.group(1) else (b, a, d, c)
        return _proper(*corners, "tokens")
    numbers = match.groups() if match is not None else _first_numbers(text)
    if numbers is None:
        return None
    a, b, c, d = (float(number) for number in numbers)
    return _proper(a, b, a + c, b + d) if layout == "xywh" else _proper(a, b, c, d)


def _first_numbers(text: str) -> tuple[str, ...] | None:
    bracketed = [
        (match.start(), match.groups()[:4])
        for match in (_first_bracketed(text), _CORNERS.search(text))
        if match is not None
    ]
    if bracketed:
        return min(bracketed)[1]
    for listed in _LISTED.finditer(text):
        numbers = listed.group().split(",")
        # Rows of numbers in brackets are boxes only as above.
        if "[" in text[max(0, listed.start() - 2) : listed.start()]:
            continue
        if len(numbers) == 4 or (len(numbers) == 5 and _is_confidence(numbers[4])):
            return tuple(numbers[:4])
    blanks = _BLANKS.fullmatch(text)
    return None if blanks is None else blanks.groups()


def _first_bracketed(text: str) -> re.Match[str] | None:
    return next(
        (
            match
            for match in _BRACKETED.finditer(text)
            if match["score"] is None or _is_confidence(match["score"])
        ),
        None,
    )


def _is_confidence(number: str) -> bool:
    return 0 <= float(number) <= 1


def _proper(x1: float, y1: float, x2: float, y2: float, scale: Scale = "numbers") -> Box | None:
    proper = -LARGEST <= x1 <= x2 <= LARGEST and -LARGEST <= y1 <= y2 <= LARGEST
    return Box(x1, y1, x2, y2, scale) if proper else None
