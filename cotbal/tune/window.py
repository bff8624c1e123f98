"""What is logged about each task between two logs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from cotbal.tune.counts import StepSums


class LogWindow:
    """Adds up the sums of several optimizer steps on their device, and turns them into figures to log.

    >>> import torch
    >>> window = LogWindow(["caption", "vqa"])
    >>> sums = StepSums(torch.tensor([6.0, 0.0]), torch.tensor([3, 0]), torch.tensor([1, 0]))
    >>> window.add(sums, torch.tensor([0.5, 1.5]))
    >>> sorted(window.take().items())[:3]
    [('accuracy/caption', 0.3333333333333333), ('loss/caption', 2.0), ('tokens/caption', 3)]
    >>> window.take()
    {}
    """

    def __init__(self, tasks: Sequence[str]) -> None:
        self.tasks = tuple(tasks)
        self.clear()

    def clear(self) -> None:
        """Forget the steps so far."""
        self._steps = 0
        self._sums: StepSums | None = None
        self._weights: Tensor | None = None

    def add(self, sums: StepSums, weights: Tensor) -> None:
        """One more step, with the weights [T] it had. Waits for no device."""
        self._steps += 1
        if self._sums is None or self._weights is None:
            self._sums, self._weights = sums, weights.clone()
            return
        old, device = self._sums, sums.loss.device  # sums from a checkpoint are on the CPU
        self._sums = StepSums(
            old.loss.to(device) + sums.loss,
            old.tokens.to(device) + sums.tokens,
            old.correct.to(device) + sums.correct,
        )
        self._weights = self._weights.to(weights.device) + weights

    def state_dict(self) -> dict[str, Any]:
        """The steps so far, on the CPU, for a checkpoint."""
        if self._sums is None or self._weights is None:
            return {"steps": 0}
        parts = {"loss": self._sums.loss, "tokens": self._sums.tokens, "correct": self._sums.correct}
        tensors = {**parts, "weights": self._weights}
        return {"steps": self._steps, **{name: value.cpu() for name, value in tensors.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from the steps of `state_dict`."""
        self.clear()
        self._steps = int(state["steps"])
        if self._steps:
            self._sums = StepSums(state["loss"], state["tokens"], state["correct"])
            self._weights = state["weights"]

    def take(self) -> dict[str, float]:
        """`loss/<task>`, `accuracy/<task>`, `tokens/<task>`, `weight/<task>`; and start anew."""
        if self._sums is None or self._weights is None:
            return {}
        columns = [part.tolist() for part in (self._sums.loss, self._sums.tokens, self._sums.correct)]
        weights = (self._weights / self._steps).tolist()
        self.clear()
        logs: dict[str, float] = {}
        for task, loss, tokens, correct, weight in zip(self.tasks, *columns, weights, strict=True):
            logs[f"tokens/{task}"] = tokens
            logs[f"weight/{task}"] = weight
            if tokens:
                logs[f"loss/{task}"] = loss / tokens
                logs[f"accuracy/{task}"] = correct / tokens
        return logs
