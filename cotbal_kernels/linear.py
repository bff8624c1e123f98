"""From hidden states to loss and gradients: gather the supervised rows, three products, one row pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal, NamedTuple

import torch
from torch import Tensor

from cotbal_kernels import products, statistics
from cotbal_kernels.backends.base import Backend, RowTerms
from cotbal_kernels.call import Gradients, LinearBackwardCall, LinearCall, compute_dtype
from cotbal_kernels.row_outputs import RowOutputs, backward_terms, forward_terms, row_outputs
from cotbal_kernels.statistics import RowStatistics

Mode = Literal["value", "keep", "grads", "recompute"]
Call = LinearCall | LinearBackwardCall
# Rows of logits start on a 64-byte boundary whatever the vocabulary, so that kernels read whole vectors.
_ROW_ALIGNMENT: Final = 32
# Fewer rows than this make the products slow (each reads the whole head).
_LEAST_CHUNK: Final = 512


class Computed(NamedTuple):
    """What the forward pass hands to the operator."""

    rows: RowOutputs
    sums: RowStatistics
    logits_gradient: Tensor
    gradients: Gradients


class Memory(NamedTuple):
    """What decides how many rows are worked on at once.

    Attributes:
        rows: supervised rows, R.
        logits: bytes of one row of logits, V times the products' itemsize.
        accumulator: bytes of a 16-bit head's gradient in f32, 4 V H: summed over chunks, and rounded when the
            upstream gradient is there. 0 for wider heads and where it is not wanted.
        budget: bytes of logits and accumulator to hold at once.
    """

    rows: int
    logits: int
    accumulator: int
    budget: int

    @property
    def fits(self) -> bool:
        """Whether the logits of all rows are within the budget."""
        return self.rows * self.logits <= self.budget

    @property
    def chunk(self) -> int:
        """Rows of a chunk: as many as the budget leaves room for, but no fewer than `_LEAST_CHUNK`."""
        if self.fits:
            return self.rows
        return min(self.rows, max(_LEAST_CHUNK, (self.budget - self.accumulator) // self.logits))

    @property
    def chunks_save(self) -> bool:
        """Whether working chunk by chunk holds fewer bytes than all rows' logits, or no more and not as long."""
        spared = (self.rows - self.chunk) * self.logits - self.accumulator
        return spared > 0 or (spared == 0 and self.accumulator == 0)


def memory_of(hidden: Tensor, weight: Tensor, rows: int, budget: int, wants_weight: bool) -> Memory:
    """The memory of a call, without data."""
    classes = weight.shape[0]
    summed = compute_dtype(weight.dtype)
    accumulator = weight.numel() * summed.itemsize if wants_weight and summed != weight.dtype else 0
    logits = classes * products.product_dtype(hidden.dtype, hidden.device).itemsize
    return Memory(rows, logits, accumulator, budget)


def choose_mode(
    memory: Memory | None, reduction: str, logits_dtype: torch.dtype, token_gradients: bool = False
) -> Mode:
    """How a call that needs gradients works: see `compute`.

    The bytes it holds at once, beside inputs and results, fall with the budget: R V b within it, the budget itself
    down to `_LEAST_CHUNK` rows and the accumulator; and never more than R V b. Where `memory` is None, the number of
    rows is not known: nothing is kept that grows with it and with the vocabulary.
    """
    if token_gradients:
        # Of loss, nll and entropy each has an upstream gradient of its own, known in the backward pass only.
        return "recompute"
    if memory is not None and (memory.fits or not memory.chunks_save):
        return "keep"
    # Scaled gradients of f16 logits would vanish before a loss scale could lift them.
    return "recompute" if reduction == "none" or logits_dtype == torch.float16 else "grads"


