"""What a metric is: a name, a direction, and one score per sample."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["generation", "loss"]
ScoreFunction = Callable[[Sequence[str], Sequence[Sequence[str]]], Sequence[float]]


@dataclass(frozen=True)
class Metric:
    """A metric by name.

    Attributes:
        name: as in configs.
        higher_is_better: its direction.
        kind: "generation" scores generated text with `score`; "loss" is the teacher-forced loss of a sample,
            which the model's forward gives and which needs no generation.
        function: `(predictions, references) -> one score per sample`; None for kind "loss".
    """

    name: str
    higher_is_better: bool
    kind: Kind
    function: ScoreFunction | None

    def score(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
        """Scores of all samples, in order.

        Some metrics look at the whole set (`cider` takes its document frequencies from all references), so a
        set is scored in one call.

        Args:
            predictions: generated text, one per sample.
            references: accepted answers, at least one per sample.

        Raises:
            TypeError: a prediction or reference that is no string, or a bare string as a list of references;
                or a metric of kind "loss".
            ValueError: unequal numbers of samples, a sample without references, a reference that the metric
                cannot read, or a user's function that does not return one finite number per sample.
        """
        if self.function is None:
            raise TypeError(f"metric {self.name!r} is a loss of the model and does not score generated text")
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
