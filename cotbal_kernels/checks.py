"""Checks of what callers pass in, with errors that name the argument, what was found and what is accepted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NoReturn

import torch
from torch import Tensor
from torch.nn import Parameter

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


# Elements from which on a tensor that shows the same memory many times over is refused.
_LARGE: Final = 2**24


def tensor(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is a {type(value).__name__}; a torch.Tensor is needed")
    if torch.compiler.is_compiling() or value.numel() <= _LARGE or type(value) not in (Tensor, Parameter):
        return
    held = value.untyped_storage().nbytes() // value.element_size()
    if held < value.numel():
        raise ValueError(
            f"{name} shows {held} numbers in memory as {value.numel()}, of shape {tuple(value.shape)}; what is "
            "computed from it would take memory for each, so pass a tensor that has them (.contiguous()), or a "
            "smaller one"
        )


def integer(name: str, value: Tensor) -> None:
    tensor(name, value)
    if value.dtype not in _INTEGERS:
        raise TypeError(
            f"{name} has dtype {value.dtype}; an integer tensor is needed, torch.int64 for instance"
        )


def floating(name: str, value: Tensor) -> None:
    tensor(name, value)
    if not value.is_floating_point():
        raise TypeError(f"{name} has dtype {value.dtype}; a floating-point tensor is needed")


def same_device(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    if value.device != other.device:
        raise ValueError(
            f"{name} is on {value.device}, but {other_name} is on {other.device}; move one of them"
        )


def same_shape_and_device(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    tensor(name, value)
    if value.shape != other.shape:
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}, but {other_name} has shape {tuple(other.shape)}; "
            "they must be equal"
        )
    same_device(name, value, other_name, other)


def is_weight(values: Tensor) -> Tensor:
    """Where a value is a legal weight: finite and not negative."""
    return torch.isfinite(values) & (values >= 0)


def as_weights(values: Tensor) -> Tensor:
    """Weights in the dtype they are computed with: f64 as it comes, f32 otherwise."""
    return values if values.dtype == torch.float64 else values.to(torch.float32)


def legal_weights(name: str, values: Tensor) -> Tensor:
    """The weights given, checked without waiting for a device.

    On the CPU an illegal value is refused. On a device, and in a compiled graph, a negative one becomes NaN
    (as the loss then does) by one small kernel; infinities make it NaN by themselves.
    """
    if values.device.type != "cpu" or torch.compiler.is_compiling():
        return torch.nn.functional.threshold(values, -torch.finfo(values.dtype).tiny, float("nan"))
    legal = is_weight(values.detach())
    if not legal.all():
        refuse(name, values, int(legal.to(torch.uint8).argmin()), "not a finite number >= 0")
    return values


def moved(value: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device; from the CPU to an accelerator without waiting for it."""
    if value.device.type == "cpu" and device.type == "cuda" and not value.requires_grad:
        return value.pin_memory().to(device, non_blocking=True)
    return value.to(device)


def task_table(
    weights: Tensor | Sequence[float], num_tasks: int, device: torch.device | None = None
) -> Tensor:
    """Task weights as a tensor [T] on ``device`` (where they are if ``None``); values are not looked at."""
    # A list becomes a tensor on the CPU, whatever the default device.
    table = weights if isinstance(weights, Tensor) else torch.as_tensor(weights, device="cpu")
    if table.is_complex() or table.dtype == torch.bool:
        raise TypeError(f"task_weights has dtype {table.dtype}; real numbers are needed")
    if table.dim() != 1 or table.shape[0] != num_tasks:
        raise ValueError(
            f"task_weights has shape {tuple(table.shape)} for {num_tasks} tasks; accepted: ({num_tasks},)"
        )
    return as_weights(table) if device is None else moved(as_weights(table), device)


def position(shape: Sequence[int], flat: int) -> str:
    """Index expression of a flat position: ``[1, 17]``."""
    index = []
    for size in reversed(shape):
        index.append(flat % size)
        flat //= size
    return "[" + ", ".join(map(str, reversed(index))) + "]"


def refuse(name: str, values: Tensor, flat: int, why: str) -> NoReturn:
    """Raise for the value at a flat position of ``values``."""
    found = values.detach().reshape(-1)[flat].item()
    raise ValueError(f"{name}{position(values.shape, flat)} is {found}: {why}")
