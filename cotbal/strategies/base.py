"""What every strategy shares: weights fixed before a step, statistics taken after it."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn


class Strategy(nn.Module):
    """Chooses the weight of every task, step by step.

    The weights of a step are fixed **before its first forward** (`begin_step`) from statistics of the steps
    before it (`end_step`), so that the normalizer of the step is known in advance and is the same on all ranks.
    Both take global numbers: sums over all ranks and all accumulated micro-batches of one optimizer step.

    All state is in buffers (float64, int64, uint8): `state_dict` saves it, and a resumed training continues
    with the same weights. A task without tokens in a step, or with a loss that is not finite, contributes no
    statistic and keeps its last one. In eval mode nothing changes: `begin_step` returns the last weights, and
    `end_step` does nothing. No method waits for a GPU.

    Args:
        num_tasks: T, at least 1.

    Attributes:
        name: the strategy's name in configs and on the command line.
        uses_losses: whether the weights depend on `end_step`; if not, it need not be called.
        uses_validation: whether the weights depend on `take_alignment`, and so on validation samples.
        align_every: at every so many steps, `take_alignment` gets the alignments of that step; 0: never.
        align_samples: validation samples that they are measured with.
        length_exponent: p, where a token of a sample of n supervised tokens weighs 1 / n^p besides; 0: all alike.
        weights: the last weights, float64 [T].
    """

    name: ClassVar[str]
    uses_losses: ClassVar[bool] = False
    uses_validation: ClassVar[bool] = False
    length_exponent: float = 0.0
    align_every: int = 0
    align_samples: int = 0
    weights: Tensor

    def __init__(self, num_tasks: int) -> None:
        super().__init__()
        if isinstance(num_tasks, bool) or not isinstance(num_tasks, int) or num_tasks < 1:
            raise ValueError(f"num_tasks is {num_tasks!r}; a whole number of at least 1 is needed")
        self.register_buffer("weights", torch.ones(num_tasks, dtype=torch.float64))

    @property
    def num_tasks(self) -> int:
        """T."""
        return self.weights.numel()

    @torch.no_grad()
    def begin_step(self, task_tokens: Tensor) -> Tensor:
        """Return the weights of the step that is about to begin.

        Args:
            task_tokens: supervised tokens of each task in this step, over all ranks and micro-batches, [T].

        Returns:
            A copy, float64 [T], on the device of the strategy's buffers.

        Raises:
            ValueError: `task_tokens` has another shape.
        """
        tokens = self._checked("task_tokens", task_tokens)
        if self.training:
            self.weights.copy_(self._next_weights(tokens))
        return self.weights.clone()

    @torch.no_grad()
    def end_step(self, task_loss_sum: Tensor, task_tokens: Tensor) -> None:
        """Take in the statistics of the step that has finished.

        Args:
            task_loss_sum: unweighted sum of the token losses of each task in the step, [T].
            task_tokens: supervised tokens of each task in the step, [T].

        Raises:
            ValueError: an argument has another shape.
        """
        sums = self._checked("task_loss_sum", task_loss_sum)
        tokens = self._checked("task_tokens", task_tokens)
        if not self.training:
            return
        means = sums / tokens
        observed = (tokens > 0) & torch.isfinite(means)
        self._observe(torch.where(observed, means, 0.0), observed)

    @torch.no_grad()
    def take_alignment(self, alignment_sum: Tensor, task_tokens: Tensor) -> None:
        """Take in how the tasks' gradients lay along the validation's in the step that has finished.

        Args:
            alignment_sum: of each task the sum over its tokens of <G, gradient of the token's loss>, G the
                validation's gradient, with respect to the output head, [T]. See `cotbal.tune.alignment`.
            task_tokens: supervised tokens of each task in the step, [T].

        Raises:
            ValueError: an argument has another shape.
        """
        sums = self._checked("alignment_sum", alignment_sum)
        tokens = self._checked("task_tokens", task_tokens)
        if not self.training:
            return
        means = sums / tokens
        observed = (tokens > 0) & torch.isfinite(means)
        self._take_alignment(torch.where(observed, means, 0.0), observed)

    def _next_weights(self, task_tokens: Tensor) -> Tensor:
        """Return the weights [T] of the next step; `task_tokens` is float64 [T]."""
        return self.weights

    def _observe(self, task_loss: Tensor, observed: Tensor) -> None:
        """Take in mean losses [T], valid where `observed` [T] is true and 0 elsewhere."""

    def _take_alignment(self, alignment: Tensor, observed: Tensor) -> None:
        """Take in mean alignments [T], valid where `observed` [T] is true and 0 elsewhere."""

    def _checked(self, name: str, values: Tensor) -> Tensor:
        if not isinstance(values, Tensor):
            raise TypeError(f"{name} must be a tensor; found {type(values).__name__}")
        if values.shape != self.weights.shape:
            raise ValueError(
                f"{name} has shape {tuple(values.shape)}; {tuple(self.weights.shape)} is needed for "
                f"{self.num_tasks} task(s)"
            )
        return values.detach().to(self.weights.device, torch.float64)

    def extra_repr(self) -> str:
        return f"num_tasks={self.num_tasks}"


def softmax_to_count(scores: Tensor, among: Tensor) -> Tensor:
    """Return K softmax(scores) over the K entries that `among` marks, and 1 for the others; [T]."""
    masked = scores.masked_fill(~among, -torch.inf)
    return torch.where(among, among.sum() * torch.softmax(masked, dim=0), 1.0)


def token_weights(shares: Tensor, task_tokens: Tensor) -> Tensor:
    """Weights [T] of tokens under which tasks count by their `shares` [T], whatever their numbers of tokens.

        w_k = n s_k / (n_k S)        n_k tokens of task k, n of all, S the sum of the shares of the tasks present

    The loss is then sum s_k L_k / S over the tasks present, L_k the mean loss of task k's tokens, under both ways to
    normalize. An absent task's weight is 0.
    """
    present = task_tokens > 0
    total = torch.where(present, shares, 0.0).sum()
    return torch.where(present & (total > 0), task_tokens.sum() * shares / (task_tokens * total), 0.0)
