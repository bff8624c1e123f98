"""TLA: task-level averaging."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from cotbal.strategies.base import Strategy, token_weights


class TaskLevelAveraging(Strategy):
    """Make the loss the mean, over the tasks present in the step, of each task's mean over its tokens.

        w_k = n / (P n_k)        n_k tokens of task k, n of all, P tasks present; w_k = 0 for absent tasks

    That is 1 / n_k up to a factor common to all tasks, which `normalize="weights"` cancels; with this factor
    `normalize="tokens"` gives the same loss. Deviation: the authors' code divides by the number of all tasks, so its
    loss shrinks when tasks are absent.

    >>> import torch
    >>> TaskLevelAveraging(3).begin_step(torch.tensor([30, 10, 0]))
    tensor([0.6667, 2.0000, 0.0000], dtype=torch.float64)
    """

    name: ClassVar[str] = "tla"

    def _next_weights(self, task_tokens: Tensor) -> Tensor:
        return token_weights(torch.ones_like(task_tokens), task_tokens)
