"""Layers whose weights bitsandbytes keeps in 4 or 8 bits."""

from __future__ import annotations

from torch import nn

__all__ = ["is_quantized", "keep_packing"]


def is_quantized(module: nn.Module) -> bool:
    """Whether a layer is one of bitsandbytes'."""
    return any(kind.__module__.startswith("bitsandbytes.") for kind in type(module).__mro__)


def keep_packing(model: nn.Module) -> None:
    """Keep bitsandbytes from repacking 4-bit layers on CPUs when the model answers.

    It does so for good, where the CPU has bf16 products; the gradients of such layers are wrong from then on, and
    layers narrower than a block of the quantisation fail.
    """
    for module in model.modules():
        if is_quantized(module) and hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
