"""Gradients as an engine holds them, and the sizes of those of adapters, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cotbal.tune.counts import reduce_over_ranks

__all__ = [
    "adapter_gradient_norms",
    "adapter_parameters",
    "forget_zero3_gradients",
    "local_gradient",
    "norm_deviation",
]


def local_gradient(parameter: nn.Parameter) -> Tensor | None:
    """Return this rank's part of a gradient; DeepSpeed's ZeRO-3 keeps it in its own buffers."""
    gradient: Any = parameter.grad
    if gradient is None:
        if _of_zero3(parameter) and parameter.requires_grad:
            from deepspeed.utils import safe_get_local_grad

            kept: Tensor | None = safe_get_local_grad(parameter)
            return kept
        return None
    local: Tensor = gradient.to_local() if hasattr(gradient, "to_local") else gradient
    return local


def forget_zero3_gradients(model: nn.Module) -> None:
    """Let the next backward pass start DeepSpeed's sums from 0."""
    for optimizer in {p._z3_optimizer for p in model.parameters() if _of_zero3(p)}:  # type: ignore[attr-defined]
        optimizer.zero_grad()


def adapter_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trained parameters of a model's LoRA layers, by name."""
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if ".lora_" in name and parameter.requires_grad
    }


def adapter_gradient_norms(model: nn.Module, group: dist.ProcessGroup | None = None) -> dict[str, float]:
    """Euclidean norms of the gradients of each adapted layer over all ranks, by the layers' names."""
    squares: dict[str, Tensor] = {}
    device = next(model.parameters()).device
    for name, parameter in adapter_parameters(model).items():
        layer = name.split(".lora_")[0]
        total = squares.setdefault(layer, torch.zeros((), dtype=torch.float64))
        local = local_gradient(parameter)
        if local is not None:
            squares[layer] = total + (local.detach().double() ** 2).sum().cpu()
    table = torch.stack(list(squares.values())).to(device)
    reduce_over_ranks(table, group)
    return dict(zip(squares, table.sqrt().tolist(), strict=True))


def norm_deviation(before: Mapping[str, float], after: Mapping[str, float]) -> float:
    """The largest change of a layer's norm relative to the layer's; infinite where no layer had a gradient.

    >>> norm_deviation({"q_proj": 2.0, "v_proj": 1.0}, {"q_proj": 2.0, "v_proj": 0.75})
    0.25
    """
    largest = max(before.values())
    if largest == 0.0:
        return float("inf")
    # A layer whose output nothing uses (LLaVA's last of the vision tower) has rounding at most.
    return max(abs(after[name] - norm) / max(norm, 1e-6 * largest) for name, norm in before.items())


def _of_zero3(parameter: nn.Parameter) -> bool:
    return hasattr(parameter, "ds_id") and hasattr(parameter, "_z3_optimizer")
