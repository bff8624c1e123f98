"""RLW: random loss weighting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from cotbal.strategies.base import Strategy


class RandomLossWeighting(Strategy):
    """w = T softmax(z) with z standard normal, drawn once per optimizer step (Lin et al., arXiv 2111.10603).

    All ranks draw the same weights because they start from the same `seed`. The generator's state is a buffer, so a
    resumed training continues with the draws of an uninterrupted one. It stays on the CPU wherever the module is
    moved, so the draws do not depend on the device. Deviation: the authors' code draws again for every micro-batch
    and rank.

    >>> import torch
    >>> strategy = RandomLossWeighting(3, seed=1)
    >>> weights = strategy.begin_step(torch.tensor([5, 5, 5]))
    >>> bool(weights.sum().isclose(torch.tensor(3.0).double()))
    True
    """

    name: ClassVar[str] = "rlw"
    generator_state: Tensor

    def __init__(self, num_tasks: int, seed: int = 0) -> None:
        super().__init__(num_tasks)
        self.register_buffer("generator_state", torch.Generator().manual_seed(seed).get_state())

    def _next_weights(self, task_tokens: Tensor) -> Tensor:
        generator = torch.Generator()
        generator.set_state(self.generator_state.cpu())
        drawn = torch.randn(self.num_tasks, generator=generator, dtype=torch.float64)
        self.generator_state.copy_(generator.get_state())
        return self.num_tasks * torch.softmax(drawn, dim=0)

    def _apply(self, fn: Callable[[Any], Any], recurse: bool = True) -> Self:
        state = self.generator_state
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.generator_state = state
        return self
