"""What each operator takes and gives, one record each: schema, implementation, fake and gradient derive from it."""

from __future__ import annotations

from typing import Any, Final, NamedTuple, get_type_hints

import torch
from torch import Tensor


class PositionsCall(NamedTuple):
    """Of `supervised_positions`: what a plan is made from, for graphs that a compiler traces.

    Attributes:
        vocab_size: number of classes; -1 where it is not known.
    """

    labels: Tensor
    task_ids: Tensor | None
    task_weights: Tensor | None
    num_tasks: int
    token_weights: Tensor | None
    shift: bool
    ignore_index: int
    vocab_size: int


class LinearCall(NamedTuple):
    """Of `linear_cross_entropy`: hidden states [M, H], a head [V, H], and the rows of a plan [R].

    Attributes:
        normalizer: what a "mean" is divided by; None: the sum of the row weights.
        padded: whether there are rows of target -1.
        mode: what the forward pass makes for the backward pass, see `cotbal_kernels.linear.compute`.
        wants_hidden, wants_weight, wants_bias: which gradients will be asked for.
        label_smoothing, lse_square_scale: weights of the penalties, 0 for none.
        wants_entropy: whether each row's entropy is wanted.
        token_gradients: whether nll and entropy of the rows are differentiable outputs, too.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    rows: Tensor
    targets: Tensor
    tasks: Tensor
    samples: Tensor
    row_weights: Tensor | None
    normalizer: Tensor | None
    num_tasks: int
    num_samples: int
    padded: bool
    logit_scale: float
    softcap: float | None
    reduction: str
    mode: str
    wants_hidden: bool
    wants_weight: bool
    wants_bias: bool
    memory_budget: int
    impl: str
    label_smoothing: float = 0.0
    lse_square_scale: float = 0.0
    wants_entropy: bool = False
    token_gradients: bool = False


class LinearResult(NamedTuple):
    """Of `linear_cross_entropy`; what the backward pass may need comes last, empty where it does not.

    Attributes:
        normalizer: what the loss was divided by, f64.
        losses: each row's nll with its penalties; empty where there are none.
        entropy: each row's; empty where it is not wanted.
        logits_gradient: the gradient of the rows' logits, unscaled, [R, V].
        hidden_gradient, weight_gradient, bias_gradient: for an upstream gradient of 1.
    """

    loss: Tensor
    normalizer: Tensor
    nll: Tensor
    losses: Tensor
    entropy: Tensor
    task_loss_sum: Tensor
    task_tokens: Tensor
    task_correct: Tensor
    sample_loss_sum: Tensor
    sample_tokens: Tensor
    logits_gradient: Tensor
    hidden_gradient: Tensor
    weight_gradient: Tensor
    bias_gradient: Tensor


class LinearBackwardCall(NamedTuple):
    """Of `linear_cross_entropy_backward`: the forward pass's, what it made, and the upstream gradient."""

    upstream: Tensor
    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    rows: Tensor
    targets: Tensor
    row_weights: Tensor | None
    normalizer: Tensor
    logits_gradient: Tensor
    padded: bool
    logit_scale: float
    softcap: float | None
    reduction: str
    mode: str
    wants_hidden: bool
    wants_weight: bool
    wants_bias: bool
    memory_budget: int
    impl: str
    label_smoothing: float = 0.0
    lse_square_scale: float = 0.0
    nll_upstream: Tensor | None = None
    entropy_upstream: Tensor | None = None
    entropy: Tensor | None = None


class Gradients(NamedTuple):
    """Of `linear_cross_entropy_backward`; an empty tensor where one is not wanted."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor


class LogitsCall(NamedTuple):
    """Of `cross_entropy`: logits [M, V] and the rows of a plan [R]; the rest as in `LinearCall`."""

    logits: Tensor
    rows: Tensor
    targets: Tensor
    tasks: Tensor
    samples: Tensor
    row_weights: Tensor | None
    normalizer: Tensor | None
    num_tasks: int
    num_samples: int
    logit_scale: float
    softcap: float | None
    reduction: str
    mode: str
    impl: str
    label_smoothing: float = 0.0
    lse_square_scale: float = 0.0
    wants_entropy: bool = False
    token_gradients: bool = False


class LogitsResult(NamedTuple):
    """Of `cross_entropy`; last the gradient of the logits for an upstream gradient of 1, or nothing."""

    loss: Tensor
    normalizer: Tensor
    nll: Tensor
    losses: Tensor
    entropy: Tensor
    task_loss_sum: Tensor
    task_tokens: Tensor
    task_correct: Tensor
    sample_loss_sum: Tensor
    sample_tokens: Tensor
    gradient: Tensor


class LogitsBackwardCall(NamedTuple):
    """Of `cross_entropy_backward`."""

    upstream: Tensor
    logits: Tensor
    rows: Tensor
    targets: Tensor
    row_weights: Tensor | None
    normalizer: Tensor
    logit_scale: float
    softcap: float | None
    reduction: str
    impl: str
    label_smoothing: float = 0.0
    lse_square_scale: float = 0.0
    nll_upstream: Tensor | None = None
    entropy_upstream: Tensor | None = None
    entropy: Tensor | None = None


_TYPES: Final[dict[Any, str]] = {
    Tensor: "Tensor",
    Tensor | None: "Tensor?",
    int: "SymInt",
    float: "float",
    float | None: "float?",
    bool: "bool",
    str: "str",
}


def schema(call: type[tuple[Any, ...]], result: type[Any]) -> str:
    """An operator's schema, in torch's language, from the records of what it takes and gives (or a lone tensor).

    >>> schema(LogitsBackwardCall, Gradients).partition(" -> ")[2]
    '(Tensor, Tensor, Tensor)'
    """
    defaults: dict[str, Any] = getattr(call, "_field_defaults", {})
    taken = ", ".join(
        f"{_TYPES[kind]} {name}" + (f"={defaults[name]}" if name in defaults else "")
        for name, kind in get_type_hints(call).items()
    )
    given = "Tensor" if result is Tensor else f"({', '.join(['Tensor'] * len(get_type_hints(result)))})"
    return f"({taken}) -> {given}"


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """What everything but the products is computed in, for inputs of a dtype."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def has_penalties(call: LinearCall | LogitsCall | LinearBackwardCall | LogitsBackwardCall) -> bool:
    """Whether a row's loss is more than its nll."""
    return call.label_smoothing != 0 or call.lse_square_scale != 0
