"""The three matrix products of an output head, in the dtype this machine multiplies well."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import torch
from torch import Tensor

# Classes in a block, where a product has to be made block by block: 8 MiB of f32 at 1024 columns.
_BLOCK: Final = {"cpu": 2048}
_DEVICE_BLOCK: Final = 16384


# torch.compile asks once, outside of the graph.
@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
@lru_cache(maxsize=1)
def _cpu_multiplies_bf16() -> bool:
    """Whether this CPU has instructions for bf16 products; without, torch's are slower by two orders."""
    found = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(
        found.get("avx512_bf16") or found.get("amx_bf16") or found.get("arm_bf16") or found.get("bf16")
    )


def product_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype of the logits: the inputs', or f32 on a CPU that cannot multiply them as they are."""
    if device.type != "cpu" or dtype in (torch.float32, torch.float64):
        return dtype
    if dtype == torch.bfloat16 and _cpu_multiplies_bf16():
        return dtype
    return torch.float32


@lru_cache(maxsize=1)
def _torch_writes_f32() -> bool:
    """Whether torch on CUDA has products of 16-bit matrices whose f32 sums are stored, and added to, as they are."""
    major, minor = (int(part) for part in torch.__version__.split(".")[:2])
    return torch.version.hip is None and (major, minor) >= (2, 10)


def _writes_f32(matrix: Tensor) -> bool:
    return matrix.device.type == "cuda" and matrix.dtype.itemsize == 2 and _torch_writes_f32()


def _blocks(matrix: Tensor) -> list[slice]:
    """The classes [V] of a matrix [V, H], block by block."""
    classes = matrix.shape[0]
    size = _BLOCK.get(matrix.device.type, _DEVICE_BLOCK)
    return [slice(start, min(start + size, classes)) for start in range(0, classes, size)]


def logits_(hidden: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """out = hidden @ weight.T + bias, rounded once.

    Args:
        hidden: [n, H], of the dtype of out [n, V].
        weight: [V, H], of any dtype.
        bias: [V], of the weight's dtype; None: 0.
    """
    if weight.dtype == out.dtype:
        _product_(hidden, weight, bias, out)
        return
    for block in _blocks(weight):
        added = None if bias is None else bias[block].to(out.dtype)
        _product_(hidden, weight[block].to(out.dtype), added, out[:, block])


def _product_(hidden: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    if bias is None:
        torch.mm(hidden, weight.t(), out=out)
    else:
        torch.addmm(bias, hidden, weight.t(), out=out)


def hidden_gradient(gradient: Tensor, weight: Tensor) -> Tensor:
    """gradient @ weight, [n, H]; gradient [n, V], weight [V, H] of any dtype.

    The result is f32 where torch can leave its sums unrounded, else of the gradient's dtype.
    """
    if weight.dtype == gradient.dtype:
        if _writes_f32(gradient):
            return torch.mm(gradient, weight, out_dtype=torch.float32)
        return torch.mm(gradient, weight)
    total = gradient.new_zeros(gradient.shape[0], weight.shape[1])
    for block in _blocks(weight):
        total.addmm_(gradient[:, block], weight[block].to(gradient.dtype))
    return total


def weight_gradient_(gradient: Tensor, hidden: Tensor, out: Tensor, accumulate: bool) -> None:
    """out (+)= gradient.T @ hidden; gradient [n, V] and hidden [n, H] of one dtype, out [V, H] of any.

    With `accumulate`, out is f32 or wider: sums over chunks are never rounded to a narrower dtype.
    """
    if out.dtype == gradient.dtype:
        if accumulate:
            out.addmm_(gradient.t(), hidden)
        else:
            torch.mm(gradient.t(), hidden, out=out)
        return
    if out.dtype == torch.float32 and _writes_f32(gradient):
        if accumulate:
            torch.addmm(out, gradient.t(), hidden, out_dtype=torch.float32, out=out)
        else:
            torch.mm(gradient.t(), hidden, out_dtype=torch.float32, out=out)
        return
    for block in _blocks(out):
        part = torch.mm(gradient[:, block].t(), hidden)
        if accumulate:
            out[block].add_(part)
        else:
            out[block].copy_(part)
