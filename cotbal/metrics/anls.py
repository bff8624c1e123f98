"""ANLS: normalised Levenshtein similarity, for text read from documents."""

from __future__ import annotations

from collections.abc import Sequence

THRESHOLD = 0.5


def anls(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """The best 1 - d / max(length) over the references, with d the edit distance; 0 where it is below .5.

    Case, outer blanks and runs of blanks do not count. At exactly .5 the paper's formula (Biten et al., arXiv
    1905.13648) gives 0 and the organisers' script .5; this follows the script, as published results do.

    >>> [round(score, 3) for score in anls(["Sitting", "xyz"], [["kitten"], ["kitten"]])]
    [0.571, 0.0]
    """
    return [
        max(_similarity(_normalised(prediction), _normalised(reference)) for reference in accepted)
        for prediction, accepted in zip(predictions, references, strict=True)
    ]


def _normalised(text: str) -> str:
    return " ".join(text.lower().split())


def _similarity(first: str, second: str) -> float:
    longest = max(len(first), len(second))
    if longest == 0:
        return 1.0
    # The distance is at least the difference in length, which settles most wrong answers at once.
    if abs(len(first) - len(second)) / longest > 1 - THRESHOLD:
        return 0.0
    similarity = 1 - _edit_distance(first, second) / longest
    return similarity if similarity >= THRESHOLD else 0.0


def _edit_distance(first: str, second: str) -> int:
    """Insertions, deletions and substitutions that make `second` of `first`."""
    row = list(range(len(second) + 1))
    for done, letter in enumerate(first, start=1):
        diagonal, row[0] = row[0], done
        for column, other in enumerate(second, start=1):
            substituted = diagonal + (letter != other)
            diagonal = row[column]
            row[column] = min(substituted, row[column] + 1, row[column - 1] + 1)
    return row[-1]
