"""The samples that torch ships for its own two losses, as calls of ours, or why they are none."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import torch
from torch import Tensor

import cotbal_kernels as ck

FUNCTIONS: Final = ("cross_entropy", "linear_cross_entropy")
PROBABILITIES = "the target is a distribution over the classes, not one class"
GROUPS = "the head has more than two dimensions: several classifications from one hidden state"
SMOOTHED = "class weights beside label smoothing, which is refused: the two are combined in two ways"
NOTHING = "a mean over no supervised position, which is NaN in torch and 0 here"


@dataclass(frozen=True, eq=False)
class TorchSample:
    """One call of torch's function.

    Attributes:
        scores: logits, or hidden states.
        head: [V, H] for the linear loss; None: the scores are logits.
    """

    function: str
    scores: Tensor
    head: Tensor | None
    target: Tensor
    options: dict[str, Any]

    def differentiable(self) -> list[Tensor]:
        """Scores, head and bias, where there are such."""
        found = (self.scores, self.head, self.options.get("linear_bias"))
        return [each for each in found if each is not None]

    def in_dtype(self, dtype: torch.dtype) -> TorchSample:
        """The same numbers in another precision, as leaves of their own."""

        def moved(value: Any) -> Any:
            if isinstance(value, Tensor) and value.is_floating_point():
                return value.detach().to(dtype).requires_grad_(value.requires_grad)
            return value

        options = {name: moved(value) for name, value in self.options.items()}
        return TorchSample(self.function, moved(self.scores), moved(self.head), moved(self.target), options)

    def stock(self) -> Tensor:
        """What torch's function gives."""
        call = getattr(torch.nn.functional, self.function)
        inputs = (self.scores, self.target) if self.head is None else (self.scores, self.head, self.target)
        result: Tensor = call(*inputs, **self.options)
        return result

    def ours(self, impl: str) -> Tensor:
        """What ours gives, in the shape of torch's."""
        scores = self.scores
        if scores.dim() == 1:
            scores = scores.unsqueeze(0)
        elif self.head is None:
            scores = scores.movedim(1, -1)
        labels = self.target.reshape(scores.shape[:-1])
        options: dict[str, Any] = {
            "reduction": self.options.get("reduction", "mean"),
            "class_weights": self.options.get("weight"),
            "label_smoothing": self.options.get("label_smoothing", 0),
            "ignore_index": self.options.get("ignore_index", -100),
            "impl": impl,
        }
        if self.head is None:
            loss = ck.cross_entropy(scores, labels, **options).loss
        else:
            bias = self.options.get("linear_bias")
            loss = ck.linear_cross_entropy(scores, self.head, labels, bias=bias, **options).loss
        return loss.reshape(self.target.shape) if options["reduction"] == "none" else loss

    def not_applicable(self) -> str | None:
        """Why it is no call of ours; None where it is one."""
        if self.target.is_floating_point():
            return PROBABILITIES
        if self.head is not None and self.head.dim() > 2:
            return GROUPS
        if self.options.get("weight") is not None and self.options.get("label_smoothing", 0):
            return SMOOTHED
        if self.options.get("reduction", "mean") == "mean" and not self.supervised():
            return NOTHING
        return None

    def supervised(self) -> int:
        return int((self.target != self.options.get("ignore_index", -100)).sum())


@lru_cache(maxsize=1)
def _entries() -> list[Any]:
    """Torch's descriptions of the functions; the chunked linear loss is described per way of chunking."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal.common_methods_invocations import op_db

        return [each for each in op_db if each.name in {f"nn.functional.{name}" for name in FUNCTIONS}]


def samples(function: str, dtype: torch.dtype) -> Iterator[TorchSample]:
    """Every sample of a function on the CPU, with gradients; none where this torch lacks the function."""
    for entry in _entries():
        if entry.name != f"nn.functional.{function}":
            continue
        for made in entry.sample_inputs("cpu", dtype, requires_grad=True):
            *head, target = made.args
            options = dict(made.kwargs)
            if options.get("weight") is not None:
                # Drawn with either sign, and ours refuse negative ones.
                options["weight"] = options["weight"].detach().abs()
            yield TorchSample(function, made.input, head[0] if head else None, target, options)


def applicability(function: str, dtype: torch.dtype) -> Counter[str | None]:
    """How many samples there are for each reason not to be applicable, and for none."""
    return Counter(each.not_applicable() for each in samples(function, dtype))
