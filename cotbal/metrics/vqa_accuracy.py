"""VQA accuracy: soft agreement with several annotators."""

from __future__ import annotations

import re
from collections.abc import Sequence

_NUMBER_WORDS = "zero one two three four five six seven eight nine ten"
_DIGITS = {word: str(digit) for digit, word in enumerate(_NUMBER_WORDS.split())} | {"none": "0"}
_ARTICLES = frozenset({"a", "an", "the"})
_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd
    he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've
    needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd
    somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've
    something'll that's there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't
    we'd've we've weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll
    who's who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've
    you'll you're you've
"""
# Each contraction may lack any one of its apostrophes.
_WITH_APOSTROPHE = {
    word[:at] + word[at + 1 :]: word
    for word in _CONTRACTIONS.split()
    for at, letter in enumerate(word)
    if letter == "'"
}


def vqa_accuracy(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """Score min(matches / 3, 1), averaged over the subsets that leave one annotator out.

    If m of n annotators agree, that is (m min((m-1)/3, 1) + (n-m) min(m/3, 1)) / n. Ten annotators give 0, .3, .6,
    .9 and, from four matches on, 1. A single reference, as in data sets with one answer, is compared exactly (score 0
    or 1). With two or three references a right answer could not reach 1, so they are refused.

    Answers are compared after the normalisation of the VQA evaluation (Antol et al., arXiv 1505.00468;
    visualqa.org/evaluation): it lowers case, drops articles and periods outside numbers, turns number words into
    digits, restores missing apostrophes of contractions, and turns other punctuation into blanks (or drops it beside
    a blank, or if the answer has a comma inside a number). Deviation: it always applies; the official script skips it
    if all annotators gave the same answer.

    Raises:
        ValueError: a sample has two or three references.

    >>> answers = ["yes"] * 2 + ["no"] * 8
    >>> [round(score, 2) for score in vqa_accuracy(["Yes.", "no", "maybe"], [answers] * 3)]
    [0.6, 1.0, 0.0]
    """
    return [
        _agreement(index, normalised(prediction), [normalised(reference) for reference in accepted])
        for index, (prediction, accepted) in enumerate(zip(predictions, references, strict=True))
    ]


def _agreement(index: int, answer: str, accepted: Sequence[str]) -> float:
    count = len(accepted)
    matches = sum(answer == reference for reference in accepted)
    if count == 1:
        return float(matches)
    if count < 4:
        raise ValueError(
            f"references[{index}] has {count} answers, with which vqa_accuracy cannot reach 1; give one, or at "
            "least four (VQA has ten), or use exact_match"
        )
    with_own = min((matches - 1) / 3, 1.0) if matches else 0.0
    return (matches * with_own + (count - matches) * min(matches / 3, 1.0)) / count


def normalised(text: str) -> str:
    """Return an answer in the form in which VQA compares answers.

    >>> normalised("The two dogs, and 1,000 cats... dont")
    "2 dogs and 1000 cats don't"
    """
    text = text.replace("\n", " ").replace("\t", " ").strip()
    has_comma_in_number = _COMMA_IN_NUMBER.search(text) is not None
    cleaned = text
    for mark in _MARKS:
        beside_blank = f"{mark} " in text or f" {mark}" in text
        cleaned = cleaned.replace(mark, "" if has_comma_in_number or beside_blank else " ")
    words = [_DIGITS.get(word, word) for word in _PERIOD.sub("", cleaned).lower().split()]
    return " ".join(_WITH_APOSTROPHE.get(word, word) for word in words if word not in _ARTICLES)
