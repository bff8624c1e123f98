"""Which validation samples a strategy that aligns gradients sees at which step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cotbal.strategies.base import Strategy

__all__ = ["ValidationDraws", "validation_draws"]


@dataclass(frozen=True)
class ValidationDraws:
    """Samples of a validation set by step; they depend on the step and the seed alone, so that resuming is exact.

    Attributes:
        dataset: with a length, looked up by number.
        order: every number of it once.
        every: there are samples at every so many steps, but the first.
        samples_each: how many, at most the whole set.
    """

    dataset: Any
    order: Sequence[int]
    every: int
    samples_each: int

    def due(self, step: int) -> bool:
        """Whether step `step`, counted from 0, has samples."""
        return step > 0 and step % self.every == 0

    def samples(self, step: int) -> list[Any]:
        """The samples of a step: the next ones in the order, and from its beginning again after the last."""
        count = min(self.samples_each, len(self.order))
        first = (step // self.every - 1) * count
        return [self.dataset[self.order[(first + place) % len(self.order)]] for place in range(count)]


def validation_draws(strategy: Strategy, dataset: Any, seed: int) -> ValidationDraws | None:
    """What a strategy sees of a validation set; None if it asks for nothing.

    Raises:
        ValueError: it does, and there is no set, or one that cannot be looked up by number.
    """
    if not strategy.align_every:
        return None
    name = type(strategy).name
    if dataset is None:
        raise ValueError(
            f"the strategy {name!r} aligns gradients with a validation set, and there is none; give eval_dataset"
        )
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__") or isinstance(dataset, dict):
        raise ValueError(
            f"eval_dataset is a {type(dataset).__name__}; the strategy {name!r} needs one data set with a length, "
            "looked up by number"
        )
    if len(dataset) == 0:
        raise ValueError(f"eval_dataset is empty, and the strategy {name!r} needs validation samples")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(dataset), generator=generator).tolist()
    return ValidationDraws(dataset, order, strategy.align_every, strategy.align_samples)
