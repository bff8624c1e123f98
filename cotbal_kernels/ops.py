"""The operators torch sees, one boundary per call: shapes without data, gradients, and a short way in eager mode."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

from cotbal_kernels import linear, logits
from cotbal_kernels.backends.registry import resolve
from cotbal_kernels.call import (
    Gradients,
    LinearBackwardCall,
    LinearCall,
    LinearResult,
    LogitsBackwardCall,
    LogitsCall,
    LogitsResult,
    compute_dtype,
    schema,
)
from cotbal_kernels.products import product_dtype
from cotbal_kernels.reduction import reduced_loss, row_weight_gradient

LIBRARY: Final = "cotbal_kernels"
LINEAR: Final = f"{LIBRARY}::linear_cross_entropy"
LINEAR_BACKWARD: Final = f"{LIBRARY}::linear_cross_entropy_backward"
LOGITS: Final = f"{LIBRARY}::cross_entropy"
LOGITS_BACKWARD: Final = f"{LIBRARY}::cross_entropy_backward"

Call = TypeVar("Call", bound=tuple[Any, ...])
Result = TypeVar("Result")


def linear_cross_entropy(call: LinearCall) -> LinearResult:
    """Loss, statistics and what the backward pass needs, of an output head."""
    _refuse_forward_mode(call)
    if not _is_plain(call):
        return LinearResult._make(torch.ops.cotbal_kernels.linear_cross_entropy(*call))
    if _records(call):
        return LinearResult._make(LinearFunction.apply(*call))  # type: ignore[no-untyped-call]
    return _linear(call)


def cross_entropy(call: LogitsCall) -> LogitsResult:
    """Loss, statistics and what the backward pass needs, of logits."""
    _refuse_forward_mode(call)
    if not _is_plain(call):
        return LogitsResult._make(torch.ops.cotbal_kernels.cross_entropy(*call))
    if _records(call):
        return LogitsResult._make(LogitsFunction.apply(*call))  # type: ignore[no-untyped-call]
    return _logits(call)


def _is_plain(call: tuple[Any, ...]) -> bool:
    """Whether nobody looks on: no compiler, no tracer, no tensor that is more than a tensor.

    Then the operator, which is there for them, would only take time; most of it goes into its registered gradient.
    """
    return (
        not torch.compiler.is_compiling()
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._functorch.peek_interpreter_stack() is None
        and all(type(each) in (Tensor, Parameter) for each in call if isinstance(each, Tensor))
    )


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


def _own_dtypes(device: torch.device) -> AbstractContextManager[None]:
    """Inside an operator the inputs have the dtypes they shall have: autocast must not change them again."""
    return (
        torch.autocast(device.type, enabled=False)
        if torch.is_autocast_enabled(device.type)
        else nullcontext()
    )


# Implementations: from a call to its result, on data.


def _linear(call: LinearCall) -> LinearResult:
    backend = resolve(call.impl, call.hidden.device, product_dtype(call.hidden.dtype, call.hidden.device))
    with _own_dtypes(call.hidden.device):
        made = linear.compute(backend, call)
    loss = reduced_loss(
        made.nll,
        made.sums,
        call.rows,
        call.row_weights,
        call.reduction,
        call.hidden.shape[0],
    )
    gradients = made.gradients
    return LinearResult(
        loss,
        made.sums.normalizer,
        made.nll,
        made.sums.task_loss_sum,
        made.sums.task_tokens,
        made.sums.task_correct,
        made.sums.sample_loss_sum,
        made.sums.sample_tokens,
        made.logits_gradient,
        gradients.hidden,
        gradients.weight,
        gradients.bias,
    )


def _linear_gradients(call: LinearBackwardCall) -> Gradients:
    backend = resolve(call.impl, call.hidden.device, product_dtype(call.hidden.dtype, call.hidden.device))
    scale = backend.row_scale(
        call.upstream,
        call.rows,
        call.row_weights,
        call.normalizer,
        call.reduction,
        compute_dtype(call.hidden.dtype),
    )
    with _own_dtypes(call.hidden.device):
        if call.mode == "keep":
            return linear.gradients_from_kept(backend, call, scale)
        return linear.recomputed_gradients(backend, call, scale)


def _logits(call: LogitsCall) -> LogitsResult:
    backend = resolve(call.impl, call.logits.device, call.logits.dtype)
    with _own_dtypes(call.logits.device):
        nll, sums, gradient = logits.compute(backend, call)
    loss = reduced_loss(nll, sums, call.rows, call.row_weights, call.reduction, call.logits.shape[0])
    return LogitsResult(
        loss,
        sums.normalizer,
        nll,
        sums.task_loss_sum,
        sums.task_tokens,
        sums.task_correct,
        sums.sample_loss_sum,
        sums.sample_tokens,
        gradient,
    )


def _logits_gradient(call: LogitsBackwardCall) -> Tensor:
    backend = resolve(call.impl, call.logits.device, call.logits.dtype)
    scale = backend.row_scale(
        call.upstream,
        call.rows,
        call.row_weights,
        call.normalizer,
        call.reduction,
        compute_dtype(call.logits.dtype),
    )
    with _own_dtypes(call.logits.device):
        return logits.gradient(backend, call, scale)


# Fakes: the same without data.


def _fake_linear(call: LinearCall) -> LinearResult:
    kept = linear.empty_rows(
        call.hidden,
        call.rows.shape[0] if call.mode == "keep" else 0,
        call.weight.shape[0],
        product_dtype(call.hidden.dtype, call.hidden.device),
    )
    gradients = _fake_gradients(call, call.mode == "grads", compute_dtype(call.hidden.dtype))
    return LinearResult._make((*_fake_statistics(call, call.hidden), kept, *gradients))


def _fake_linear_gradients(call: LinearBackwardCall) -> Gradients:
    return _fake_gradients(call, True, call.hidden.dtype)


def _fake_logits(call: LogitsCall) -> LogitsResult:
    gradient = call.logits.new_empty(call.logits.shape if call.mode == "grads" else (0,))
    return LogitsResult._make((*_fake_statistics(call, call.logits), gradient))


def _fake_logits_gradient(call: LogitsBackwardCall) -> Tensor:
    return call.logits.new_empty(call.logits.shape)


def _fake_statistics(call: LinearCall | LogitsCall, like: Tensor) -> tuple[Tensor, ...]:
    dtype = compute_dtype(like.dtype)
    return (
        like.new_empty((like.shape[0],) if call.reduction == "none" else (), dtype=dtype),
        like.new_empty((), dtype=torch.float64),
        like.new_empty(call.rows.shape[0], dtype=dtype),
        like.new_empty(call.num_tasks, dtype=dtype),
        like.new_empty(call.num_tasks, dtype=torch.int64),
        like.new_empty(call.num_tasks, dtype=torch.int64),
        like.new_empty(call.num_samples, dtype=dtype),
        like.new_empty(call.num_samples, dtype=torch.int64),
    )


def _fake_gradients(call: LinearCall | LinearBackwardCall, made: bool, dtype: torch.dtype) -> Gradients:
    wanted = (
        (call.hidden, made and call.wants_hidden),
        (call.weight, made and call.wants_weight),
        (call.weight if call.bias is None else call.bias, made and call.wants_bias and call.bias is not None),
    )
    return Gradients._make(
        each.new_empty(each.shape, dtype=dtype) if wants else each.new_empty(0) for each, wants in wanted
    )


# Gradients: the same functions for the operators and for the short way.


def _refuse_second_order() -> None:
    if torch.is_grad_enabled():
        raise NotImplementedError(
            "create_graph=True: the gradients of cotbal_kernels' losses are not themselves differentiable; "
            "use the plain loss where second derivatives are needed"
        )


def _scaled(saved: Tensor, upstream: Tensor, dtype: torch.dtype, impl: str) -> Tensor:
    """`saved * upstream` in `dtype`, rounded once, without a pass over it where that can be helped."""
    # Only a plain tensor can be asked what it holds, and only a graph that is not kept gives its tensors away.
    plain = type(upstream) is Tensor
    if plain and saved.device.type == "cpu" and upstream.item() == 1.0 and saved.dtype != dtype:
        return saved.to(dtype)
    if saved.dtype != dtype or not plain or torch._C._autograd._get_current_graph_task_keep_graph():
        return (saved * upstream).to(dtype)
    if saved.device.type == "cpu":
        return saved if upstream.item() == 1.0 else saved.mul_(upstream)
    return resolve(impl, saved.device, saved.dtype).rescale_(saved, upstream)


def _save(
    ctx: Any,
    call: LinearCall | LogitsCall,
    made: LinearResult | LogitsResult,
    passed_on: tuple[Tensor | None, ...],
) -> None:
    """Save what the gradient of the row weights needs, then what those of the other inputs do."""
    trained = call.row_weights is not None and call.row_weights.requires_grad
    ctx.trains_weights = trained
    ctx.divided_by_weights = call.reduction == "mean" and call.normalizer is None
    # The options; tensors have to go where saved tensors go.
    ctx.call = type(call)._make(None if isinstance(each, Tensor) else each for each in call)
    ctx.save_for_backward(
        call.rows,
        call.targets,
        call.row_weights,
        made.nll if trained else None,
        made.loss if trained else None,
        made.normalizer,
        *passed_on,
    )
    ctx.mark_non_differentiable(*made[1:])
    ctx.set_materialize_grads(False)


def _weights_gradient(ctx: Any, saved: tuple[Any, ...], upstream: Tensor) -> Tensor | None:
    """Gradient of the row weights, from the first tensors saved; None where they are not trained."""
    if not ctx.trains_weights:
        return None
    rows, targets, row_weights, nll, loss, normalizer = saved[:6]
    return row_weight_gradient(
        upstream,
        rows,
        targets,
        row_weights,
        nll,
        loss,
        normalizer,
        ctx.call.reduction,
        ctx.divided_by_weights,
    )


def _linear_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    call, made = LinearCall._make(inputs), LinearResult._make(output)
    ctx.dtype = call.hidden.dtype
    # Gradients that exist need no inputs: these may be freed.
    sources = (None, None, None) if call.mode == "grads" else (call.hidden, call.weight, call.bias)
    _save(
        ctx,
        call,
        made,
        (
            *sources,
            made.logits_gradient,
            made.hidden_gradient,
            made.weight_gradient,
            made.bias_gradient,
        ),
    )


def _linear_backward(ctx: Any, upstream: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    nothing: tuple[Tensor | None, ...] = (None,) * len(LinearCall._fields)
    if upstream is None:
        return nothing
    _refuse_second_order()
    call: LinearCall = ctx.call
    saved = ctx.saved_tensors
    rows, targets, row_weights, _nll, _loss, normalizer, hidden, weight, bias, kept, *made = saved
    wanted = (call.wants_hidden, call.wants_weight, call.wants_bias)
    gradients: tuple[Tensor | None, ...] = (None, None, None)
    if call.mode == "grads":
        gradients = tuple(
            _scaled(each, upstream, ctx.dtype, call.impl) if wants else None
            for each, wants in zip(made, wanted, strict=True)
        )
    elif call.mode in ("keep", "recompute"):
        backward = LinearBackwardCall(
            upstream,
            hidden,
            weight,
            bias,
            rows,
            targets,
            row_weights,
            normalizer,
            kept,
            call.padded,
            call.logit_scale,
            call.softcap,
            call.reduction,
            call.mode,
            call.wants_hidden,
            call.wants_weight,
            call.wants_bias,
            call.memory_budget,
            call.impl,
        )
        computed = (
            _linear_gradients(backward)
            if _is_plain(backward)
            else torch.ops.cotbal_kernels.linear_cross_entropy_backward(*backward)
        )
        gradients = tuple(each if wants else None for each, wants in zip(computed, wanted, strict=True))
    weights = _weights_gradient(ctx, saved, upstream)
    # hidden, weight and bias come first, the row weights after the four index tensors.
    return (*gradients, *nothing[3:7], weights, *nothing[8:])


def _logits_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    call, made = LogitsCall._make(inputs), LogitsResult._make(output)
    _save(ctx, call, made, (call.logits if call.mode == "recompute" else None, made.gradient))


def _logits_backward(ctx: Any, upstream: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    nothing: tuple[Tensor | None, ...] = (None,) * len(LogitsCall._fields)
    if upstream is None:
        return nothing
    _refuse_second_order()
    call: LogitsCall = ctx.call
    saved = ctx.saved_tensors
    rows, targets, row_weights, _nll, _loss, normalizer, scores, made = saved
    gradient: Tensor | None = None
    if call.mode == "grads":
        gradient = _scaled(made, upstream, made.dtype, call.impl)
    elif call.mode == "recompute":
        backward = LogitsBackwardCall(
            upstream,
            scores,
            rows,
            targets,
            row_weights,
            normalizer,
            call.logit_scale,
            call.softcap,
            call.reduction,
            call.impl,
        )
        gradient = (
            _logits_gradient(backward)
            if _is_plain(backward)
            else torch.ops.cotbal_kernels.cross_entropy_backward(*backward)
        )
    weights = _weights_gradient(ctx, saved, upstream)
    return (gradient, *nothing[1:5], weights, *nothing[6:])


class LinearFunction(torch.autograd.Function):
    """`linear_cross_entropy` in eager mode: the operator's gradient without the operator's cost."""

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, ...]:
        return tuple(_linear(LinearCall._make(arguments)))

    setup_context = staticmethod(_linear_setup)
    backward = staticmethod(_linear_backward)


class LogitsFunction(torch.autograd.Function):
    """`cross_entropy` in eager mode."""

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, ...]:
        return tuple(_logits(LogitsCall._make(arguments)))

    setup_context = staticmethod(_logits_setup)
    backward = staticmethod(_logits_backward)


def _register(
    name: str,
    call: type[Call],
    result: type[Result],
    implementation: Callable[[Call], Result],
    fake: Callable[[Call], Result],
) -> None:
    torch.library.define(name, schema(call, result))
    torch.library.impl(name, "default")(lambda *arguments: implementation(call(*arguments)))
    torch.library.register_fake(name)(lambda *arguments: fake(call(*arguments)))


_register(LINEAR, LinearCall, LinearResult, _linear, _fake_linear)
_register(LINEAR_BACKWARD, LinearBackwardCall, Gradients, _linear_gradients, _fake_linear_gradients)
_register(LOGITS, LogitsCall, LogitsResult, _logits, _fake_logits)
_register(LOGITS_BACKWARD, LogitsBackwardCall, Tensor, _logits_gradient, _fake_logits_gradient)
torch.library.register_autograd(LINEAR, _linear_backward, setup_context=_linear_setup)
torch.library.register_autograd(LOGITS, _logits_backward, setup_context=_logits_setup)
