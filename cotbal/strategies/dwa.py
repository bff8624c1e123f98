"""DWA: dynamic weight averaging."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from cotbal.strategies.base import Strategy, softmax_to_count


class DynamicWeightAverage(Strategy):
    """Give more weight to tasks whose loss falls slowly (Liu, Johns and Davison, arXiv 1803.10704).

        r_k = (mean of task k's last W losses) / (mean of its W losses before those)      w = T softmax(r / t)

    with window W = 25 and temperature t = 2, one loss per step. As in the definition, losses before the first
    count as 1, and r_k = 1 until task k has been observed W + 2 times.

    Deviations: the definition uses the loss of the very step that it weights. Here step s + 1 gets the weights that
    the definition gives at step s, so the losses lag by one step. A task absent from a step keeps its window; the
    authors' code enters a loss of 0.

    >>> import torch
    >>> strategy = DynamicWeightAverage(2, window=1)
    >>> for loss in (4.0, 4.0, 2.0):
    ...     strategy.end_step(torch.tensor([loss, 4.0]), torch.tensor([1, 1]))
    >>> strategy.begin_step(torch.tensor([1, 1]))  # ratios 0.5 and 1
    tensor([0.8756, 1.1244], dtype=torch.float64)
    """

    name: ClassVar[str] = "dwa"
    uses_losses: ClassVar[bool] = True
    losses: Tensor
    observations: Tensor

    def __init__(self, num_tasks: int, window: int = 25, temperature: float = 2.0) -> None:
        super().__init__(num_tasks)
        if isinstance(window, bool) or not isinstance(window, int) or window < 1:
            raise ValueError(f"window is {window!r}; a whole number of at least 1 is needed")
        if not 0 < temperature < float("inf"):
            raise ValueError(f"temperature is {temperature}; a finite number above 0 is needed")
        self.window = window
        self.temperature = float(temperature)
        self.register_buffer("losses", torch.ones(2 * window, num_tasks, dtype=torch.float64))
        self.register_buffer("observations", torch.zeros(num_tasks, dtype=torch.int64))

    def _observe(self, task_loss: Tensor, observed: Tensor) -> None:
        shifted = torch.cat([self.losses[1:], task_loss[None]])
        self.losses.copy_(torch.where(observed, shifted, self.losses))
        self.observations.add_(observed)
        before = self.losses[: self.window].mean(dim=0)
        last = self.losses[self.window :].mean(dim=0)
        begun = (self.observations >= self.window + 2) & (before > 0)
        ratios = torch.where(begun, last / before, 1.0)
        self.weights.copy_(softmax_to_count(ratios / self.temperature, torch.ones_like(begun)))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, window={self.window}, temperature={self.temperature}"
