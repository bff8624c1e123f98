"""Whether a mixture's tasks can show anything: none mastered, none hopeless."""

from __future__ import annotations

import math
from typing import Any, Literal

__all__ = ["State", "states"]

State = Literal["learned", "hopeless", "mastered"]
_FULL_MARKS = {"cider": 10.0}
_MASTERED = 0.97


def states(mixture: dict[str, Any], test_samples: int) -> list[State]:
    """What single-task tuning makes of each task, from a mixture's part of the results.

    Clearly above the best constant answer is by more than twice the largest standard error that scores between 0 and
    full marks can have on the test set.
    """
    found: list[State] = []
    for metric, single, constant in zip(
        mixture["metrics"], mixture["single"], mixture["constant"], strict=True
    ):
        full = _FULL_MARKS.get(metric, 1.0)
        noise = 2 * full * 0.5 / math.sqrt(test_samples)
        if single >= _MASTERED * full:
            found.append("mastered")
        else:
            found.append("learned" if single > constant + noise else "hopeless")
    return found
