"""The operators torch sees, one boundary per call, and the short way past them in eager mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import torch
from torch import Tensor
from torch._compile import _disable_dynamo
from torch.autograd import forward_ad

from cotbal_kernels import execution, fakes
from cotbal_kernels.call import (
    Gradients,
    LinearBackwardCall,
    LinearCall,
    LinearResult,
    LogitsBackwardCall,
    LogitsCall,
    LogitsResult,
    PositionsCall,
    schema,
)
from cotbal_kernels.gradients import (
    LinearFunction,
    LogitsFunction,
    is_plain,
    linear_backward,
    linear_setup,
    logits_backward,
    logits_setup,
)

LIBRARY: Final = "cotbal_kernels"
POSITIONS: Final = f"{LIBRARY}::supervised_positions"
LINEAR: Final = f"{LIBRARY}::linear_cross_entropy"
LINEAR_BACKWARD: Final = f"{LIBRARY}::linear_cross_entropy_backward"
LOGITS: Final = f"{LIBRARY}::cross_entropy"
LOGITS_BACKWARD: Final = f"{LIBRARY}::cross_entropy_backward"

Call = TypeVar("Call", bound=tuple[Any, ...])
Result = TypeVar("Result")


def linear_cross_entropy(call: LinearCall) -> LinearResult:
    """Loss, statistics and what the backward pass needs, of an output head."""
    _refuse_forward_mode(call)
    if not is_plain(call):
        return LinearResult._make(torch.ops.cotbal_kernels.linear_cross_entropy(*call))
    if _records(call):
        return LinearResult._make(LinearFunction.apply(*call))  # type: ignore[no-untyped-call]
    return execution.linear_result(call)


def cross_entropy(call: LogitsCall) -> LogitsResult:
    """Loss, statistics and what the backward pass needs, of logits."""
    _refuse_forward_mode(call)
    if not is_plain(call):
        return LogitsResult._make(torch.ops.cotbal_kernels.cross_entropy(*call))
    if _records(call):
        return LogitsResult._make(LogitsFunction.apply(*call))  # type: ignore[no-untyped-call]
    return execution.logits_result(call)


def _refuse_forward_mode(call: tuple[Any, ...]) -> None:
    """Tangents would be dropped, and derivatives be 0."""
    if torch.compiler.is_compiling() or forward_ad._current_level < 0:
        return
    for each in call:
        if isinstance(each, Tensor) and _tangent(each) is not None:
            raise NotImplementedError(
                "forward-mode differentiation: cotbal_kernels' losses have gradients in reverse mode only "
                "(backward, torch.func.grad); use the plain loss for directional derivatives"
            )


def _tangent(value: Tensor) -> Tensor | None:
    tangent: Tensor | None = forward_ad.unpack_dual(value).tangent  # type: ignore[no-untyped-call]
    return tangent


def _records(call: tuple[Any, ...]) -> bool:
    return torch.is_grad_enabled() and any(isinstance(each, Tensor) and each.requires_grad for each in call)


def _register(
    name: str,
    call: type[Call],
    result: type[Result],
    implementation: Callable[[Call], Result],
    fake: Callable[[Call], Result],
) -> None:
    torch.library.define(name, schema(call, result))
    # Where a compiled model's graph breaks around a call, the compiler would follow the operator into its own Python,
    # and find there the very operator again.
    run = _disable_dynamo(lambda *arguments: implementation(call(*arguments)))
    torch.library.impl(name, "default")(run)
    torch.library.register_fake(name)(lambda *arguments: fake(call(*arguments)))


_register(POSITIONS, PositionsCall, Tensor, execution.positions, fakes.positions)
_register(LINEAR, LinearCall, LinearResult, execution.linear_result, fakes.linear_result)
_register(LINEAR_BACKWARD, LinearBackwardCall, Gradients, execution.linear_gradients, fakes.linear_gradients)
_register(LOGITS, LogitsCall, LogitsResult, execution.logits_result, fakes.logits_result)
_register(LOGITS_BACKWARD, LogitsBackwardCall, Tensor, execution.logits_gradient, fakes.logits_gradient)
torch.library.register_autograd(LINEAR, linear_backward, setup_context=linear_setup)
torch.library.register_autograd(LOGITS, logits_backward, setup_context=logits_setup)
