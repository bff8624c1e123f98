"""The losses' gradients, the same functions for the operators and for the short way of eager mode."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import Parameter

from cotbal_kernels import execution
from cotbal_kernels.backends.registry import resolve
from cotbal_kernels.call import (
    LinearBackwardCall,
    LinearCall,
    LinearResult,
    LogitsBackwardCall,
    LogitsCall,
    LogitsResult,
    compute_dtype,
    has_penalties,
)
from cotbal_kernels.reduction import row_weight_gradient

# Places of the upstream gradients of nll and entropy among those after the loss's.
_NLL: Final = LinearResult._fields.index("nll") - 1
_ENTROPY: Final = LinearResult._fields.index("entropy") - 1


def is_plain(call: tuple[Any, ...]) -> bool:
    """Whether nobody looks on: no compiler, no tracer, no tensor that is more than a tensor.

    Then the operator, which is there for them, would only take time; most of it goes into its registered gradient.
    """
    return (
        not torch.compiler.is_compiling()
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._functorch.peek_interpreter_stack() is None
        and all(type(each) in (Tensor, Parameter) for each in call if isinstance(each, Tensor))
    )


def refuse_second_order() -> None:
    if torch.is_grad_enabled():
        raise NotImplementedError(
            "create_graph=True: the gradients of cotbal_kernels' losses are not themselves differentiable; "
            "use the plain loss where second derivatives are needed"
        )


def graph_is_kept() -> bool:
    """Whether the running backward pass keeps its graph: then what it saved is needed again."""
    kept: bool = torch._C._autograd._get_current_graph_task_keep_graph()
    return kept


def scaled(saved: Tensor, upstream: Tensor, dtype: torch.dtype, impl: str) -> Tensor:
    """`saved * upstream` in `dtype`, rounded once, without a pass over it where that can be helped."""
    # Only a plain tensor can be asked what it holds, and only a graph that is not kept gives its tensors away.
    plain = type(upstream) is Tensor
    if plain and saved.device.type == "cpu" and upstream.item() == 1.0 and saved.dtype != dtype:
        return saved.to(dtype)
    if saved.dtype != dtype or not plain or graph_is_kept():
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
        (made.losses if has_penalties(call) else made.nll) if trained else None,
        made.loss if trained else None,
        made.normalizer,
        made.entropy if call.token_gradients and call.wants_entropy else None,
        *passed_on,
    )
    differentiable = ("loss", "nll", "entropy") if call.token_gradients else ("loss",)
    ctx.mark_non_differentiable(
        *(value for name, value in made._asdict().items() if name not in differentiable)
    )
    ctx.set_materialize_grads(False)


def _weights_gradient(ctx: Any, saved: tuple[Any, ...], upstream: Tensor | None) -> Tensor | None:
    """Gradient of the row weights, from the first tensors saved; None where they are not trained."""
    if not ctx.trains_weights or upstream is None:
        return None
    rows, targets, row_weights, losses, loss, normalizer = saved[:6]
    return row_weight_gradient(
        upstream,
        rows,
        targets,
        row_weights,
        losses,
        loss,
        normalizer,
        ctx.call.reduction,
        ctx.divided_by_weights,
    )


def _of_loss(
    upstream: Tensor | None, call: LinearCall | LogitsCall, scores: Tensor, normalizer: Tensor
) -> Tensor:
    """The loss's upstream gradient; zeros where only nll or entropy have one."""
    if upstream is not None:
        return upstream
    shape = scores.shape[:1] if call.reduction == "none" else ()
    return normalizer.new_zeros(shape, dtype=compute_dtype(scores.dtype))


def linear_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
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


def linear_backward(ctx: Any, upstream: Tensor | None, *others: Tensor | None) -> tuple[Tensor | None, ...]:
    nothing: tuple[Tensor | None, ...] = (None,) * len(LinearCall._fields)
    nll_upstream, entropy_upstream = others[_NLL], others[_ENTROPY]
    if upstream is None and nll_upstream is None and entropy_upstream is None:
        return nothing
    refuse_second_order()
    call: LinearCall = ctx.call
    saved = ctx.saved_tensors
    rows, targets, row_weights, _, _, normalizer, entropy, hidden, weight, bias, kept, *made = saved
    wanted = (call.wants_hidden, call.wants_weight, call.wants_bias)
    gradients: tuple[Tensor | None, ...] = (None, None, None)
    if call.mode == "grads" and upstream is not None:
        gradients = tuple(
            scaled(each, upstream, ctx.dtype, call.impl) if wants else None
            for each, wants in zip(made, wanted, strict=True)
        )
    elif call.mode in ("keep", "recompute"):
        backward = LinearBackwardCall(
            _of_loss(upstream, call, hidden, normalizer),
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
            call.label_smoothing,
            call.lse_square_scale,
            nll_upstream,
            entropy_upstream,
            None if entropy_upstream is None else entropy,
        )
        computed = (
            execution.linear_gradients(backward)
            if is_plain(backward)
            else torch.ops.cotbal_kernels.linear_cross_entropy_backward(*backward)
        )
        gradients = tuple(each if wants else None for each, wants in zip(computed, wanted, strict=True))
    weights = _weights_gradient(ctx, saved, upstream)
    # hidden, weight and bias come first, the row weights after the four index tensors.
    return (*gradients, *nothing[3:7], weights, *nothing[8:])


def logits_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    call, made = LogitsCall._make(inputs), LogitsResult._make(output)
    _save(ctx, call, made, (call.logits if call.mode == "recompute" else None, made.gradient))


def logits_backward(ctx: Any, upstream: Tensor | None, *others: Tensor | None) -> tuple[Tensor | None, ...]:
    nothing: tuple[Tensor | None, ...] = (None,) * len(LogitsCall._fields)
    nll_upstream, entropy_upstream = others[_NLL], others[_ENTROPY]
    if upstream is None and nll_upstream is None and entropy_upstream is None:
        return nothing
    refuse_second_order()
    call: LogitsCall = ctx.call
    saved = ctx.saved_tensors
    rows, targets, row_weights, _, _, normalizer, entropy, scores, made = saved
    gradient: Tensor | None = None
    if call.mode == "grads" and upstream is not None:
        gradient = scaled(made, upstream, made.dtype, call.impl)
    elif call.mode == "recompute":
        backward = LogitsBackwardCall(
            _of_loss(upstream, call, scores, normalizer),
            scores,
            rows,
            targets,
            row_weights,
            normalizer,
            call.logit_scale,
            call.softcap,
            call.reduction,
            call.impl,
            call.label_smoothing,
            call.lse_square_scale,
            nll_upstream,
            entropy_upstream,
            None if entropy_upstream is None else entropy,
        )
        gradient = (
            execution.logits_gradient(backward)
            if is_plain(backward)
            else torch.ops.cotbal_kernels.cross_entropy_backward(*backward)
        )
    weights = _weights_gradient(ctx, saved, upstream)
    return (gradient, *nothing[1:5], weights, *nothing[6:])


class LinearFunction(torch.autograd.Function):
    """`linear_cross_entropy` in eager mode: the operator's gradient without the operator's cost."""

    # A `setup_context` would have torch read this method's signature at every call.
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, ...]:
        made = execution.linear_result(LinearCall._make(arguments))
        linear_setup(ctx, arguments, made)
        return tuple(made)

    backward = staticmethod(linear_backward)


class LogitsFunction(torch.autograd.Function):
    """`cross_entropy` in eager mode."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, ...]:
        made = execution.logits_result(LogitsCall._make(arguments))
        logits_setup(ctx, arguments, made)
        return tuple(made)

    backward = staticmethod(logits_backward)
