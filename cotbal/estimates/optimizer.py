"""The state of an optimizer: made by the optimizer itself where it can work without data, else by its rule."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from cotbal.estimates.live_bytes import storage_bytes

__all__ = ["OptimizerState", "bitsandbytes_state", "make_optimizer"]

# bitsandbytes: blocks of one scale, tensors too small for 8 bits, entries of a table of 8-bit values.
_BLOCK = 256
_LEAST_FOR_8_BITS = 4096
_TABLE = 256
_STATES = {"adam": 2, "adamw": 2, "lion": 1, "sgd": 1, "rmsprop": 1, "adagrad": 1, "lars": 1}


class OptimizerState(Protocol):
    """Something that makes a step."""

    def step(self) -> int:
        """Make a step, and return the bytes of the state."""


def make_optimizer(
    parameters: Sequence[Any], kind: type, options: Mapping[str, Any], device: str
) -> OptimizerState:
    """The optimizer that the Trainer would make.

    Args:
        parameters: those that are trained, with their gradients.
        kind, options: its class and arguments.
        device: `gpu` or `cpu`.
    """
    if kind.__module__.startswith("bitsandbytes."):
        return _Ruled(parameters, kind.__name__, int(options.get("optim_bits", 32)))
    given = dict(options)
    if device == "gpu" and "foreach" in inspect.signature(kind).parameters and not given.get("fused"):
        # As torch chooses on GPUs: all parameters at once, which takes more for a moment.
        given["foreach"] = True
    return _Real(kind(list(parameters), **given))


class _Real:
    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer

    def step(self) -> int:
        self.optimizer.step()
        return storage_bytes(_tensors(self.optimizer.state.values()))


class _Ruled:
    def __init__(self, parameters: Sequence[Any], name: str, bits: int) -> None:
        self.parameters = [parameter for parameter in parameters if parameter.grad is not None]
        self.name = name
        self.bits = bits

    def step(self) -> int:
        states = next((count for kind, count in _STATES.items() if self.name.lower().startswith(kind)), 2)
        return bitsandbytes_state([p.numel() for p in self.parameters], self.bits, states)


def bitsandbytes_state(sizes: Sequence[int], bits: int, states: int) -> int:
    """The bytes of the state of bitsandbytes' blockwise optimizers.

    In 8 bits, a tensor of n >= 4096 numbers takes n bytes and 4 ceil(n / 256) of scales for each state, and all
    share a table of 256 numbers per state; smaller tensors, and all in 32 bits, take 4 n bytes for each state.

    >>> bitsandbytes_state([4096, 10], bits=8, states=2)
    10448
    """
    total, tables = 0, 0
    for size in sizes:
        small = bits == 32 or size < _LEAST_FOR_8_BITS
        total += states * (4 * size if small else size + 4 * -(-size // _BLOCK))
        tables = tables if small else states * 4 * _TABLE
    return total + tables


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, Mapping):
            yield from _tensors(value.values())
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)
