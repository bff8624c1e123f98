"""The state of a balanced model from step to step: its weights, its normalizer and its statistics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

import cotbal_kernels as ck
from cotbal.tune.alignment import HeadDirection
from cotbal.tune.counts import StepSums, check_normalization
from cotbal.tune.transform import LogitTransform


class BalanceState:
    """The part of a handle that steps and verification work with; `BalanceHandle` adds the forward.

    Attributes:
        model: the balanced model.
        normalize: "weights" or "tokens".
        normalizer: 0-d tensor that the loss is divided by; None: each forward uses its own batch's.
        auxiliary_share: what a router's auxiliary loss is multiplied by in each forward, so that those of a step's
            micro-batches and ranks add up to their mean; `begin_step` sets it.
        last: the last training pass's `cotbal_kernels.LossOutput`, detached; None before the first.
        passes: the number of training passes through the fused head.
        transform: what the model does to its logits; None until the first training pass finds out.
        direction: what the tasks' gradients are aligned with in training passes; None: nothing.
    """

    def __init__(self, model: nn.Module, weights: Any, normalize: str = "weights") -> None:
        self.model = model
        self.normalize = check_normalization(normalize)
        self.normalizer: Tensor | None = None
        self.auxiliary_share = 1.0
        self.last: ck.LossOutput | None = None
        self.passes = 0
        self.transform: LogitTransform | None = None
        self._head_name: str | None = None
        self._head_dtype: torch.dtype | None = None
        self._stock_only = False
        self._weights = _checked_weights(weights)
        self._sums: StepSums | None = None
        self.direction: HeadDirection | None = None
        self._alignments: Tensor | None = None

    @property
    def weights(self) -> Tensor:
        """One weight per task, float64 [T]. You may set it to as many new ones."""
        return self._weights

    @weights.setter
    def weights(self, value: Any) -> None:
        # A strategy's tensor may be on a GPU: looking at its values would wait for the device at every step.
        on_device = isinstance(value, Tensor) and value.device.type != "cpu"
        weights = value.detach().double() if on_device else _checked_weights(value)
        if weights.shape != self._weights.shape:
            raise ValueError(
                f"weights has shape {tuple(weights.shape)}; {self.num_tasks} weights are needed, one per task"
            )
        self._weights = weights

    @property
    def num_tasks(self) -> int:
        """T."""
        return int(self._weights.shape[0])

    @property
    def device(self) -> torch.device:
        """The device of the model's parameters."""
        return next(self.model.parameters()).device

    def statistics(self) -> StepSums:
        """Per-task sums of this process's training passes since the last reset; detached."""
        if self._sums is None:
            zeros = torch.zeros(self.num_tasks, dtype=torch.float64)
            zeros = zeros.to(self.device, torch.float32 if self.device.type == "mps" else None)
            return StepSums(zeros, zeros.long(), zeros.long())
        return self._sums

    def alignments(self) -> Tensor:
        """Per-task sums of `cotbal.tune.alignment.task_alignments` since the last reset, [T]; this process's."""
        if self._alignments is None:
            wide = torch.float32 if self.device.type == "mps" else torch.float64
            return torch.zeros(self.num_tasks, dtype=wide, device=self.device)
        return self._alignments

    def reset_statistics(self) -> None:
        """Reset the sums of `statistics` and `alignments` to 0."""
        self._sums = None
        self._alignments = None

    @contextmanager
    def stock(self) -> Iterator[None]:
        """While open, let the model compute its stock loss from full logits."""
        self._stock_only = True
        try:
            yield
        finally:
            self._stock_only = False


def _checked_weights(weights: Any) -> Tensor:
    if isinstance(weights, Mapping):
        weights = list(weights.values())
    elif not isinstance(weights, Tensor):
        weights = getattr(weights, "values", weights)  # of a TaskWeights
    # A copy: a TaskWeights' values are read-only, which torch.as_tensor warns about.
    tensor = weights if isinstance(weights, Tensor) else torch.tensor(weights, dtype=torch.float64)
    tensor = tensor.detach().double().cpu().clone()
    if tensor.dim() != 1 or tensor.numel() == 0:
        raise ValueError(
            f"weights has shape {tuple(tensor.shape)}; one number per task is needed, [T] with T > 0"
        )
    bad = ~(torch.isfinite(tensor) & (tensor >= 0))
    if bad.any():
        place = int(bad.nonzero()[0])
        raise ValueError(
            f"weights[{place}] is {float(tensor[place])}; a finite number of at least 0 is needed"
        )
    return tensor
