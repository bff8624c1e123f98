"""FAMO: fast adaptive multitask optimization."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from cotbal.strategies.base import Strategy, token_weights

_EPSILON = 1e-8
# Of Adam, which the authors learn the logits with.
_DECAYS = (0.9, 0.999)


class FastAdaptiveOptimization(Strategy):
    """All losses are to fall at the same rate (Liu et al., arXiv 2306.03792, algorithm 2).

        z = softmax(x)        w_k = T c z_k / L_k, c = 1 / sum_k z_k / L_k        loss = mean over tasks of w_k L_k
        x <- Adam step along J' d, d_k = log L_k(before) - log L_k(after), J the Jacobian of the softmax

    L_k is the mean loss of task k, so that the gradient is that of c sum_k z_k log L_k. Adam has the rate
    `learning_rate` and `weight_decay` is added to its gradient; 0.025 and 0.001 as in the paper.

    Deviations: the definition computes L(after) by a second forward on the same batch. Here it is the next step's
    loss on its own batch, which costs nothing and is noisier, and w_k divides by the last loss, not by the one of the
    step it weighs. A task absent from a step keeps its last loss and leaves its logit to the momentum and the decay.

    >>> import torch
    >>> strategy = FastAdaptiveOptimization(2)
    >>> for loss in (4.0, 2.0):
    ...     strategy.end_step(torch.tensor([loss, 2.0]), torch.tensor([1, 1]))
    >>> strategy.begin_step(torch.tensor([1, 1]))  # the first task has fallen by half, the second not at all
    tensor([0.9750, 1.0250], dtype=torch.float64)
    """

    name: ClassVar[str] = "famo"
    uses_losses: ClassVar[bool] = True
    last_loss: Tensor
    observations: Tensor
    logits: Tensor
    first_moment: Tensor
    second_moment: Tensor
    updates: Tensor

    def __init__(self, num_tasks: int, learning_rate: float = 0.025, weight_decay: float = 1e-3) -> None:
        super().__init__(num_tasks)
        for option, value in (("learning_rate", learning_rate), ("weight_decay", weight_decay)):
            if not 0 <= value < float("inf"):
                raise ValueError(f"{option} is {value}; a finite number of at least 0 is needed")
        self.learning_rate = float(learning_rate)
        self.weight_decay = float(weight_decay)
        self.register_buffer("last_loss", torch.ones(num_tasks, dtype=torch.float64))
        self.register_buffer("observations", torch.zeros(num_tasks, dtype=torch.int64))
        for buffer in ("logits", "first_moment", "second_moment"):
            self.register_buffer(buffer, torch.zeros(num_tasks, dtype=torch.float64))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def _next_weights(self, task_tokens: Tensor) -> Tensor:
        seen = self.observations > 0
        shares = torch.softmax(self.logits, dim=0) / (self.last_loss + _EPSILON)
        # A task whose loss is not known yet takes the mean share of the others.
        mean = torch.where(seen, shares, 0.0).sum() / seen.sum().clamp_min(1)
        shares = torch.where(seen, shares, torch.where(seen.any(), mean, 1.0))
        return token_weights(self.num_tasks * shares / shares.sum(), task_tokens)

    def _observe(self, task_loss: Tensor, observed: Tensor) -> None:
        both = observed & (self.observations > 0)
        loss = torch.where(observed, task_loss, self.last_loss)
        fallen = torch.where(both, torch.log(self.last_loss + _EPSILON) - torch.log(loss + _EPSILON), 0.0)
        shares = torch.softmax(self.logits, dim=0)
        known = torch.where(both, shares, 0.0)
        mean = (known * fallen).sum() / known.sum().clamp_min(_EPSILON)
        gradient = shares * torch.where(both, fallen - mean, 0.0)
        self._adam(gradient + self.weight_decay * self.logits, both.any())
        self.last_loss.copy_(loss)
        self.observations.add_(observed)

    def _adam(self, gradient: Tensor, counts: Tensor) -> None:
        """One step, if `counts`."""
        self.updates.add_(counts)
        updates = self.updates.clamp_min(1).to(torch.float64)
        moments = []
        for moment, value, decay in (
            (self.first_moment, gradient, _DECAYS[0]),
            (self.second_moment, gradient**2, _DECAYS[1]),
        ):
            moment.copy_(torch.where(counts, decay * moment + (1 - decay) * value, moment))
            moments.append(moment / (1 - decay**updates))
        step = self.learning_rate * moments[0] / (moments[1].sqrt() + _EPSILON)
        self.logits.sub_(torch.where(counts, step, 0.0))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, learning_rate={self.learning_rate}, weight_decay={self.weight_decay}"