def empty_rows(like: Tensor, count: int, classes: int, dtype: torch.dtype) -> Tensor:
    """An uninitialised matrix [count, classes] whose rows start aligned."""
    stride = -(-classes // _ROW_ALIGNMENT) * _ROW_ALIGNMENT
    return like.new_empty_strided((count, classes), (stride, 1), dtype=dtype)


def compute(backend: Backend, call: LinearCall) -> Computed:
    """Loss sums of every row, and by `call.mode` the gradients or what the backward pass needs for them.

    keep: the gradient of the logits, unscaled: any upstream gradient costs two more products.
    grads: the gradients for an upstream gradient of 1, made chunk by chunk, since the rows' scales are known;
        in f32 for 16-bit inputs, so that they are rounded once, when the upstream gradient is there.
    recompute, value: nothing.
    """
    count, dtype = call.targets.shape[0], compute_dtype(call.hidden.dtype)
    nll = torch.empty(count, dtype=dtype, device=call.hidden.device)
    hits = torch.empty(count, dtype=torch.bool, device=call.hidden.device)
    terms = forward_terms(call, call.hidden)
    kept = _empty_logits(call, count if call.mode == "keep" else 0)
    gradients = _no_gradients(call)
    if call.mode == "keep":
        products.logits_(_gathered(backend, call, slice(None)), call.weight, call.bias, kept)
        nll, hits = row_pass(backend, call, kept, slice(None), kept, None, terms)
    elif call.mode == "grads":
        normalizer = statistics.normalizer(
            statistics.weight_sum(call.targets, call.row_weights), call.normalizer, call.reduction
        )
        scale = backend.row_scale(None, call.rows, call.row_weights, normalizer, call.reduction, dtype)
        gradients = chunked_gradients(backend, call, scale, dtype, nll, hits, terms)
    else:
        for part, _, logits in _chunks(backend, call):
            nll[part], hits[part] = row_pass(backend, call, logits, part, None, None, terms)
    made = row_outputs(nll, terms)
    sums = backend.row_statistics(
        nll,
        hits,
        call.targets,
        call.tasks,
        call.samples,
        call.row_weights,
        call.normalizer,
        call.num_tasks,
        call.num_samples,
        call.reduction,
        made.losses,
    )
    return Computed(made, sums, kept, gradients)


def gradients_from_kept(backend: Backend, call: LinearBackwardCall, scale: Tensor) -> Gradients:
    """Gradients from the kept, unscaled gradient of the logits and each row's scale."""
    kept = call.logits_gradient
    hidden, weight, bias = _no_gradients(call)
    if call.wants_hidden:
        made = products.hidden_gradient(kept, call.weight)
        hidden = backend.scatter_rows(
            made, call.rows, call.targets, scale, call.hidden.shape[0], call.hidden.dtype
        )
    if call.wants_weight:
        scaled = _gathered(backend, call, slice(None), scale)
        weight = torch.empty_like(call.weight, memory_format=torch.contiguous_format)
        products.weight_gradient_(kept, scaled, weight, accumulate=False)
    if call.wants_bias and call.bias is not None:
        bias = torch.mv(kept.t(), scale.to(kept.dtype)).to(call.bias.dtype)
    return Gradients(hidden, weight, bias)


def recomputed_gradients(backend: Backend, call: LinearBackwardCall, scale: Tensor) -> Gradients:
    """Gradients from the inputs alone, chunk by chunk: a fourth product, but no logits kept."""
    return chunked_gradients(backend, call, scale, call.hidden.dtype, None, None, backward_terms(call))


def _logits_dtype(call: Call) -> torch.dtype:
    return products.product_dtype(call.hidden.dtype, call.hidden.device)


def _empty_logits(call: Call, count: int) -> Tensor:
    return empty_rows(call.hidden, count, call.weight.shape[0], _logits_dtype(call))


def _no_gradients(call: Call) -> Gradients:
    bias = call.weight if call.bias is None else call.bias
    return Gradients(call.hidden.new_empty(0), call.weight.new_empty(0), bias.new_empty(0))


def _gathered(backend: Backend, call: Call, part: slice, scale: Tensor | None = None) -> Tensor:
    """The hidden states of some rows, times their scale, in the dtype of the products."""
    return backend.gather_rows(
        call.hidden, call.rows[part], call.targets[part], scale, _logits_dtype(call), call.padded
    )


def row_pass(
    backend: Backend,
    call: Call,
    logits: Tensor,
    part: slice,
    gradient: Tensor | None,
    scale: Tensor | None,
    terms: RowTerms | None,
) -> tuple[Tensor, Tensor]:
    """The row pass over some rows of the call; scale and terms are those of all its rows."""
    return backend.row_pass(
        logits,
        call.targets[part],
        gradient=gradient,
        row_scale=None if scale is None else scale[part],
        logit_scale=call.logit_scale,
        softcap=call.softcap,
        terms=None if terms is None else terms.at(part),
    )


def logits_by_chunk(backend: Backend, call: Call, whole: Tensor | None) -> Iterator[tuple[slice, Tensor]]:
    """The logits of the rows: all at once in `whole` [R, V] where that is given, else chunk by chunk."""
    if whole is not None:
        products.logits_(_gathered(backend, call, slice(None)), call.weight, call.bias, whole)
        yield slice(None), whole
        return
    for part, _, logits in _chunks(backend, call):
        yield part, logits


def _chunks(backend: Backend, call: Call) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Rows chunk by chunk: which, their hidden states, their logits (one buffer, used again)."""
    count = call.targets.shape[0]
    wants_weight = call.mode in ("grads", "recompute") and call.wants_weight
    size = max(1, memory_of(call.hidden, call.weight, count, call.memory_budget, wants_weight).chunk)
    # Equal chunks: a short last one would be a slow product.
    number = -(-count // size)
    size = -(-count // max(1, number))
    buffer = _empty_logits(call, min(size, count))
    for start in range(0, count, max(1, size)):
        part = slice(start, min(start + size, count))
        hidden = _gathered(backend, call, part)
        logits = buffer[: hidden.shape[0]]
        products.logits_(hidden, call.weight, call.bias, logits)
        yield part, hidden, logits
        del hidden, logits


def chunked_gradients(
    backend: Backend,
    call: Call,
    scale: Tensor,
    dtype: torch.dtype,
    nll: Tensor | None,
    hits: Tensor | None,
    terms: RowTerms | None,
) -> Gradients:
    """The gradients in `dtype`, chunk by chunk, from each row's scale and terms; fills nll and hits where given."""
    hidden, weight, bias = _no_gradients(call)
    count, wide = call.targets.shape[0], compute_dtype(call.hidden.dtype)
    rows: Tensor | None = None
    total: Tensor | None = None
    bias_total: Tensor | None = None
    for part, chunk, logits in _chunks(backend, call):
        chunk_nll, chunk_hits = row_pass(backend, call, logits, part, logits, scale, terms)
        if nll is not None and hits is not None:
            nll[part], hits[part] = chunk_nll, chunk_hits
        if call.wants_hidden:
            made = products.hidden_gradient(logits, call.weight)
            if rows is None:
                rows = made.new_empty(count, made.shape[1])
            rows[part] = made
        if call.wants_weight:
            first = total is None
            if total is None:
                whole = part.stop - part.start == count
                total = torch.empty(
                    call.weight.shape, dtype=dtype if whole else wide, device=call.weight.device
                )
            products.weight_gradient_(logits, chunk, total, accumulate=not first)
        if call.wants_bias:
            added = logits.sum(0, dtype=wide)
            bias_total = added if bias_total is None else bias_total.add_(added)
        # The last chunk's logits are not to be alive beside the finished gradients.
        del chunk, logits
    if call.wants_hidden:
        positions = call.hidden.shape[0]
        hidden = (
            call.hidden.new_zeros(call.hidden.shape, dtype=dtype)
            if rows is None
            else backend.scatter_rows(rows, call.rows, call.targets, None, positions, dtype)
        )
    if call.wants_weight:
        weight = call.weight.new_zeros(call.weight.shape, dtype=dtype) if total is None else total.to(dtype)
    if call.wants_bias and call.bias is not None:
        bias = (
            call.bias.new_zeros(call.bias.shape, dtype=dtype) if bias_total is None else bias_total.to(dtype)
        )
    return Gradients(hidden, weight, bias)
