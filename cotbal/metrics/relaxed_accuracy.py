"""Relaxed accuracy, for questions on charts."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

TOLERANCE = 0.05
_THOUSANDS = re.compile(r"[-+]?\d{1,3}(?:,\d{3})++(?:\.\d*+)?")
# No number that a chart shows is longer, and Python refuses some that are.
_LONGEST_NUMBER = 400


def relaxed_accuracy(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """1 where the prediction is within 5% of a numeric reference, or equals another one as text.

    Case and outer blanks do not count; `12%` is the number 0.12, `1,284` the number 1284, and the minus sign of
    print is one (deviation: the evaluations in use compare numbers with such commas or signs as text). A reference
    of 0, which has no 5%, and anything that is not a finite number are compared as text (Masry et al., arXiv
    2203.10244; the treatment of 0 and percents is that of the evaluations in use).

    >>> relaxed_accuracy(["104", "106", "0", "0.0", "Blue"], [["100"], ["100"], ["0"], ["0"], ["blue"]])
    [1.0, 0.0, 1.0, 0.0, 1.0]
    """
    return [
        float(any(_matches(prediction.strip(), reference.strip()) for reference in accepted))
        for prediction, accepted in zip(predictions, references, strict=True)
    ]


def _matches(prediction: str, reference: str) -> bool:
    found, wanted = _number(prediction), _number(reference)
    if found is None or wanted is None or wanted == 0:
        return prediction.lower() == reference.lower()
    # A prediction at exactly 5% is right, however the decimals round in binary.
    return abs(found - wanted) <= TOLERANCE * abs(wanted) * (1 + 1e-9)


def _number(text: str) -> float | None:
    digits = (text[:-1].rstrip() if text.endswith("%") else text).replace("\N{MINUS SIGN}", "-")
    if len(digits) > _LONGEST_NUMBER:
        return None
    if _THOUSANDS.fullmatch(digits):
        digits = digits.replace(",", "")
    try:
        value = float(digits) / (100 if text.endswith("%") else 1)
    except ValueError:
        return None
    # Python reads "1_000" and "nan" as floats; people who write them mean text.
    return value if math.isfinite(value) and "_" not in digits else None
