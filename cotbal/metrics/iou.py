"""Intersection over union of boxes written in text."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Layout = Literal["xyxy", "xywh"]

_NUMBER = r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"
_COMMA = r"(?:\s*,\s*|\s+)"
_FOUR = _COMMA.join([_NUMBER] * 4)
_TWO = _COMMA.join([_NUMBER] * 2)
_OPEN, _CLOSE = r"[\[(]\s*", r"\s*[\])]"
_QWEN = re.compile(rf"""["']?bbox_2d["']?\s*:\s*\[\s*{_FOUR}\s*\]""")
_BRACKETED = re.compile(rf"{_OPEN}{_FOUR}{_CLOSE}|{_OPEN}{_TWO}{_CLOSE}\s*,?\s*{_OPEN}{_TWO}{_CLOSE}")
_BARE = re.compile(rf"\s*{_FOUR}\s*\.?\s*")


@dataclass(frozen=True)
class Box:
    """A box by its corners, x1 <= x2 and y1 <= y2."""

    x1: float
    y1: float
    x2: float
    y2: float

    @property
    def area(self) -> float:
        """Width times height."""
        return (self.x2 - self.x1) * (self.y2 - self.y1)


@dataclass(frozen=True)
class IoU:
    """IoU of the first box in a prediction with the reference's; the best over several references.

    Boxes are found as `[a, b, c, d]`, `(a, b), (c, d)`, Qwen's `"bbox_2d": [a, b, c, d]`, or four bare numbers
    that are the whole text. Prediction and reference must be in the same units (0-1, 0-1000 or pixels; IoU does
    not depend on which). A prediction without a proper box scores 0.

    Attributes:
        layout: "xyxy" for two corners, "xywh" for the upper left corner, width and height.
        threshold: None for the IoU itself; else 1 where the IoU is above it and 0 elsewhere (REC accuracy).

    Raises:
        ValueError: a reference without a proper box.

    >>> IoU()(["It is at [0.0, 0.0, 0.5, 1.0]."], [["[0, 0, 1, 1]"]])
    [0.5]
    """

    layout: Layout = "xyxy"
    threshold: float | None = None

    def __call__(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
        scores = []
        for index, (prediction, accepted) in enumerate(zip(predictions, references, strict=True)):
            found = parse_box(prediction, self.layout)
            best = 0.0
            for reference in accepted:
                wanted = parse_box(reference, self.layout)
                if wanted is None:
                    raise ValueError(
                        f"references[{index}] has no proper {self.layout} box: {reference!r}; "
                        "'[x1, y1, x2, y2]' with x1 <= x2 and y1 <= y2 is needed for iou, '[x, y, width, height]' "
                        "for iou-xywh"
                    )
                if found is not None:
                    best = max(best, intersection_over_union(found, wanted))
            scores.append(best if self.threshold is None else float(best > self.threshold))
        return scores


def parse_box(text: str, layout: Layout = "xyxy") -> Box | None:
    """The first box in `text`, or None when there is none or it is turned inside out.

    >>> parse_box('{"bbox_2d": [10, 20, 30, 40], "label": "7"}')
    Box(x1=10.0, y1=20.0, x2=30.0, y2=40.0)
    >>> parse_box("(1,2),(3,4)", "xywh")
    Box(x1=1.0, y1=2.0, x2=4.0, y2=6.0)
    """
    match = _QWEN.search(text) or _BRACKETED.search(text) or _BARE.fullmatch(text)
    if match is None:
        return None
    a, b, c, d = (float(group) for group in match.groups() if group is not None)
    if layout == "xywh":
        c, d = a + c, b + d
    proper = all(map(math.isfinite, (a, b, c, d))) and a <= c and b <= d
    return Box(a, b, c, d) if proper else None


def intersection_over_union(first: Box, second: Box) -> float:
    """Area of the intersection over that of the union; 0 for two boxes without area.

    >>> intersection_over_union(Box(0, 0, 2, 2), Box(1, 1, 3, 3)) == 1 / 7
    True
    """
    width = max(0.0, min(first.x2, second.x2) - max(first.x1, second.x1))
    height = max(0.0, min(first.y2, second.y2) - max(first.y1, second.y1))
    intersection = width * height
    union = first.area + second.area - intersection
    return intersection / union if union > 0 else 0.0
