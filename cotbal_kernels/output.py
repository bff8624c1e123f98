"""What the losses return."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class LossOutput(NamedTuple):
    """A loss and the additive statistics of its tokens; only ``loss`` carries gradients, and the last two if asked.

    Attributes:
        loss: scalar, or labels-shaped for reduction "none"; f32, f64 for f64 inputs.
        task_loss_sum: sum of the unweighted nll of each task, [T], in the dtype of the loss.
        task_tokens: supervised tokens of each task, i64 [T].
        task_correct: of these, tokens whose largest logit is the label's, i64 [T].
        sample_loss_sum: sum of the unweighted nll of each sample, [B], in the dtype of the loss.
        sample_tokens: supervised tokens of each sample, i64 [B].
        token_log_probabilities: log of the label's probability of each token, in the shape of the labels, at the
            hidden positions; 0 where unsupervised. ``None`` unless asked for, as is the next.
        token_entropy: entropy of each token's distribution, -sum p log p, laid out likewise.
    """

    loss: Tensor
    task_loss_sum: Tensor
    task_tokens: Tensor
    task_correct: Tensor
    sample_loss_sum: Tensor
    sample_tokens: Tensor
    token_log_probabilities: Tensor | None = None
    token_entropy: Tensor | None = None

    def __str__(self) -> str:
        """The loss and one line per task; reading the values waits for the device."""
        loss = self.loss.detach()
        shown = f"{loss.item():.4f}" if loss.dim() == 0 else f"of shape {tuple(loss.shape)}"
        lines = [f"loss {shown}, {self.sample_tokens.numel()} samples", "task      loss    tokens  accuracy"]
        sums = (self.task_loss_sum.tolist(), self.task_tokens.tolist(), self.task_correct.tolist())
        for task, (total, tokens, correct) in enumerate(zip(*sums, strict=True)):
            mean, share = (f"{total / tokens:.4f}", f"{correct / tokens:.1%}") if tokens else ("-", "-")
            lines.append(f"{task:>4}  {mean:>8}  {tokens:>8}  {share:>8}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        shape, tasks = tuple(self.loss.shape), self.task_tokens.numel()
        return f"LossOutput(loss: {self.loss.dtype} {shape}, {tasks} tasks, {self.sample_tokens.numel()} samples)"

    @property
    def task_loss(self) -> Tensor:
        """Mean nll of each task, [T]; NaN where a task has no token."""
        return self.task_loss_sum / self.task_tokens

    @property
    def sample_loss(self) -> Tensor:
        """Mean nll of each sample, [B]; NaN where a sample has no token."""
        return self.sample_loss_sum / self.sample_tokens
