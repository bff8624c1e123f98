"""Divergence: a loss, a gradient norm or a parameter that is no finite number stops a training with what is known."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cotbal.tune.counts import StepSums, reduce_over_ranks

__all__ = ["DivergedError", "DivergenceWatch", "check_parameters"]

_REMEDY = (
    "Try a lower learning_rate, more warmup_steps, max_grad_norm of at most 1, or bfloat16 in place of float16; a "
    "task whose loss went up before the others may hold broken answers"
)


class DivergedError(ValueError):
    """A training went to NaN or infinity.

    Attributes:
        step: the optimizer step, from 1, in which it was seen.
        what: what was not finite, in words.
        losses: the last finite mean loss of each task, per token, and its step.
    """

    def __init__(self, step: int, what: str, losses: Mapping[str, tuple[float, int]]) -> None:
        self.step = step
        self.what = what
        self.losses = dict(losses)
        known = ", ".join(f"{task} {loss:.4g} (step {at})" for task, (loss, at) in self.losses.items())
        super().__init__(
            f"the training diverged: {what} at step {step}. Last finite losses by task: {known or 'none'}. {_REMEDY}"
        )


class DivergenceWatch:
    """Looks at every step's losses and gradient norm, without waiting for the device.

    On a CPU a step's numbers are looked at when it ends. On a CUDA or HIP device they, 2 T + 1 of them, are copied to
    pinned memory behind the step and looked at once they have arrived, one step or a few later. Only where the
    Trainer waits for the device anyhow, at a log and at a checkpoint, is the rest waited for; on other devices that
    is the only time. So nothing that diverged is logged or saved, and no step waits. The stock Trainer's own filter
    (`logging_nan_inf_filter`), which this replaces, waits for the device at every micro-batch.

    Args:
        tasks: names, in the order of the sums.
    """

    def __init__(self, tasks: Sequence[str]) -> None:
        self.tasks = tuple(tasks)
        self._under_way: deque[tuple[int, Tensor, Any]] = deque()
        self._losses: dict[str, tuple[float, int]] = {}

    def note(self, step: int, sums: StepSums, norm: Tensor | float | None = None) -> None:
        """The sums of one optimizer step over all ranks, and its gradient norm if it is known and means something."""
        loss = sums.loss.detach()
        # A norm that is spread over ranks would have to be gathered.
        plain = norm is not None and not hasattr(norm, "full_tensor")
        size = torch.as_tensor(norm if plain else 0.0).detach().to(loss).reshape(1)
        values = torch.cat([loss, sums.tokens.to(loss), size])
        if values.device.type != "cuda":
            self._under_way.append((step, values, None))
            return
        arriving = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        arriving.copy_(values, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        self._under_way.append((step, arriving, event))

    def check(self, *, wait: bool = False, together: bool = False) -> None:
        """Look at the steps whose numbers have arrived, or at all of them.

        Args:
            wait: look at all of them.
            together: several ranks look. What has arrived differs from rank to rank, but all must stop in the same
                step: each waits for every step but the last one, which is hardly a wait.

        Raises:
            DivergedError: one of them has a loss or a gradient norm that is not finite.
        """
        while self._under_way:
            step, values, event = self._under_way[0]
            if together and event is not None:
                ready = len(self._under_way) > 1
            else:
                ready = values.device.type == "cpu" and (event is None or event.query())
            if not (ready or wait):
                return
            if event is not None:
                event.synchronize()
            self._under_way.popleft()
            self._look(step, values.tolist())

    def check_log(self, step: int, logs: Mapping[str, Any], *, norm: bool) -> None:
        """Look at what is about to be logged.

        Args:
            norm: whether the gradient norm means something.

        Raises:
            DivergedError: its loss or gradient norm is not finite.
        """
        names = ("loss", "grad_norm") if norm else ("loss",)
        for name in names:
            value = logs.get(name)
            if isinstance(value, float) and not math.isfinite(value):
                raise DivergedError(step, f"{name} is {value}", self._losses)

    def _look(self, step: int, values: list[float]) -> None:
        count = len(self.tasks)
        losses, tokens, norm = values[:count], values[count:-1], values[-1]
        broken = [task for task, loss in zip(self.tasks, losses, strict=True) if not math.isfinite(loss)]
        if broken:
            raise DivergedError(step, f"the loss of {', '.join(broken)} is not finite", self._losses)
        if not math.isfinite(norm):
            raise DivergedError(step, f"the gradient norm is {norm}", self._losses)
        for task, loss, number in zip(self.tasks, losses, tokens, strict=True):
            if number:
                self._losses[task] = (loss / number, step)

    def check_parameters(self, model: nn.Module, step: int) -> None:
        """Raise a DivergedError if a parameter is not finite; see `check_parameters`."""
        broken = check_parameters(model)
        if broken:
            shown = ", ".join(broken[:5]) + (f" and {len(broken) - 5} more" if len(broken) > 5 else "")
            raise DivergedError(step, f"parameters are not finite ({shown})", self._losses)


def check_parameters(model: nn.Module) -> tuple[str, ...]:
    """Names of the parameters that hold NaN or infinity on any rank; one pass over them and one wait for the device.

    Every rank must call it. A name that only another rank knows of is given as ``on another rank``.
    """
    names: list[str] = []
    sizes: list[Tensor] = []
    for name, parameter in model.named_parameters():
        local: Any = parameter.detach()
        local = local.to_local() if hasattr(local, "to_local") else local
        if local.is_floating_point() and local.numel() and local.device.type != "meta":
            names.append(name)
            sizes.append(torch.linalg.vector_norm(local, ord=math.inf).float())
    finite = (
        [bool(value) for value in torch.stack([s.to(sizes[0].device) for s in sizes]).isfinite()]
        if sizes
        else []
    )
    broken = tuple(name for name, fine in zip(names, finite, strict=True) if not fine)
    device = sizes[0].device if sizes else torch.device("cpu")
    total = torch.tensor(float(len(broken)), device=device)
    reduce_over_ranks(total)
    return broken or (("on another rank",) if float(total) else ())
