"""Exact match, as the authors of CoTBal score short answers."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence


def exact_match(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """1 where the prediction equals a reference: outer blanks, case and one trailing period do not count.

    Composed and decomposed accents are the same (NFC).

    >>> exact_match([" Two.", "2", "two.."], [["two"], ["two"], ["two"]])
    [1.0, 0.0, 0.0]
    """
    return [
        float(_normalised(prediction) in {_normalised(reference) for reference in accepted})
        for prediction, accepted in zip(predictions, references, strict=True)
    ]


def _normalised(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip().lower().removesuffix(".")
