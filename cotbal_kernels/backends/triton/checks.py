"""What the Triton launchers refuse, and what they tell the row kernel about its tensors."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from cotbal_kernels.backends.triton.configs import ACCESS_BYTES

DTYPES: Final = (torch.bfloat16, torch.float16, torch.float32)


def row_pass(
    logits: Tensor,
    targets: Tensor,
    rows: Tensor | None,
    gradient: Tensor | None,
    row_scale: Tensor | None,
) -> None:
    """Refuse what the kernel would misread; values are checked where plans are made."""
    if logits.dtype not in DTYPES:
        raise ValueError(f"logits has dtype {logits.dtype}; accepted are bfloat16, float16 and float32")
    if logits.dim() != 2 or logits.shape[1] == 0 or (logits.stride(1) != 1 and logits.shape[1] > 1):
        raise ValueError(
            f"logits has shape {tuple(logits.shape)} and strides {logits.stride()}; [M, V] with V > 0 and "
            "unit column stride is needed"
        )
    count = targets.shape[0]
    if targets.dim() != 1 or targets.dtype != torch.int64 or (rows is None and count > logits.shape[0]):
        raise ValueError(
            f"targets is {targets.dtype} {tuple(targets.shape)} for {logits.shape[0]} rows of logits; int64 [n] is "
            "needed, n no more than the rows unless rows= says which"
        )
    if rows is not None and (rows.dtype != torch.int64 or rows.shape != targets.shape):
        raise ValueError(f"rows is {rows.dtype} {tuple(rows.shape)}; int64 {tuple(targets.shape)} is needed")
    if gradient is not None and (
        gradient.dtype != logits.dtype
        or gradient.shape != logits.shape
        or (gradient.stride(1) != 1 and logits.shape[1] > 1)
    ):
        raise ValueError(
            f"gradient is {gradient.dtype} {tuple(gradient.shape)} with strides {gradient.stride()}; "
            f"{logits.dtype} {tuple(logits.shape)} with unit column stride is needed"
        )
    if row_scale is not None and row_scale.shape != targets.shape:
        raise ValueError(f"row_scale has shape {tuple(row_scale.shape)}; {tuple(targets.shape)} is needed")
    for name, other in (("targets", targets), ("rows", rows), ("gradient", gradient)):
        if other is not None and other.device != logits.device:
            raise ValueError(
                f"{name} is on {other.device}, but logits is on {logits.device}; move one of them"
            )


def aligned(logits: Tensor) -> bool:
    """Whether every row begins and ends on a boundary of 16 bytes."""
    size = logits.element_size()
    strides = (logits.stride(0), logits.shape[1]) if logits.shape[0] > 1 else (logits.shape[1],)
    return logits.data_ptr() % ACCESS_BYTES == 0 and all(
        stride * size % ACCESS_BYTES == 0 for stride in strides
    )


def congruent(logits: Tensor, gradient: Tensor) -> bool:
    """Whether each row of the gradient begins as far from a boundary of 16 bytes as the row of logits does."""
    apart = gradient.data_ptr() - logits.data_ptr()
    strides_apart = (gradient.stride(0) - logits.stride(0)) * logits.element_size()
    return apart % ACCESS_BYTES == 0 and strides_apart % ACCESS_BYTES == 0
