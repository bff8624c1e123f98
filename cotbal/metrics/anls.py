"""ANLS: normalised Levenshtein similarity, for text read from documents."""

from __future__ import annotations

from collections.abc import Sequence

from rapidfuzz.distance import Levenshtein

from cotbal.metrics.words import comparable

THRESHOLD = 0.5
LONGEST_REFERENCE = 20_000


def anls(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """The best 1 - d / max(length) over the references, with d the edit distance; 0 where it is below .5.

    Lengths and distances are in characters, in every language. Case, outer blanks and runs of blanks do not count,
    nor do blanks beside a character of a script that writes none (Chinese, Japanese, Thai, ...); composed and
    decomposed accents are the same. At exactly .5 the paper's formula (Biten et al., arXiv 1905.13648) gives 0 and
    the organisers' script .5; this follows the script, as published results do.

    The time is linear in the prediction's length: one more than twice as long as a reference scores 0 unread.

    Raises:
        ValueError: a reference of more than 20,000 characters; this metric is for short answers.

    >>> [round(score, 3) for score in anls(["Sitting", "xyz"], [["kitten"], ["kitten"]])]
    [0.571, 0.0]
    """
    return [
        _best(index, comparable(prediction), accepted)
        for index, (prediction, accepted) in enumerate(zip(predictions, references, strict=True))
    ]


def _best(index: int, prediction: str, accepted: Sequence[str]) -> float:
    best = 0.0
    for reference in accepted:
        if len(reference) > LONGEST_REFERENCE:
            raise ValueError(
                f"references[{index}] has {len(reference)} characters; anls compares answers of up to "
                f"{LONGEST_REFERENCE}. Score long texts with loss or a metric of your own"
            )
        best = max(best, _similarity(prediction, comparable(reference)))
    return best


def _similarity(first: str, second: str) -> float:
    longest = max(len(first), len(second))
    # The distance is at least the difference in length, which settles most wrong answers at once.
    if abs(len(first) - len(second)) > longest * (1 - THRESHOLD):
        return 0.0
    similarity = 1 - Levenshtein.distance(first, second, score_cutoff=longest // 2 + 1) / max(longest, 1)
    return similarity if similarity >= THRESHOLD else 0.0
