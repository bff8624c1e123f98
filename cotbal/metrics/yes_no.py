"""Yes/no accuracy, and the figures of POPE that go with it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_WORD = re.compile(r"[a-z]+(?:['’][a-z]+)?")
_NO = frozenset({"no", "not"})


def yes_no(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """1 where the answer is the reference's yes or no.

    The first sentence counts: no if the word `no` or `not` is in it, else yes if `yes` is (Li et al., arXiv
    2305.10355). Deviation: an answer with none of these words is wrong; POPE's script takes it for a yes.

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
    words = set(_WORD.findall(text.lower().strip().split(".")[0]))
    if words & _NO:
        return False
    return True if "yes" in words else None


def _truth(index: int, accepted: Sequence[str]) -> bool:
    truths = {_answer(reference) for reference in accepted}
    if None in truths or len(truths) != 1:
        raise ValueError(
            f"references[{index}] is {list(accepted)!r}; 'yes' or 'no' is needed, and one of the two"
        )
    return truths == {True}
