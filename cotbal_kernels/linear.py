"""From hidden states to loss and gradients: gather the supervised rows, three products, one row pass."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import torch
from torch import Tensor

from cotbal_kernels import products, statistics
from cotbal_kernels.backends.base import Backend
from cotbal_kernels.reduction import row_scale
from cotbal_kernels.statistics import RowStatistics

Mode = Literal["value", "keep", "grads", "recompute"]
# Rows of logits start on a 64-byte boundary whatever the vocabulary, so that kernels read whole vectors.
_ROW_ALIGNMENT: Final = 32
# Fewer rows than this make the products slow (each reads the whole head).
_LEAST_CHUNK: Final = {"cpu": 512}
_LEAST_DEVICE_CHUNK: Final = 4096


class Gradients(NamedTuple):
    """Gradients of the inputs; an empty tensor where one is not wanted."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor


class Computed(NamedTuple):
    """What the forward pass hands to the operator."""

    nll: Tensor
    sums: RowStatistics
    divisor: Tensor
    logits_gradient: Tensor
    gradients: Gradients


@dataclass(frozen=True)
class Head:
    """The inputs of one call that its forward and backward passes share."""

    backend: Backend
    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    rows: Tensor
    targets: Tensor
    padded: bool
    logit_scale: float
    softcap: float | None
    wants_hidden: bool
    wants_weight: bool
    wants_bias: bool

    @property
    def compute_dtype(self) -> torch.dtype:
        return torch.float64 if self.hidden.dtype == torch.float64 else torch.float32

    @property
    def logits_dtype(self) -> torch.dtype:
        return products.product_dtype(self.hidden.dtype, self.hidden.device)

    def gathered(self, part: slice, row_scale: Tensor | None = None) -> Tensor:
        """The hidden states of some rows, times their scale, in the dtype of the products."""
        return self.backend.gather_rows(
            self.hidden, self.rows[part], self.targets[part], row_scale, self.logits_dtype, self.padded
        )

    def empty_logits(self, count: int) -> Tensor:
        return empty_rows(self.hidden, count, self.weight.shape[0], self.logits_dtype)

    def row_pass(
        self, logits: Tensor, part: slice, gradient: Tensor | None, row_scale: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        return self.backend.row_pass(
            logits,
            self.targets[part],
            gradient=gradient,
            row_scale=None if row_scale is None else row_scale[part],
            bias=None if self.bias is None else self.bias.to(self.compute_dtype),
            logit_scale=self.logit_scale,
            softcap=self.softcap,
        )

    def scattered(self, source: Tensor, row_scale: Tensor | None) -> Tensor:
        """Rows [R, H] times their scale, at their positions in a gradient of the hidden states."""
        return self.backend.scatter_rows(source, self.rows, self.targets, row_scale, self.hidden)


def empty_rows(like: Tensor, count: int, classes: int, dtype: torch.dtype) -> Tensor:
    """An uninitialised matrix [count, classes] whose rows start aligned."""
    stride = -(-classes // _ROW_ALIGNMENT) * _ROW_ALIGNMENT
    return like.new_empty_strided((count, classes), (stride, 1), dtype=dtype)


def compute(
    head: Head,
    tasks: Tensor,
    samples: Tensor,
    row_weights: Tensor | None,
    normalizer: Tensor | None,
    num_tasks: int,
    num_samples: int,
    reduction: str,
    mode: Mode,
    memory_budget: int,
) -> Computed:
    """Loss sums of every row, and by ``mode`` the gradients or what the backward pass needs for them.

    keep: the gradient of the logits, unscaled: any upstream gradient costs two more products.
    grads: the gradients themselves, made chunk by chunk, since the rows' scales are known.
    recompute, value: nothing.
    """
    count, dtype = head.targets.shape[0], head.compute_dtype
    nll = torch.empty(count, dtype=dtype, device=head.hidden.device)
    hits = torch.empty(count, dtype=torch.bool, device=head.hidden.device)
    kept = head.empty_logits(count if mode == "keep" else 0)
    gradients = no_gradients(head)
    if mode == "keep":
        products.logits_(head.gathered(slice(None)), head.weight, kept)
        nll, hits = head.row_pass(kept, slice(None), kept, None)
    elif mode == "grads":
        divisor = statistics.divisor(statistics.weight_sum(head.targets, row_weights), normalizer, reduction)
        scale = row_scale(None, head.rows, row_weights, divisor, reduction, dtype)
        gradients = _chunked_gradients(head, scale, memory_budget, nll, hits)
    else:
        for part, _, logits in _chunks(head, memory_budget):
            nll[part], hits[part] = head.row_pass(logits, part, None, None)
    sums = head.backend.row_statistics(
        nll, hits, head.targets, tasks, samples, row_weights, num_tasks, num_samples
    )
    return Computed(nll, sums, statistics.divisor(sums.weight_sum, normalizer, reduction), kept, gradients)


def gradients_from_kept(head: Head, kept: Tensor, scale: Tensor) -> Gradients:
    """Gradients from the kept, unscaled gradient of the logits and each row's scale."""
    empty = no_gradients(head)
    hidden, weight, bias = empty
    if head.wants_hidden:
        hidden = head.scattered(products.hidden_gradient(kept, head.weight), scale)
    if head.wants_weight:
        scaled = head.gathered(slice(None), scale)
        weight = torch.empty_like(head.weight, memory_format=torch.contiguous_format)
        products.weight_gradient_(kept, scaled, weight, accumulate=False)
    if head.wants_bias and head.bias is not None:
        bias = torch.mv(kept.t(), scale.to(kept.dtype)).to(head.bias.dtype)
    return Gradients(hidden, weight, bias)


def recomputed_gradients(head: Head, scale: Tensor, memory_budget: int) -> Gradients:
    """Gradients from the inputs alone, chunk by chunk: a fourth product, but no logits kept."""
    return _chunked_gradients(head, scale, memory_budget, None, None)


def no_gradients(head: Head) -> Gradients:
    bias = head.weight if head.bias is None else head.bias
    return Gradients(head.hidden.new_empty(0), head.weight.new_empty(0), bias.new_empty(0))


def _chunks(head: Head, memory_budget: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Rows chunk by chunk: which, their hidden states, their logits (one buffer, used again)."""
    count, classes = head.targets.shape[0], head.weight.shape[0]
    itemsize = head.logits_dtype.itemsize
    least = _LEAST_CHUNK.get(head.hidden.device.type, _LEAST_DEVICE_CHUNK)
    size = max(least, memory_budget // max(1, classes * itemsize))
    # Equal chunks: a short last one would be a slow product.
    number = -(-count // size)
    size = -(-count // max(1, number))
    buffer = head.empty_logits(min(size, count))
    for start in range(0, count, max(1, size)):
        part = slice(start, min(start + size, count))
        hidden = head.gathered(part)
        logits = buffer[: hidden.shape[0]]
        products.logits_(hidden, head.weight, logits)
        yield part, hidden, logits


def _chunked_gradients(
    head: Head, scale: Tensor, memory_budget: int, nll: Tensor | None, hits: Tensor | None
) -> Gradients:
    hidden, weight, bias = no_gradients(head)
    rows: Tensor | None = None
    total: Tensor | None = None
    bias_total: Tensor | None = None
    for part, chunk, logits in _chunks(head, memory_budget):
        chunk_nll, chunk_hits = head.row_pass(logits, part, logits, scale)
        if nll is not None and hits is not None:
            nll[part], hits[part] = chunk_nll, chunk_hits
        if head.wants_hidden:
            made = products.hidden_gradient(logits, head.weight)
            if rows is None:
                rows = made.new_empty(head.targets.shape[0], made.shape[1])
            rows[part] = made
        if head.wants_weight:
            first = total is None
            if total is None:
                whole = part.stop - part.start == head.targets.shape[0]
                dtype = head.weight.dtype if whole else head.compute_dtype
                total = torch.empty(head.weight.shape, dtype=dtype, device=head.weight.device)
            products.weight_gradient_(logits, chunk, total, accumulate=not first)
        if head.wants_bias:
            added = logits.sum(0, dtype=head.compute_dtype)
            bias_total = added if bias_total is None else bias_total.add_(added)
    if head.wants_hidden:
        hidden = (
            torch.zeros_like(head.hidden, memory_format=torch.contiguous_format)
            if rows is None
            else head.scattered(rows, None)
        )
    if head.wants_weight:
        weight = (
            torch.zeros_like(head.weight, memory_format=torch.contiguous_format)
            if total is None
            else total.to(head.weight.dtype)
        )
    if head.wants_bias and head.bias is not None:
        bias = torch.zeros_like(head.bias) if bias_total is None else bias_total.to(head.bias.dtype)
    return Gradients(hidden, weight, bias)
