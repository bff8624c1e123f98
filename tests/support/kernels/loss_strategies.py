"""Hypothesis strategies for the losses: whole calls with every option, small enough to run by the hundred."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from hypothesis import strategies as st
from torch import Tensor

Function = Literal["linear", "logits"]
FUNCTIONS: tuple[Function, ...] = ("linear", "logits")
REDUCTIONS = ("mean", "sum", "none")


@dataclass(frozen=True, eq=False)
class LossCase:
    """One call of a loss: ``scores`` are hidden states or logits, on the CPU and contiguous."""

    function: Function
    scores: Tensor
    weight: Tensor | None
    bias: Tensor | None
    labels: Tensor
    task_ids: Tensor | None = None
    task_weights: Tensor | None = None
    num_tasks: int | None = None
    sample_ids: Tensor | None = None
    token_weights: Tensor | None = None
    ignore_index: int = -100
    shift: bool = False
    logit_scale: float = 1.0
    softcap: float | None = None
    reduction: str = "mean"
    normalizer: float | None = None
    class_weights: Tensor | None = None
    label_smoothing: float = 0.0
    lse_square_scale: float = 0.0
    token_outputs: tuple[str, ...] = ()
    token_gradients: bool = False
    upstream: Tensor = field(default_factory=lambda: torch.ones(()))
    planned: bool = False
    capacity: int | None = None
    memory_budget: int | None = None

    @property
    def classes(self) -> int:
        return self.scores.shape[-1] if self.weight is None else self.weight.shape[0]

    @property
    def dtype(self) -> torch.dtype:
        return self.scores.dtype

    @property
    def plan_options(self) -> dict[str, Any]:
        """What both the plan and the reference take."""
        names = (
            "task_ids",
            "task_weights",
            "num_tasks",
            "sample_ids",
            "token_weights",
            "ignore_index",
            "shift",
        )
        return {name: getattr(self, name) for name in names}

    @property
    def loss_options(self) -> dict[str, Any]:
        names = (
            "logit_scale",
            "softcap",
            "reduction",
            "normalizer",
            "class_weights",
            "label_smoothing",
            "lse_square_scale",
        )
        return {name: getattr(self, name) for name in names}

    @property
    def token_upstreams(self) -> dict[str, Tensor]:
        """Upstream gradients of the outputs per token, labels-shaped: some that differ, and zeros among them."""
        if not self.token_gradients:
            return {}
        generator = torch.Generator().manual_seed(len(self.token_outputs))
        made = torch.randn((2, *self.labels.shape), generator=generator, dtype=torch.float64).round(
            decimals=1
        )
        return {
            name: each
            for name, each in zip(("log_probabilities", "entropy"), made, strict=True)
            if name in self.token_outputs
        }

    def with_(self, **changes: Any) -> LossCase:
        return replace(self, **changes)

    def __repr__(self) -> str:
        shown = {name: value for name, value in vars(self).items() if not isinstance(value, Tensor)}
        shapes = {name: tuple(value.shape) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return f"LossCase({shown}, shapes={shapes}, labels={self.labels.tolist()})"


def made_case(
    function: Function,
    dtype: torch.dtype,
    seed: int,
    *,
    shape: tuple[int, ...] = (2, 5),
    hidden_size: int = 4,
    classes: int = 7,
    tasks: int = 2,
    supervised: float = 0.6,
    spread: float = 1.0,
    with_bias: bool = False,
    quantised: bool = False,
    per_token_tasks: bool = False,
    packed: bool = False,
    weighted_tokens: bool = False,
    zero_weights: bool = False,
    by_class: bool = False,
    **options: Any,
) -> LossCase:
    """A case with values drawn from one seed; ``spread`` is about the standard deviation of its logits."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int, scale: float = 1.0) -> Tensor:
        drawn = torch.randn(size, generator=generator, dtype=torch.float64) * scale
        return (drawn.round() if quantised else drawn).to(dtype)

    def integers(limit: int, size: tuple[int, ...]) -> Tensor:
        return torch.randint(max(limit, 1), size, generator=generator)

    linear = function == "linear"
    scores = normal(*shape, hidden_size if linear else classes, scale=1.0 if linear else spread)
    weight = normal(classes, hidden_size, scale=spread / max(hidden_size, 1) ** 0.5) if linear else None
    bias = normal(classes, scale=spread) if linear and with_bias else None
    ignore_index = options.get("ignore_index", -100)
    labels = integers(classes, shape)
    labels[labels == ignore_index] = classes - 1 if ignore_index != classes - 1 else 0
    labels[torch.rand(shape, generator=generator) >= supervised] = ignore_index
    weights = torch.rand(tasks, generator=generator, dtype=torch.float64) * 2 + 0.1
    if zero_weights:
        weights[0] = 0.0
    sample_ids = None
    if packed:
        cuts = torch.rand(shape, generator=generator) < 0.3
        cuts[..., :1] = True
        sample_ids = cuts.reshape(-1).cumsum(0).reshape(shape) - 1
    per_token_tasks = per_token_tasks or len(shape) == 1 or packed
    reduction = options.get("reduction", "mean")
    return LossCase(
        function=function,
        scores=scores,
        weight=weight,
        bias=bias,
        labels=labels,
        task_ids=integers(tasks, shape if per_token_tasks else shape[:-1]) if tasks > 1 else None,
        task_weights=weights if tasks > 1 else None,
        sample_ids=sample_ids,
        token_weights=torch.rand(shape, generator=generator, dtype=torch.float64)
        if weighted_tokens
        else None,
        class_weights=torch.rand(classes, generator=generator, dtype=torch.float64) + 0.2
        if by_class
        else None,
        upstream=torch.randn(shape if reduction == "none" else (), generator=generator, dtype=torch.float64),
        **options,
    )


