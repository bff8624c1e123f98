"""Small losses on CPUs, in one native call: where little is computed, the host's own time is all there is.

A call comes this way when it needs nothing but what is checked here, and passes every check: float32, a plan that is
not padded, weights that are not trained, nobody looking on. Everything else, mistakes included, is left to the
general way, which can do it all and explains what is wrong. The two give the same numbers to rounding.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

from cotbal_kernels.backends.registry import AUTO, load
from cotbal_kernels.gradients import graph_is_kept, refuse_second_order, scaled
from cotbal_kernels.output import LossOutput
from cotbal_kernels.planning import Plan

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cotbal_kernels.backends.native import _native

# The most elements of hidden states, head and logits each: 1 MiB. Beyond, the products take longer than the host, and
# the general way keeps the logits' gradient, not the head's.
LIMIT: Final = 2**18
_NATIVE: Final = "native"
# Where a plan keeps what is prepared of it.
_PREPARED: Final = "_planned_rows"
_NAN: Final = math.nan
_INFINITY: Final = math.inf


class _LongWay(Exception):
    """The native call found something that the general way explains or settles."""


class _Loss:
    """One call between its checks and its result; `loss` and `statistics` are what the native call fills."""

    __slots__ = (
        "logit_scale",
        "loss",
        "mean",
        "normalizer",
        "plan",
        "rows",
        "softcap",
        "statistics",
        "weights",
    )

    def __init__(
        self,
        rows: _native.PlannedRows,
        plan: Plan,
        weights: Tensor | None,
        mean: bool,
        normalizer: float,
        logit_scale: float,
        softcap: float,
    ) -> None:
        self.rows = rows
        self.plan = plan
        self.weights = weights
        self.mean = mean
        self.normalizer = normalizer
        self.logit_scale = logit_scale
        self.softcap = softcap

    def compute(self, logits: Tensor, gradient: Tensor | None, of_all_positions: bool) -> None:
        """Fill the gradient [R, V] (or [..., V] with `of_all_positions`), and make loss and statistics."""
        plan, weights = self.plan, self.weights
        tasks, samples = plan.num_tasks, plan.num_samples
        # Methods of a tensor, not torch.empty: a default device is no concern of theirs.
        float32, int64 = logits.new_empty, plan.tasks.new_empty
        loss = self.loss = float32(())
        self.statistics = sums, tokens, hits, sample_sums, sample_tokens = (
            float32(tasks),
            int64(tasks),
            int64(tasks),
            float32(samples),
            int64(samples),
        )
        if not self.rows.loss(
            logits.data_ptr(),
            0 if gradient is None else gradient.data_ptr(),
            logits.shape[-1],
            of_all_positions,
            0 if weights is None else weights.data_ptr(),
            weights is not None and weights.dtype is torch.float64,
            self.mean,
            self.normalizer,
            self.logit_scale,
            self.softcap,
            torch.get_num_threads(),
            loss.data_ptr(),
            sums.data_ptr(),
            tokens.data_ptr(),
            hits.data_ptr(),
            sample_sums.data_ptr(),
            sample_tokens.data_ptr(),
        ):
            raise _LongWay


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    plan: Plan,
    task_weights: Tensor | Sequence[float] | None,
    num_tasks: int | None,
    normalizer: Tensor | float | None,
    reduction: str,
    logit_scale: float,
    softcap: float | None,
    impl: str,
    memory_budget: int | None,
) -> LossOutput | None:
    """The result, or None where the general way has to be taken."""
    if not (_is_plain(hidden) and _is_plain(weight) and (bias is None or _is_plain(bias))):
        return None
    shape, head = hidden.shape, weight.shape
    if len(head) != 2 or len(shape) < 2 or shape[-1] != head[1] or shape[:-1] != plan.label_shape:
        return None
    classes, count = head[0], plan.num_supervised
    if hidden.numel() > LIMIT or weight.numel() > LIMIT or count * classes > LIMIT:
        return None
    if bias is not None and bias.shape != head[:1]:
        return None
    if memory_budget is not None and not 4 * count * classes <= memory_budget:
        return None
    loss = _accepted(
        plan, task_weights, num_tasks, normalizer, reduction, logit_scale, softcap, impl, classes
    )
    if loss is None or not hidden.is_contiguous():
        return None
    try:
        if torch.is_grad_enabled() and (
            hidden.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)
        ):
            made = _apply_linear(hidden, weight, bias, loss)
        else:
            with torch.no_grad():
                _linear(hidden, weight, bias, loss, (False, False, False))
            made = loss.loss
        return LossOutput(made, *loss.statistics)
    except _LongWay:
        return None


def cross_entropy(
    logits: Tensor,
    plan: Plan,
    task_weights: Tensor | Sequence[float] | None,
    num_tasks: int | None,
    normalizer: Tensor | float | None,
    reduction: str,
    logit_scale: float,
    softcap: float | None,
    impl: str,
) -> LossOutput | None:
    """The result, or None where the general way has to be taken."""
    if not _is_plain(logits):
        return None
    shape = logits.shape
    if len(shape) < 2 or shape[:-1] != plan.label_shape or logits.numel() > LIMIT:
        return None
    loss = _accepted(
        plan, task_weights, num_tasks, normalizer, reduction, logit_scale, softcap, impl, shape[-1]
    )
    if loss is None or not logits.is_contiguous():
        return None
    try:
        if torch.is_grad_enabled() and logits.requires_grad:
            made = _apply_logits(logits, loss)
        else:
            loss.compute(logits, None, True)
            made = loss.loss
        return LossOutput(made, *loss.statistics)
    except _LongWay:
        return None


def _is_plain(value: Tensor) -> bool:
    """Whether it is a float32 tensor on the CPU, and no more than that."""
    return type(value) in (Tensor, Parameter) and value.dtype is torch.float32 and value.is_cpu


def _accepted(
    plan: Plan,
    task_weights: Tensor | Sequence[float] | None,
    num_tasks: int | None,
    normalizer: Tensor | float | None,
    reduction: str,
    logit_scale: float,
    softcap: float | None,
    impl: str,
    classes: int,
) -> _Loss | None:
    """The call, where it may come this way as far as its options and its surroundings go."""
    if (
        (impl != AUTO and impl != _NATIVE)
        or (num_tasks is not None and num_tasks != plan.num_tasks)
        or plan.max_target >= classes
        or not -_INFINITY < logit_scale < _INFINITY
        or not (softcap is None or 0 < softcap < _INFINITY)
        or torch._C._len_torch_dispatch_stack() != 0
        or torch._C._functorch.peek_interpreter_stack() is not None
        or forward_ad._current_level >= 0
        or torch.is_autocast_enabled("cpu")
    ):
        return None
    divisor = _NAN
    if reduction == "mean":
        if normalizer is not None:
            if type(normalizer) is Tensor:
                if not normalizer.is_cpu or normalizer.numel() != 1 or normalizer.requires_grad:
                    return None
                divisor = normalizer.item()
            elif type(normalizer) is float or type(normalizer) is int:
                divisor = normalizer
            else:
                return None
            if not 0 < divisor < _INFINITY:
                return None
    elif reduction != "sum" or normalizer is not None:
        return None
    weights = plan.task_weights if task_weights is None else task_weights
    if weights is not None and not (
        type(weights) is Tensor
        and (weights.dtype is torch.float32 or weights.dtype is torch.float64)
        and weights.is_cpu
        and weights.shape == (plan.num_tasks,)
        and weights.is_contiguous()
        and not weights.requires_grad
    ):
        return None
    rows = plan.__dict__.get(_PREPARED, _PREPARED)
    if rows is _PREPARED:
        rows = _prepare(plan)
    if rows is None:
        return None
    return _Loss(
        rows, plan, weights, reduction == "mean", divisor, logit_scale, 0.0 if softcap is None else softcap
    )


@lru_cache(maxsize=1)
def _kind_of_rows() -> type[_native.PlannedRows] | None:
    """The native extension's part in this; None where it is not installed."""
    if load(_NATIVE).unavailable(torch.device("cpu"), torch.float32) is not None:
        return None
    from cotbal_kernels.backends.native import _native

    return _native.PlannedRows


