"""CIDEr-D: consensus with reference captions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

from cotbal.metrics import words

LONGEST = 4
SIGMA = 6.0

Phrase = tuple[str, ...]
Vector = tuple[list[dict[Phrase, float]], list[float], int]


def cider(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    split: Callable[[str], list[str]] = words.words,
) -> list[float]:
    """CIDEr-D of every sample: 10 times the mean, over phrases of 1 to 4 words and over the references, of

        exp(-(l - l')^2 / (2 6^2)) sum min(g, g') g' / (|g| |g'|)

    with g and g' the tf-idf vectors of prediction and reference over the phrases of one length, and l, l' their
    numbers of phrases of two words (Vedantam et al., arXiv 1411.5726, section 5.3; equal to pycocoevalcap's
    Cider on the same words). tf is a count; idf = log(samples) - log(max(1, samples that have the phrase in a
    reference)).

    **The document frequencies come from the references given in this call**: scores of different validation
    sets, or of parts of one, are not comparable, and a set of one sample scores 0.

    Deviation: no Java and no PTB tokenizer. Words are runs of letters and digits, with apostrophes and hyphens
    inside; in scripts that write no blanks between words (Chinese, Japanese, Thai, ...) every character is a word.
    Case and other punctuation do not count.

    Args:
        split: how words are found; `cotbal.metrics.words.characters` for the metric `cider-characters`.

    >>> scores = cider(["a red ball", "two dogs"], [["A red ball."], ["one black cat"]])
    >>> [round(score, 2) for score in scores]
    [7.5, 0.0]
    """
    counted = [[_phrases(split(reference)) for reference in accepted] for accepted in references]
    appearances = Counter(phrase for sample in counted for phrase in set().union(*sample))
    log_samples = math.log(len(counted))
    idf = {phrase: log_samples - math.log(number) for phrase, number in appearances.items()}

    scores = []
    for prediction, sample in zip(predictions, counted, strict=True):
        candidate = _vector(_phrases(split(prediction)), idf, log_samples)
        total = sum(_similarity(candidate, _vector(reference, idf, log_samples)) for reference in sample)
        scores.append(10 * total / len(sample))
    return scores


def cider_of_characters(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """`cider` with every letter and digit as a word, for any language."""
    return cider(predictions, references, split=words.characters)


def _phrases(found: list[str]) -> Counter[Phrase]:
    return Counter(
        tuple(found[start : start + length])
        for length in range(1, LONGEST + 1)
        for start in range(len(found) - length + 1)
    )


def _vector(counts: Counter[Phrase], idf: dict[Phrase, float], unseen: float) -> Vector:
    """tf-idf by phrase, for each phrase length; their norms; and the number of phrases of two words."""
    vectors: list[dict[Phrase, float]] = [{} for _ in range(LONGEST)]
    for phrase, count in counts.items():
        vectors[len(phrase) - 1][phrase] = count * idf.get(phrase, unseen)
    norms = [math.sqrt(sum(value * value for value in vector.values())) for vector in vectors]
    pairs = sum(count for phrase, count in counts.items() if len(phrase) == 2)
    return vectors, norms, pairs


def _similarity(candidate: Vector, reference: Vector) -> float:
    found, found_norms, found_pairs = candidate
    wanted, wanted_norms, wanted_pairs = reference
    total = 0.0
    for vector, other, norm, other_norm in zip(found, wanted, found_norms, wanted_norms, strict=True):
        if norm and other_norm:
            shared = sum(min(value, other[p]) * other[p] for p, value in vector.items() if p in other)
            total += shared / (norm * other_norm)
    penalty = math.exp(-((found_pairs - wanted_pairs) ** 2) / (2 * SIGMA**2))
    return penalty * total / LONGEST