@st.composite
def loss_cases(draw: st.DrawFn, function: Function, dtype: torch.dtype) -> LossCase:
    """Every option of one function, in one dtype."""
    shape = draw(
        st.one_of(
            st.tuples(st.integers(0, 9)),
            st.tuples(st.integers(0, 3), st.integers(0, 5)),
            st.tuples(st.integers(1, 2), st.integers(1, 2), st.integers(1, 4)),
        )
    )
    classes = draw(st.one_of(st.integers(1, 9), st.sampled_from([16, 17, 31, 32, 33, 63, 65])))
    capped = draw(st.booleans())
    reduction = draw(st.sampled_from(REDUCTIONS))
    positions = 1
    for size in shape:
        positions *= size
    planned = draw(st.booleans())
    smoothing = draw(st.sampled_from([0.0, 0.0, 0.1, 1.0]))
    token_outputs = draw(
        st.sampled_from([(), (), ("entropy",), ("log_probabilities",), ("log_probabilities", "entropy")])
    )
    # A normalizer of one part of a step: larger than this part's weights.
    normalizer = draw(st.none() | st.floats(0.5, 64.0)) if reduction == "mean" else None
    return made_case(
        function,
        dtype,
        draw(st.integers(0, 2**31)),
        shape=shape,
        hidden_size=draw(st.integers(1, 9)),
        classes=classes,
        tasks=draw(st.integers(1, 4)),
        supervised=draw(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0])),
        spread=draw(st.sampled_from([0.0, 0.3, 1.0, 4.0, 16.0])),
        with_bias=draw(st.booleans()),
        quantised=draw(st.booleans()),
        per_token_tasks=draw(st.booleans()),
        packed=draw(st.booleans()),
        weighted_tokens=draw(st.booleans()),
        zero_weights=draw(st.booleans()),
        shift=draw(st.booleans()),
        ignore_index=draw(st.sampled_from([-100, -1, 0, 10_000])),
        logit_scale=draw(st.sampled_from([1.0, 1.0, 0.25, -0.5, 3.0])),
        softcap=draw(st.sampled_from([1.0, 30.0])) if capped else None,
        reduction=reduction,
        normalizer=normalizer,
        planned=planned,
        capacity=positions if planned and draw(st.booleans()) else None,
        by_class=smoothing == 0.0 and draw(st.booleans()),
        label_smoothing=smoothing,
        lse_square_scale=draw(st.sampled_from([0.0, 0.0, 1e-4, 0.1])),
        token_outputs=token_outputs,
        token_gradients=bool(token_outputs) and draw(st.booleans()),
        memory_budget=draw(st.sampled_from([None, 0])) if function == "linear" else None,
    )
