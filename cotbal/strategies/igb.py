"""IGB: improvable gap balancing, its loss-based form."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from cotbal.strategies.base import Strategy, softmax_to_count


class ImprovableGapBalancing(Strategy):
    """Give more weight to tasks that have improved least since the start (Dai et al., arXiv 2307.15429, IGBv1).

        base_k = mean loss of task k over steps base_start .. base_stop - 1        w = T softmax(loss / base)

    with base steps 100 .. 199 (counted from 0), and w = 1 until step `base_stop` has finished.

    Deviations: the definition uses the loss of the very step that it weights. Here step s + 1 gets the weights that
    the definition gives at step s, so the loss lags by one step. A task's base is the mean over the base steps in
    which it was present, and an absent task keeps its last loss (the authors' code takes 0 for both). A task absent
    from all base steps has no base: its weight is 1, and the softmax over the K others sums to K.

    >>> import torch
    >>> strategy = ImprovableGapBalancing(2, base_start=0, base_stop=1)
    >>> for loss in (4.0, 2.0):
    ...     strategy.end_step(torch.tensor([loss, 4.0]), torch.tensor([1, 1]))
    >>> strategy.begin_step(torch.tensor([1, 1]))  # ratios 0.5 and 1
    tensor([0.7551, 1.2449], dtype=torch.float64)
    """

    name: ClassVar[str] = "igb"
    uses_losses: ClassVar[bool] = True
    step: Tensor
    base_sum: Tensor
    base_observations: Tensor
    last_loss: Tensor

    def __init__(self, num_tasks: int, base_start: int = 100, base_stop: int = 200) -> None:
        super().__init__(num_tasks)
        if not 0 <= base_start < base_stop:
            raise ValueError(
                f"base_start is {base_start} and base_stop is {base_stop}; 0 <= base_start < base_stop is needed"
            )
        self.base_start = base_start
        self.base_stop = base_stop
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.register_buffer("base_sum", torch.zeros(num_tasks, dtype=torch.float64))
        self.register_buffer("base_observations", torch.zeros(num_tasks, dtype=torch.int64))
        self.register_buffer("last_loss", torch.zeros(num_tasks, dtype=torch.float64))

    def _observe(self, task_loss: Tensor, observed: Tensor) -> None:
        in_base = (self.step >= self.base_start) & (self.step < self.base_stop) & observed
        self.base_sum.add_(torch.where(in_base, task_loss, 0.0))
        self.base_observations.add_(in_base)
        self.last_loss.copy_(torch.where(observed, task_loss, self.last_loss))
        has_base = (self.base_observations > 0) & (self.base_sum > 0)
        base = torch.where(has_base, self.base_sum / self.base_observations, 1.0)
        weights = softmax_to_count(self.last_loss / base, has_base)
        self.weights.copy_(torch.where(self.step >= self.base_stop, weights, self.weights))
        self.step.add_(1)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, base_start={self.base_start}, base_stop={self.base_stop}"
