"""FastMix: weights that follow the alignment of each task's gradient with a validation set's."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from cotbal.strategies.base import Strategy, token_weights

_EPSILON = 1e-8
# Of Adam, which the authors learn the logits with.
_DECAYS = (0.5, 0.999)


class GradientAlignment(Strategy):
    """Tasks whose gradient points where a validation set's does weigh more (Tan et al., arXiv 2606.14971, FastMix).

        p = softmax(x)        loss = sum over tasks of p_k L_k, L_k the mean loss of task k
        a_k = <G, grad L_k>   G the gradient of the validation loss; both with respect to the output head alone
        x <- Adam step along  -p_k (a_k - sum_i p_i a_i), the gradient of -sum_i p_i a_i

    To first order, one step of gradient descent on the loss lowers the validation loss by sum_k p_k a_k times the
    learning rate, so the logits x climb on what a step is worth. Adam has the authors' decays (0.5, 0.999), the rate
    `learning_rate` (0.01, as in their scripts) and `weight_decay` added to its gradient. Every `every` steps, as in
    their code, G is taken anew from `samples` validation samples; a task without tokens in that step counts as
    a_k = 0.

    Deviations: the logits take in the step's alignments after the step, so that its weights are fixed before its
    first forward. The authors multiply a_k by the model's learning rate, which Adam cancels but for its changes, and
    let the logits' rate fall along a cosine; here it is constant. The logits start at 0, not at 1e-7 of noise. The
    validation loss is the mean over the tasks of their mean losses, which is what task balancing wants of it; theirs
    is the mean over batches of one target set.

    >>> import torch
    >>> strategy = GradientAlignment(2, learning_rate=0.1)
    >>> strategy.take_alignment(torch.tensor([3.0, 1.0]), torch.tensor([2, 2]))
    >>> strategy.begin_step(torch.tensor([1, 1]))
    tensor([1.0997, 0.9003], dtype=torch.float64)
    """

    name: ClassVar[str] = "fastmix"
    uses_validation: ClassVar[bool] = True
    logits: Tensor
    first_moment: Tensor
    second_moment: Tensor
    updates: Tensor

    def __init__(
        self,
        num_tasks: int,
        learning_rate: float = 0.01,
        weight_decay: float = 0.0,
        every: int = 10,
        samples: int = 64,
    ) -> None:
        super().__init__(num_tasks)
        for option, value in (("learning_rate", learning_rate), ("weight_decay", weight_decay)):
            if not 0 <= value < float("inf"):
                raise ValueError(f"{option} is {value}; a finite number of at least 0 is needed")
        for option, count in (("every", every), ("samples", samples)):
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise ValueError(f"{option} is {count!r}; a whole number of at least 1 is needed")
        self.learning_rate = float(learning_rate)
        self.weight_decay = float(weight_decay)
        self.align_every = every
        self.align_samples = samples
        for buffer in ("logits", "first_moment", "second_moment"):
            self.register_buffer(buffer, torch.zeros(num_tasks, dtype=torch.float64))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def _next_weights(self, task_tokens: Tensor) -> Tensor:
        return token_weights(self.num_tasks * torch.softmax(self.logits, dim=0), task_tokens)

    def _take_alignment(self, alignment: Tensor, observed: Tensor) -> None:
        shares = torch.softmax(self.logits, dim=0)
        gradient = -shares * (alignment - (shares * alignment).sum()) + self.weight_decay * self.logits
        self.updates.add_(1)
        moments = []
        for moment, value, decay in (
            (self.first_moment, gradient, _DECAYS[0]),
            (self.second_moment, gradient**2, _DECAYS[1]),
        ):
            moment.mul_(decay).add_((1 - decay) * value)
            moments.append(moment / (1 - decay ** self.updates.to(torch.float64)))
        self.logits.sub_(self.learning_rate * moments[0] / (moments[1].sqrt() + _EPSILON))

    def extra_repr(self) -> str:
        return (
            f"{super().extra_repr()}, learning_rate={self.learning_rate}, weight_decay={self.weight_decay}, "
            f"every={self.align_every}, samples={self.align_samples}"
        )