def _prepare(plan: Plan) -> _native.PlannedRows | None:
    """What the native call needs of a plan, made once and kept with it; None where it cannot come this way."""
    made: _native.PlannedRows | None = None
    tensors = [plan.rows, plan.targets, plan.tasks, plan.samples]
    factors = plan.token_weights
    if factors is not None:
        tensors.append(factors)
    kind = _kind_of_rows()
    if (
        kind is not None
        and not plan.padded
        and plan.sample_ids is None
        and plan.num_supervised > 0
        and all(type(each) is Tensor and each.is_cpu and each.is_contiguous() for each in tensors)
        and not (factors is not None and factors.requires_grad)
    ):
        made = kind(
            plan.rows,
            plan.targets,
            plan.tasks,
            plan.samples,
            factors,
            math.prod(plan.label_shape),
            plan.num_tasks,
            plan.num_samples,
        )
    plan.__dict__[_PREPARED] = made
    return made


def _linear(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, loss: _Loss, wants: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Compute the loss, and the gradients of the three inputs that are wanted, for an upstream gradient of 1."""
    wants_hidden, wants_weight, wants_bias = wants[:3]
    plan = loss.plan
    flat = hidden if hidden.dim() == 2 else hidden.view(-1, hidden.shape[-1])
    whole = plan.num_supervised == flat.shape[0]
    states = flat if whole else flat.index_select(0, plan.rows)
    logits = torch.nn.functional.linear(states, weight, bias)
    if not logits.is_contiguous():
        raise _LongWay
    loss.compute(logits, logits if wants_hidden or wants_weight or wants_bias else None, False)
    of_hidden: Tensor | None = None
    if wants_hidden:
        of_hidden = logits.mm(weight)
        if not whole:
            of_hidden = flat.new_zeros(flat.shape).index_copy_(0, plan.rows, of_hidden)
        if flat is not hidden:
            of_hidden = of_hidden.view(hidden.shape)
    return (
        of_hidden,
        logits.t().mm(states) if wants_weight else None,
        logits.sum(0) if wants_bias else None,
    )


def _upstreamed(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients that were made in the forward pass, times the upstream one."""
    refuse_second_order()
    saved: tuple[Tensor | None, ...] = ctx.saved_tensors
    if type(upstream) is Tensor and upstream.item() == 1.0 and not graph_is_kept():
        return saved
    return tuple(None if each is None else scaled(each, upstream, each.dtype, _NATIVE) for each in saved)


class _LinearFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, loss: _Loss) -> Tensor:
        ctx.save_for_backward(*_linear(hidden, weight, bias, loss, ctx.needs_input_grad))
        ctx.set_materialize_grads(False)
        return loss.loss

    @staticmethod
    def backward(ctx: Any, upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        return (None,) * 4 if upstream is None else (*_upstreamed(ctx, upstream), None)


class _LogitsFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, loss: _Loss) -> Tensor:
        gradient = logits.new_empty(logits.shape)
        loss.compute(logits, gradient, True)
        ctx.save_for_backward(gradient)
        ctx.set_materialize_grads(False)
        return loss.loss

    @staticmethod
    def backward(ctx: Any, upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        return (None,) * 2 if upstream is None else (*_upstreamed(ctx, upstream), None)


# `Function.apply` itself asks once more whether functorch looks on, which takes longer than all checks above.
_apply_linear: Callable[..., Tensor] = super(torch.autograd.Function, _LinearFunction).apply
_apply_logits: Callable[..., Tensor] = super(torch.autograd.Function, _LogitsFunction).apply
