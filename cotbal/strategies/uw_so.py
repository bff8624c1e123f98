"""UW-SO: soft optimal uncertainty weighting."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from cotbal.strategies.base import Strategy, softmax_to_count, token_weights

# Losses are bounded from below where they are divided by.
_SMALLEST = 1e-8


class SoftOptimalUncertainty(Strategy):
    """Tasks of small loss weigh more (Kirchdorfer et al., arXiv 2408.07985, UW-SO).

        w = T softmax((1 / L) / t)        loss = mean over tasks of w_k L_k, L_k the mean loss of task k

    1 / L_k is the weight that uncertainty weighting would end at, and the softmax with temperature t keeps it from
    being taken by one task. The paper tunes t for every data set; 1 here.

    Deviations: the definition uses the loss of the step it weighs. Here the weights of step s + 1 are those the
    definition gives at step s. Its sum of weights is 1, not T; the normalizer cancels that. An absent task keeps its
    last loss; one that was never seen weighs 1, and the softmax over the K others sums to K.

    >>> import torch
    >>> strategy = SoftOptimalUncertainty(2)
    >>> strategy.end_step(torch.tensor([1.0, 2.0]), torch.tensor([1, 1]))
    >>> strategy.begin_step(torch.tensor([1, 1]))  # 1 / L is 1 and 0.5
    tensor([1.2449, 0.7551], dtype=torch.float64)
    """

    name: ClassVar[str] = "uw-so"
    uses_losses: ClassVar[bool] = True
    last_loss: Tensor
    observations: Tensor

    def __init__(self, num_tasks: int, temperature: float = 1.0) -> None:
        super().__init__(num_tasks)
        if not 0 < temperature < float("inf"):
            raise ValueError(f"temperature is {temperature}; a finite number above 0 is needed")
        self.temperature = float(temperature)
        self.register_buffer("last_loss", torch.ones(num_tasks, dtype=torch.float64))
        self.register_buffer("observations", torch.zeros(num_tasks, dtype=torch.int64))

    def _next_weights(self, task_tokens: Tensor) -> Tensor:
        inverse = 1 / self.last_loss.clamp_min(_SMALLEST)
        shares = softmax_to_count(inverse / self.temperature, self.observations > 0)
        return token_weights(shares, task_tokens)

    def _observe(self, task_loss: Tensor, observed: Tensor) -> None:
        self.last_loss.copy_(torch.where(observed, task_loss, self.last_loss))
        self.observations.add_(observed)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, temperature={self.temperature}"
