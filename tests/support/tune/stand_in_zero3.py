"""A stand-in for DeepSpeed's ZeRO-3: a module's own parameters exist only during its forward and its backward.

Outside of them they are empty tensors, as there, so whoever reads `lm_head.weight` at another time gets nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class _Gather(torch.autograd.Function):
    """Put around a module's outputs: its backward runs before the module's, and brings the parameters back."""

    @staticmethod
    def forward(ctx: Any, gather: Callable[[], None], output: Tensor) -> Tensor:
        ctx.gather = gather
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        ctx.gather()
        return None, *gradients


class StandInZero3:
    """Empties the parameters of `model` while the context is open; gradients are left on them as usual.

    As DeepSpeed does it: gathered by a forward pre-hook, released by a forward hook, gathered again by a function
    around the outputs, and released when their gradients are there; frozen ones before the next forward.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.full: dict[nn.Parameter, Tensor] = {}
        self.hooks: list[Any] = []

    def __enter__(self) -> StandInZero3:
        for parameter in self.model.parameters():
            self.full[parameter] = parameter.data
            self._empty(parameter)
            if parameter.requires_grad:
                self.hooks.append(parameter.register_post_accumulate_grad_hook(self._empty))
        self.hooks.append(self.model.register_forward_pre_hook(self._empty_all))
        for module in self.model.modules():
            if module._parameters:
                self.hooks += [
                    module.register_forward_pre_hook(self._before_forward),
                    module.register_forward_hook(self._after_forward),
                ]
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self.hooks:
            hook.remove()
        for parameter, data in self.full.items():
            parameter.data = data

    def _before_forward(self, module: nn.Module, inputs: Any) -> None:
        self._gather(module)

    def _after_forward(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        for parameter in module._parameters.values():
            if parameter is not None:
                self._empty(parameter)
        if isinstance(output, Tensor) and output.requires_grad:
            return _Gather.apply(lambda: self._gather(module), output)
        return output

    def _empty_all(self, *_: Any) -> None:
        for parameter in self.full:
            self._empty(parameter)

    def _gather(self, module: nn.Module) -> None:
        for parameter in module._parameters.values():
            if parameter is not None:
                parameter.data = self.full[parameter]

    def _empty(self, parameter: nn.Parameter) -> None:
        parameter.data = torch.empty(0, dtype=parameter.dtype)
