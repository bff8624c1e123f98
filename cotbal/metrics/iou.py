"""Intersection over union of boxes written in text."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from cotbal.metrics.boxes import Box, Layout, parse_box


class UnlikeBoxesWarning(UserWarning):
    """Predictions and references write their boxes in notations that cannot be compared."""


@dataclass(frozen=True)
class IoU:
    """IoU of the first box in a prediction with the reference's; the best over several references.

    `cotbal.metrics.boxes.parse_box` says how boxes are found. Prediction and reference must be in the same units
    (0-1, 0-1000 or pixels; IoU does not depend on which). A prediction without a proper box scores 0; so does one in
    location tokens where the reference is in numbers, or the other way round, and a warning counts those.

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
        unlike = 0
        for index, (prediction, accepted) in enumerate(zip(predictions, references, strict=True)):
            found = parse_box(prediction, self.layout)
            wanted = [self._reference(index, reference) for reference in accepted]
            alike = [box for box in wanted if found is not None and box.scale == found.scale]
            unlike += found is not None and not alike
            best = max((intersection_over_union(found, box) for box in alike if found), default=0.0)
            scores.append(best if self.threshold is None else float(best > self.threshold))
        if unlike:
            warnings.warn(
                UnlikeBoxesWarning(
                    f"{unlike} of {len(scores)} answers write their box in location tokens and the reference in "
                    "numbers, or the other way round; they score 0. Write references as the model is trained to"
                ),
                stacklevel=2,
            )
        return scores

    def _reference(self, index: int, reference: str) -> Box:
        box = parse_box(reference, self.layout)
        if box is None:
            raise ValueError(
                f"references[{index}] has no proper {self.layout} box: {_shown(reference)}; '[x1, y1, x2, y2]' with "
                "x1 <= x2 and y1 <= y2 is needed for iou, '[x, y, width, height]' for iou-xywh"
            )
        return box


def intersection_over_union(first: Box, second: Box) -> float:
    """Area of the intersection over that of the union; of two boxes without area, 1 if they are the same, else 0.

    >>> intersection_over_union(Box(0, 0, 2, 2), Box(1, 1, 3, 3)) == 1 / 7
    True
    """
    width = max(0.0, min(first.x2, second.x2) - max(first.x1, second.x1))
    height = max(0.0, min(first.y2, second.y2) - max(first.y1, second.y1))
    intersection = width * height
    union = first.area + second.area - intersection
    return intersection / union if union > 0 else float(first == second)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
