"""CoBa: convergence balancing."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from cotbal.strategies.base import Strategy, token_weights


class ConvergenceBalancing(Strategy):
    """Tasks that converge slowly weigh more, until one diverges (Gong et al., arXiv 2410.06741).

    With r_k the loss of task k over its first one, a_k the slope of the last N of them (least squares over steps),
    a_k(j) its value j steps ago and b the slope of the largest r over the tasks:

        RCS = softmax_k(T a_k / sum_i |a_i|)        ACS = softmax_k(-n a_k / sum over its last n slopes of |a_k(j)|)
        DF  = n softmax_j(-tau n b(j) / sum_j |b(j)|), of the last of n
        w   = softmax_k(T (DF RCS + (1 - DF) ACS)), then 1 / (10 T) + (1 - 1/10) w where one is below 1 / (10 T)

    and w = 1 / T in the first `warmup` steps, as in the authors' code; here w is multiplied by T, which the
    normalizer cancels. The loss is the mean over tasks of w_k L_k, L_k the mean loss of task k. n is the number of
    slopes so far, N at most.

    Deviations: the definition takes the losses of an extra validation batch in every step; here they are those of the
    training step before its update, which in a single epoch are of data not seen before. They lag by one step. DF
    looks back over the last N slopes, not over all of them. A task absent from a step keeps its losses.

    >>> import torch
    >>> strategy = ConvergenceBalancing(2, warmup=2, history=4)
    >>> for loss in (4.0, 3.0, 2.0):
    ...     strategy.end_step(torch.tensor([loss, 4.0]), torch.tensor([1, 1]))
    >>> weights = strategy.begin_step(torch.tensor([1, 1]))
    >>> bool(weights[1] > weights[0])  # the second has not begun to fall
    True
    """

    name: ClassVar[str] = "coba"
    uses_losses: ClassVar[bool] = True
    first_loss: Tensor
    last_ratio: Tensor
    ratios: Tensor
    largest: Tensor
    observations: Tensor
    slopes: Tensor
    largest_slopes: Tensor
    shares: Tensor
    step: Tensor

    def __init__(self, num_tasks: int, warmup: int = 100, history: int = 200, tau: float = 5.0) -> None:
        super().__init__(num_tasks)
        for option, value, least in (("warmup", warmup, 1), ("history", history, 2)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{option} is {value!r}; a whole number of at least {least} is needed")
        if not 0 < tau < float("inf"):
            raise ValueError(f"tau is {tau}; a finite number above 0 is needed")
        self.warmup = warmup
        self.history = history
        self.tau = float(tau)
        self.register_buffer("first_loss", torch.ones(num_tasks, dtype=torch.float64))
        self.register_buffer("last_ratio", torch.ones(num_tasks, dtype=torch.float64))
        for buffer in ("ratios", "slopes"):
            self.register_buffer(buffer, torch.zeros(history, num_tasks, dtype=torch.float64))
        for buffer in ("largest", "largest_slopes"):
            self.register_buffer(buffer, torch.zeros(history, 1, dtype=torch.float64))
        self.register_buffer("observations", torch.zeros(num_tasks, dtype=torch.int64))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.register_buffer("shares", torch.ones(num_tasks, dtype=torch.float64))

    def _next_weights(self, task_tokens: Tensor) -> Tensor:
        return token_weights(self.shares, task_tokens)

    def _observe(self, task_loss: Tensor, observed: Tensor) -> None:
        some = observed.any()
        first = observed & (self.observations == 0)
        self.first_loss.copy_(torch.where(first, task_loss, self.first_loss))
        ratio = task_loss / torch.where(self.first_loss > 0, self.first_loss, 1.0)
        self.last_ratio.copy_(torch.where(observed, ratio, self.last_ratio))
        _append(self.ratios, self.last_ratio, observed)
        _append(self.largest, self.last_ratio.max()[None], some)
        self.observations.add_(observed)
        self.step.add_(some)
        began = some & (self.step >= self.warmup)
        count = (self.step - self.warmup + 1).clamp(1, self.history)
        _append(self.slopes, self._slope(self.ratios, self.observations), began)
        _append(self.largest_slopes, self._slope(self.largest, self.step[None]), began)
        self.shares.copy_(torch.where(began, self._balanced(count), self.shares))

    def _balanced(self, count: Tensor) -> Tensor:
        """T w from the slopes so far, of which there are `count`."""
        tasks = self.num_tasks
        last = self.slopes[-1]
        relative = torch.softmax(tasks * _over(last, last.abs().sum()), dim=0)
        absolute = torch.softmax(-count * _over(last, self.slopes.abs().sum(dim=0)), dim=0)
        there = torch.arange(self.history, device=count.device) >= self.history - count
        normalized = -count * _over(self.largest_slopes[:, 0], self.largest_slopes.abs().sum())
        factors = torch.softmax((self.tau * normalized).masked_fill(~there, -torch.inf), dim=0)
        divergence = factors[-1] * count
        weights = torch.softmax(tasks * (divergence * relative + (1 - divergence) * absolute), dim=0)
        least = 1 / (10 * tasks)
        raised = weights * (1 - least * tasks) + least
        return tasks * torch.where((weights < least).any(), raised, weights)

    def _slope(self, values: Tensor, count: Tensor) -> Tensor:
        """Least-squares slopes of the last `count` [C] rows of `values` [N, C], at most N; 0 with fewer than two."""
        steps = torch.arange(self.history, dtype=torch.float64, device=values.device)[:, None]
        there = (steps >= self.history - count).to(torch.float64)
        number = there.sum(dim=0).clamp_min(1)
        centred = there * (steps - (there * steps).sum(dim=0) / number)
        # From the last value, so that what does not change has a slope of exactly 0.
        return _over((centred * (values - values[-1])).sum(dim=0), (centred**2).sum(dim=0))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, warmup={self.warmup}, history={self.history}, tau={self.tau}"


def _append(rows: Tensor, row: Tensor, where: Tensor) -> None:
    """Move the rows up by one and put `row` last, in the columns that `where` marks."""
    rows.copy_(torch.where(where, torch.cat([rows[1:], row[None]]), rows))


def _over(values: Tensor, by: Tensor) -> Tensor:
    """values / by, 0 where that is 0 / 0."""
    return torch.where(by > 0, values / torch.where(by > 0, by, 1.0), 0.0)
