"""What a metric is: a name, a direction, and one score per sample."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["generation", "loss", "token_accuracy"]
ScoreFunction = Callable[[Sequence[str], Sequence[Sequence[str]]], Sequence[float]]


@dataclass(frozen=True)
class Metric:
    """A metric by name.

    Attributes:
        name: as in configs.
        higher_is_better: its direction.
        kind: "generation" scores generated text with `score`; "loss" is the teacher-forced loss of a sample, and
            "token_accuracy" the share of its answer tokens that are ranked first; both come from the model's forward
            and need no generation.
        function: `(predictions, references) -> one score per sample`; None for the other kinds.
        full_marks: the score of a reference given as the answer; None where it depends on the sample.
        whole_set: a sample's score depends on the other samples of the call, or may do so.
    """

    name: str
    higher_is_better: bool
    kind: Kind
    function: ScoreFunction | None
    full_marks: float | None = None
    whole_set: bool = False

    def score(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
        """Scores of all samples, in order.

        Reasoning in front of an answer is not scored: see `final_answer`. Your own functions get texts whole.

        Some metrics look at the whole set (`cider` takes its document frequencies from all references), so a
        set is scored in one call.

        Args:
            predictions: generated text, one per sample.
            references: accepted answers, at least one per sample.

        Raises:
            TypeError: a prediction or reference that is no string, or a bare string as a list of references;
                or a metric of another kind than "generation".
            ValueError: unequal numbers of samples, a sample without references, a reference that the metric
                cannot read, or a user's function that does not return one finite number per sample.
        """
        if self.function is None:
            raise TypeError(f"metric {self.name!r} is read off the model and does not score generated text")
        if len(predictions) != len(references):
            raise ValueError(
                f"metric {self.name!r}: {len(predictions)} predictions for {len(references)} samples' references"
            )
        for index, (prediction, accepted) in enumerate(zip(predictions, references, strict=True)):
            if not isinstance(prediction, str):
                raise TypeError(f"predictions[{index}] is {type(prediction).__name__}; a string is needed")
            if isinstance(accepted, str) or not all(isinstance(reference, str) for reference in accepted):
                raise TypeError(f"references[{index}] is {accepted!r}; a list of strings is needed")
            if not accepted:
                raise ValueError(f"references[{index}] is empty; at least one accepted answer is needed")
        if not predictions:
            return []
        if ":" not in self.name:
            predictions = [final_answer(prediction) for prediction in predictions]
            references = [[final_answer(reference) for reference in accepted] for accepted in references]
        scores = [float(score) for score in self.function(predictions, references)]
        if len(scores) != len(predictions):
            raise ValueError(
                f"metric {self.name!r} gave {len(scores)} scores for {len(predictions)} samples; one each is needed"
            )
        for index, score in enumerate(scores):
            if not math.isfinite(score):
                raise ValueError(
                    f"metric {self.name!r} gave {score} for sample {index}; a finite number is needed"
                )
        return scores

    def unjudged(self, references: Sequence[Sequence[str]]) -> list[tuple[int, str]]:
        """Samples whose own references do not get full marks, each with the reason: what the metric cannot judge.

        A reference given as the answer has to get `full_marks`, or more than 0 where those depend on the sample
        (`cider`, `vqa_accuracy`). Of your own functions it is only asked that they return scores.

        >>> from cotbal import metrics
        >>> metrics.get("cider").unjudged([["a dog"], ["a dog"]])[0]
        (0, "the reference 'a dog' given as the answer scores 0; more than 0 is needed")
        """
        if self.function is None or not references:
            return []
        if not self.whole_set:
            return [
                (index, reason)
                for index, accepted in enumerate(references)
                if (reason := self._unjudged(accepted)) is not None
            ]
        scores = self.score([accepted[0] for accepted in references], references)
        if ":" in self.name:
            return []
        return [
            (index, _falls_short(accepted[0], score, None))
            for index, (accepted, score) in enumerate(zip(references, scores, strict=True))
            if not score > 0
        ]

    def _unjudged(self, accepted: Sequence[str]) -> str | None:
        try:
            scores = self.score(list(accepted), [accepted] * len(accepted))
        except ValueError as error:
            # The record is named by the caller.
            return re.sub(r"^references\[\d+\] ", "", str(error))
        best = max(scores)
        enough = best > 0 if self.full_marks is None else best >= self.full_marks
        return None if enough else _falls_short(accepted[scores.index(best)], best, self.full_marks)


# What the hybrid estimator's contributions are of; not a metric of a task.
TOKEN_ACCURACY = Metric("token accuracy", True, "token_accuracy", None, full_marks=1.0)


def final_answer(text: str) -> str:
    """What follows the reasoning (`<think>...</think>`, its opening perhaps in the prompt); nothing if it never ends.

    >>> final_answer("<think>Two, or three?</think>\\n\\nthree"), final_answer("three"), final_answer("<think>Two")
    ('three', 'three', '')
    """
    _, close, answer = text.rpartition("</think>")
    return "" if not close and "<think>" in text else answer.lstrip() if close else text


def _falls_short(reference: str, score: float, wanted: float | None) -> str:
    shown = reference if len(reference) <= 80 else reference[:77] + "..."
    needed = "more than 0" if wanted is None else f"{wanted:g}"
    return f"the reference {shown!r} given as the answer scores {score:g}; {needed} is needed"
