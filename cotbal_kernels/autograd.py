"""Gradients of the operators, registered with torch."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

from cotbal_kernels import ops
from cotbal_kernels.backends.registry import resolve
from cotbal_kernels.reduction import row_weight_gradient


def _refuse_second_order() -> None:
    if torch.is_grad_enabled():
        raise NotImplementedError(
            "create_graph=True: the gradients of cotbal_kernels' losses are not themselves differentiable; "
            "use the plain loss where second derivatives are needed"
        )


def _scaled(saved: Tensor, upstream: Tensor, impl: str) -> Tensor:
    """`saved * upstream`, without a pass over it where that can be helped."""
    # Only a plain tensor can be asked what it holds, and only a graph that is not kept gives its tensors away.
    if type(upstream) is not Tensor or torch._C._autograd._get_current_graph_task_keep_graph():
        return saved * upstream
    if saved.device.type == "cpu":
        return saved if upstream.item() == 1.0 else saved.mul_(upstream)
    return resolve(impl, saved.device, saved.dtype).rescale_(saved, upstream)


def _weights_gradient(ctx: Any, saved: tuple[Tensor, ...], upstream: Tensor) -> Tensor | None:
    """Gradient of the row weights, from the first tensors saved; ``None`` where they are not trained."""
    if not ctx.trains_weights:
        return None
    rows, targets, row_weights, nll, loss, divisor = saved[:6]
    return row_weight_gradient(
        *(upstream, rows, targets, row_weights, nll, loss, divisor, ctx.reduction, ctx.divided_by_weights)
    )


def _save(
    ctx: Any, inputs: dict[str, Any], output: tuple[Tensor, ...], passed_on: tuple[Tensor | None, ...]
) -> None:
    """Save what the gradient of the row weights needs, then what that of the other inputs does."""
    loss, divisor, nll = output[:3]
    row_weights = inputs["row_weights"]
    trained = row_weights is not None and row_weights.requires_grad
    ctx.trains_weights = trained
    ctx.divided_by_weights = inputs["reduction"] == "mean" and inputs["normalizer"] is None
    for name in ("reduction", "mode", "impl", "logit_scale", "softcap"):
        setattr(ctx, name, inputs[name])
    ctx.save_for_backward(
        *(
            inputs["rows"],
            inputs["targets"],
            row_weights,
            nll if trained else None,
            loss if trained else None,
        ),
        *(divisor, *passed_on),
    )
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


_LINEAR_NAMES: Final = (
    *("hidden", "weight", "bias", "rows", "targets", "tasks", "samples", "row_weights", "normalizer"),
    *("num_tasks", "num_samples", "padded", "logit_scale", "softcap", "reduction", "mode"),
    *("wants_hidden", "wants_weight", "wants_bias", "memory_budget", "impl"),
)
_LOGITS_NAMES: Final = (
    *(
        "logits",
        "rows",
        "targets",
        "tasks",
        "samples",
        "row_weights",
        "normalizer",
        "num_tasks",
        "num_samples",
    ),
    *("logit_scale", "softcap", "reduction", "mode", "impl"),
)


def _linear_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    named = dict(zip(_LINEAR_NAMES, inputs, strict=True))
    for name in ("padded", "wants_hidden", "wants_weight", "wants_bias", "memory_budget"):
        setattr(ctx, name, named[name])
    made = named["mode"] == "grads"
    # Gradients that exist need no inputs: these may be freed.
    sources = (None, None, None) if made else (named["hidden"], named["weight"], named["bias"])
    _save(ctx, named, output, (*sources, *output[8:12]))


def _linear_backward(ctx: Any, upstream: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    nothing: tuple[Tensor | None, ...] = (None,) * len(_LINEAR_NAMES)
    if upstream is None:
        return nothing
    _refuse_second_order()
    saved = ctx.saved_tensors
    rows, targets, row_weights, _, _, divisor, hidden, weight, bias, kept, *made = saved
    if ctx.mode == "grads":
        wanted = (ctx.wants_hidden, ctx.wants_weight, ctx.wants_bias)
        gradients = tuple(
            _scaled(each, upstream, ctx.impl) if wants else each
            for each, wants in zip(made, wanted, strict=True)
        )
    elif ctx.mode in ("keep", "recompute"):
        gradients = torch.ops.cotbal_kernels.linear_cross_entropy_backward(
            *(upstream, hidden, weight, bias, rows, targets, row_weights, divisor, kept),
            *(ctx.padded, ctx.logit_scale, ctx.softcap, ctx.reduction, ctx.mode),
            *(ctx.wants_hidden, ctx.wants_weight, ctx.wants_bias, ctx.memory_budget, ctx.impl),
        )
    else:
        gradients = (None, None, None)
    return (
        gradients[0] if ctx.wants_hidden else None,
        gradients[1] if ctx.wants_weight else None,
        gradients[2] if ctx.wants_bias else None,
        *nothing[3:7],
        _weights_gradient(ctx, saved, upstream),
        *nothing[8:],
    )


def _logits_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    named = dict(zip(_LOGITS_NAMES, inputs, strict=True))
    source = named["logits"] if named["mode"] == "recompute" else None
    _save(ctx, named, output, (source, output[8]))


def _logits_backward(ctx: Any, upstream: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    nothing: tuple[Tensor | None, ...] = (None,) * len(_LOGITS_NAMES)
    if upstream is None:
        return nothing
    _refuse_second_order()
    saved = ctx.saved_tensors
    rows, targets, row_weights, _, _, divisor, logits, made = saved
    gradient: Tensor | None = None
    if ctx.mode == "grads":
        gradient = _scaled(made, upstream, ctx.impl)
    elif ctx.mode == "recompute":
        gradient = torch.ops.cotbal_kernels.cross_entropy_backward(
            *(upstream, logits, rows, targets, row_weights, divisor),
            *(ctx.logit_scale, ctx.softcap, ctx.reduction, ctx.impl),
        )
    weights = _weights_gradient(ctx, saved, upstream)
    return (gradient, *nothing[1:5], weights, *nothing[6:])


torch.library.register_autograd(ops.LINEAR, _linear_backward, setup_context=_linear_setup)
torch.library.register_autograd(ops.LOGITS, _logits_backward, setup_context=_logits_setup)
