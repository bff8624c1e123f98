"""Yes/no accuracy, and the figures of POPE that go with it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_WORD = re.compile(r"[a-z]++(?:['’][a-z]++)?")
_SENTENCE = re.compile(r"[^.!?;\n\r]++")
_YES = frozenset({"yes", "yeah", "yep", "yup"})
_NO = frozenset({"no", "not", "nope", "cannot"})


def yes_no(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """1 where the answer is the reference's yes or no.

    The first sentence or line counts (Li et al., arXiv 2305.10355). A word for yes or no that opens it decides;
    else it is a no where `no`, `not` or a form of `n't` is in it, and a yes where `yes` is. Where it says neither
    (the letter of an option, "A.", a number, "1.", or a remark), the first later one that opens with yes or no
    decides.

    Deviations from POPE's script: an answer that says neither is wrong, where the script takes it for a yes; "Yes,
    there is no doubt" is a yes; lines, `n't` and option letters are known.

    Raises:
        ValueError: a sample whose reference says neither, or whose references contradict each other.

    >>> yes_no(["Yes, there is.", "There is not one", "a dog"], [["yes"], ["yes"], ["yes"]])
    [1.0, 0.0, 0.0]
    """
    answers = [_answer(prediction) for prediction in predictions]
    truths = [_truth(index, accepted) for index, accepted in enumerate(references)]
    return [float(answer is truth) for answer, truth in zip(answers, truths, strict=True)]


@dataclass(frozen=True)
class YesNoSummary:
    """Figures over a whole set; an answer that is neither counts as not yes.

    Attributes:
        accuracy: share of right answers.
        precision, recall, f1: of the answer yes; 0 where undefined.
        yes_ratio: share of the answers that are yes.
        neither_ratio: share of the answers that are neither yes nor no.
    """

    accuracy: float
    precision: float
    recall: float
    f1: float
    yes_ratio: float
    neither_ratio: float


def summarise(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> YesNoSummary:
    """Accuracy, F1 and yes-ratio of a set, as POPE reports them.

    Raises:
        ValueError: no samples, unequal numbers of predictions and references, or a reference as in `yes_no`.

    >>> summarise(["yes", "yes", "no", "no"], [["yes"], ["no"], ["no"], ["no"]]).f1.__round__(3)
    0.667
    """
    scores = yes_no(predictions, references)
    if not scores:
        raise ValueError("there are no samples to sum up; at least one is needed")
    answers = [_answer(prediction) for prediction in predictions]
    truths = [_truth(index, accepted) for index, accepted in enumerate(references)]
    true_positives = sum(answer is True and truth for answer, truth in zip(answers, truths, strict=True))
    said, wanted, count = answers.count(True), truths.count(True), len(answers)
    precision = true_positives / said if said else 0.0
    recall = true_positives / wanted if wanted else 0.0
    return YesNoSummary(
        accuracy=sum(scores) / count,
        precision=precision,
        recall=recall,
        f1=2 * true_positives / (said + wanted) if said + wanted else 0.0,
        yes_ratio=said / count,
        neither_ratio=answers.count(None) / count,
    )


def _answer(text: str) -> bool | None:
    first = True
    for sentence in _SENTENCE.finditer(text.lower()):
        found = _WORD.findall(sentence.group())
        # "A." and "1." are the option's, not yet the answer.
        if not found or (len(found) == 1 and len(found[0]) == 1):
            continue
        opening = found[0]
        if opening in _YES or _is_no(opening):
            return opening in _YES
        if first:
            if any(map(_is_no, found)):
                return False
            if not _YES.isdisjoint(found):
                return True
        first = False
    return None


def _is_no(word: str) -> bool:
    return word in _NO or word.endswith(("n't", "n’t"))


def _truth(index: int, accepted: Sequence[str]) -> bool:
    truths = {_answer(reference) for reference in accepted}
    if None in truths or len(truths) != 1:
        raise ValueError(
            f"references[{index}] is {list(accepted)!r}; yes_no reads an English 'yes' or 'no', one of the two. For "
            "answers in other words or languages use exact_match"
        )
    return truths == {True}
