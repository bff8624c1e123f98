"""The operators torch sees: schemas, shapes without data, and gradients. One boundary per call."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Final, cast

import torch
from torch import Tensor

from cotbal_kernels import linear, logits, products
from cotbal_kernels.backends.registry import resolve
from cotbal_kernels.linear import Gradients, Head, Mode
from cotbal_kernels.reduction import reduced_loss, row_scale

LIBRARY: Final = "cotbal_kernels"
LINEAR: Final = f"{LIBRARY}::linear_cross_entropy"
LINEAR_BACKWARD: Final = f"{LIBRARY}::linear_cross_entropy_backward"
LOGITS: Final = f"{LIBRARY}::cross_entropy"
LOGITS_BACKWARD: Final = f"{LIBRARY}::cross_entropy_backward"

# loss, divisor, nll; task_loss_sum, task_tokens, task_correct, sample_loss_sum, sample_tokens; then what
# the backward pass may need: the kept gradient of the logits and the gradients of hidden, weight and bias.
torch.library.define(
    LINEAR,
    "(Tensor hidden, Tensor weight, Tensor? bias, Tensor rows, Tensor targets, Tensor tasks, Tensor samples,"
    " Tensor? row_weights, Tensor? normalizer, SymInt num_tasks, SymInt num_samples, bool padded,"
    " float logit_scale, float? softcap, str reduction, str mode, bool wants_hidden, bool wants_weight,"
    " bool wants_bias, SymInt memory_budget, str impl) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor,"
    " Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
torch.library.define(
    LINEAR_BACKWARD,
    "(Tensor upstream, Tensor hidden, Tensor weight, Tensor? bias, Tensor rows, Tensor targets,"
    " Tensor? row_weights, Tensor divisor, Tensor kept, bool padded, float logit_scale, float? softcap,"
    " str reduction, str mode, bool wants_hidden, bool wants_weight, bool wants_bias, SymInt memory_budget,"
    " str impl) -> (Tensor, Tensor, Tensor)",
)
# As above; last the gradient of the logits.
torch.library.define(
    LOGITS,
    "(Tensor logits, Tensor rows, Tensor targets, Tensor tasks, Tensor samples, Tensor? row_weights,"
    " Tensor? normalizer, SymInt num_tasks, SymInt num_samples, float logit_scale, float? softcap,"
    " str reduction, str mode, str impl) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor,"
    " Tensor)",
)
torch.library.define(
    LOGITS_BACKWARD,
    "(Tensor upstream, Tensor logits, Tensor rows, Tensor targets, Tensor? row_weights, Tensor divisor,"
    " float logit_scale, float? softcap, str reduction, str impl) -> Tensor",
)


def _own_dtypes(device: torch.device) -> AbstractContextManager[None]:
    """Inside an operator the inputs have the dtypes they shall have: autocast must not change them again."""
    return (
        torch.autocast(device.type, enabled=False)
        if torch.is_autocast_enabled(device.type)
        else nullcontext()
    )


def _compute_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


@torch.library.impl(LINEAR, "default")
def _linear(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    rows: Tensor,
    targets: Tensor,
    tasks: Tensor,
    samples: Tensor,
    row_weights: Tensor | None,
    normalizer: Tensor | None,
    num_tasks: int,
    num_samples: int,
    padded: bool,
    logit_scale: float,
    softcap: float | None,
    reduction: str,
    mode: str,
    wants_hidden: bool,
    wants_weight: bool,
    wants_bias: bool,
    memory_budget: int,
    impl: str,
) -> tuple[Tensor, ...]:
    head = Head(
        resolve(impl, hidden.device, products.product_dtype(hidden.dtype, hidden.device)),
        *(hidden, weight, bias, rows, targets, padded, logit_scale, softcap),
        *(wants_hidden, wants_weight, wants_bias),
    )
    with _own_dtypes(hidden.device):
        made = linear.compute(
            head,
            *(tasks, samples, row_weights, normalizer, num_tasks, num_samples),
            *(reduction, cast(Mode, mode), memory_budget),
        )
    loss = reduced_loss(made.nll, made.sums, made.divisor, rows, row_weights, reduction, hidden.shape[0])
    return (loss, made.divisor, made.nll, *made.sums[2:], made.logits_gradient, *made.gradients)


@torch.library.register_fake(LINEAR)  # type: ignore[untyped-decorator]
def _linear_fake(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    rows: Tensor,
    targets: Tensor,
    tasks: Tensor,
    samples: Tensor,
    row_weights: Tensor | None,
    normalizer: Tensor | None,
    num_tasks: int,
    num_samples: int,
    padded: bool,
    logit_scale: float,
    softcap: float | None,
    reduction: str,
    mode: str,
    wants_hidden: bool,
    wants_weight: bool,
    wants_bias: bool,
    memory_budget: int,
    impl: str,
) -> tuple[Tensor, ...]:
    made = mode == "grads"
    kept = linear.empty_rows(
        hidden,
        rows.shape[0] if mode == "keep" else 0,
        weight.shape[0],
        products.product_dtype(hidden.dtype, hidden.device),
    )
    return (
        *_fake_statistics(hidden, rows, num_tasks, num_samples, reduction),
        kept,
        *_fake_gradients(
            hidden, weight, bias, made and wants_hidden, made and wants_weight, made and wants_bias
        ),
    )


def _fake_statistics(
    like: Tensor, rows: Tensor, num_tasks: int, num_samples: int, reduction: str
) -> tuple[Tensor, ...]:
    dtype = _compute_dtype(like.dtype)
    return (
        like.new_empty((like.shape[0],) if reduction == "none" else (), dtype=dtype),
        like.new_empty((), dtype=torch.float64),
        like.new_empty(rows.shape[0], dtype=dtype),
        like.new_empty(num_tasks, dtype=dtype),
        like.new_empty(num_tasks, dtype=torch.int64),
        like.new_empty(num_tasks, dtype=torch.int64),
        like.new_empty(num_samples, dtype=dtype),
        like.new_empty(num_samples, dtype=torch.int64),
    )


def _fake_gradients(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    wants_hidden: bool,
    wants_weight: bool,
    wants_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    third = weight if bias is None else bias
    return (
        hidden.new_empty(hidden.shape if wants_hidden else (0,)),
        weight.new_empty(weight.shape if wants_weight else (0,)),
        third.new_empty(third.shape if wants_bias and bias is not None else (0,)),
    )


@torch.library.impl(LINEAR_BACKWARD, "default")
def _linear_backward(
    upstream: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    rows: Tensor,
    targets: Tensor,
    row_weights: Tensor | None,
    divisor: Tensor,
    kept: Tensor,
    padded: bool,
    logit_scale: float,
    softcap: float | None,
    reduction: str,
    mode: str,
    wants_hidden: bool,
    wants_weight: bool,
    wants_bias: bool,
    memory_budget: int,
    impl: str,
) -> Gradients:
    head = Head(
        resolve(impl, hidden.device, products.product_dtype(hidden.dtype, hidden.device)),
        *(hidden, weight, bias, rows, targets, padded, logit_scale, softcap),
        *(wants_hidden, wants_weight, wants_bias),
    )
    scale = row_scale(upstream, rows, row_weights, divisor, reduction, head.compute_dtype)
    with _own_dtypes(hidden.device):
        if mode == "keep":
            return linear.gradients_from_kept(head, kept, scale)
        return linear.recomputed_gradients(head, scale, memory_budget)


@torch.library.register_fake(LINEAR_BACKWARD)  # type: ignore[untyped-decorator]
def _linear_backward_fake(
    upstream: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    rows: Tensor,
    targets: Tensor,
    row_weights: Tensor | None,
    divisor: Tensor,
    kept: Tensor,
    padded: bool,
    logit_scale: float,
    softcap: float | None,
    reduction: str,
    mode: str,
    wants_hidden: bool,
    wants_weight: bool,
    wants_bias: bool,
    memory_budget: int,
    impl: str,
) -> tuple[Tensor, Tensor, Tensor]:
    return _fake_gradients(hidden, weight, bias, wants_hidden, wants_weight, wants_bias)


@torch.library.impl(LOGITS, "default")
def _logits(
    raw: Tensor,
    rows: Tensor,
    targets: Tensor,
    tasks: Tensor,
    samples: Tensor,
    row_weights: Tensor | None,
    normalizer: Tensor | None,
    num_tasks: int,
    num_samples: int,
    logit_scale: float,
    softcap: float | None,
    reduction: str,
    mode: str,
    impl: str,
) -> tuple[Tensor, ...]:
    with _own_dtypes(raw.device):
        nll, sums, divisor, gradient = logits.compute(
            resolve(impl, raw.device, raw.dtype),
            *(raw, rows, targets, tasks, samples, row_weights, normalizer, num_tasks, num_samples),
            *(logit_scale, softcap, reduction, cast(Mode, mode)),
        )
    loss = reduced_loss(nll, sums, divisor, rows, row_weights, reduction, raw.shape[0])
    return (loss, divisor, nll, *sums[2:], gradient)


@torch.library.register_fake(LOGITS)  # type: ignore[untyped-decorator]
def _logits_fake(
    raw: Tensor,
    rows: Tensor,
    targets: Tensor,
    tasks: Tensor,
    samples: Tensor,
    row_weights: Tensor | None,
    normalizer: Tensor | None,
    num_tasks: int,
    num_samples: int,
    logit_scale: float,
    softcap: float | None,
    reduction: str,
    mode: str,
    impl: str,
) -> tuple[Tensor, ...]:
    gradient = raw.new_empty(raw.shape if mode == "grads" else (0,))
    return (*_fake_statistics(raw, rows, num_tasks, num_samples, reduction), gradient)


@torch.library.impl(LOGITS_BACKWARD, "default")
def _logits_backward(
    upstream: Tensor,
    raw: Tensor,
    rows: Tensor,
    targets: Tensor,
    row_weights: Tensor | None,
    divisor: Tensor,
    logit_scale: float,
    softcap: float | None,
    reduction: str,
    impl: str,
) -> Tensor:
    scale = row_scale(upstream, rows, row_weights, divisor, reduction, _compute_dtype(raw.dtype))
    implementation = resolve(impl, raw.device, raw.dtype)
    with _own_dtypes(raw.device):
        return logits.gradient(implementation, raw, rows, targets, scale, logit_scale, softcap)


@torch.library.register_fake(LOGITS_BACKWARD)  # type: ignore[untyped-decorator]
def _logits_backward_fake(
    upstream: Tensor,
    raw: Tensor,
    rows: Tensor,
    targets: Tensor,
    row_weights: Tensor | None,
    divisor: Tensor,
    logit_scale: float,
    softcap: float | None,
    reduction: str,
    impl: str,
) -> Tensor:
    return raw.new_empty(raw.shape)
