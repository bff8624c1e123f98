"""The Triton kernels around the row kernel: device code only; `backend` launches them.

Importing this file imports Triton, so nothing may import it at its own import time.
"""

# Kernels are read by Triton's compiler, not by Python: their parameters have no Python types.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc, no-any-return, assignment"

from __future__ import annotations

import triton
import triton.language as tl


# A number that is 1, or a multiple of 16, and a pointer that is aligned, would each make a kernel of its own: a stall
# of seconds at some step. Nothing that changes from step to step is specialised on.
@triton.jit(
    do_not_specialize=["count", "num_tasks", "num_samples"],
    do_not_specialize_on_alignment=[
        "nll",
        "losses",
        "hits",
        "targets",
        "tasks",
        "samples",
        "row_weights",
        "given",
        "loss",
        "normalizer",
        "loss_sum",
        "tokens",
        "correct",
    ],
)
def statistics_kernel(
    nll, losses, hits, targets, tasks, samples, row_weights, given, loss, normalizer, loss_sum, tokens, correct,
    count, num_tasks, num_samples, MEAN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program: one task's, one sample's or (the last one) the whole batch's sums over the rows, and its loss.

    `losses` are what the loss sums up; the nll where they are left out.

    Every sum is made by one program, in f64 and in a fixed order, so its bits are the same in every run. That costs
    bins x rows reads of cached numbers: a few microseconds where the products take milliseconds.
    """
    bin = tl.program_id(0)
    lane = tl.arange(0, BLOCK)
    summed = tl.zeros([BLOCK], tl.float64)
    weight = tl.zeros([BLOCK], tl.float64)
    seen = tl.zeros([BLOCK], tl.int64)
    right = tl.zeros([BLOCK], tl.int64)
    whole = bin == num_tasks + num_samples
    owners = tasks
    wanted = bin
    if bin >= num_tasks:
        owners = samples
        wanted = bin - num_tasks
    for start in tl.range(0, count, BLOCK):
        slots = start + lane
        inside = slots < count
        real = tl.load(targets + slots, mask=inside, other=-1) >= 0
        mine = real & (whole | (tl.load(owners + slots, mask=inside, other=-1) == wanted))
        value = tl.load(nll + slots, mask=mine, other=0.0).to(tl.float64)
        if whole:
            if losses is not None:
                value = tl.load(losses + slots, mask=mine, other=0.0).to(tl.float64)
            factor = mine.to(tl.float64)
            if row_weights is not None:
                factor = tl.load(row_weights + slots, mask=mine, other=0.0).to(tl.float64)
            weight += factor
            value *= factor
        summed += value
        seen += mine.to(tl.int64)
        right += (tl.load(hits + slots, mask=mine, other=0) != 0).to(tl.int64)
    if whole:
        total = tl.sum(weight, axis=0)
        divided_by = tl.full([], 1.0, tl.float64)
        if MEAN:
            divided_by = total
            if given is not None:
                divided_by = tl.load(given).to(tl.float64)
            legal = (divided_by > 0) & (divided_by < float("inf"))
            nothing = (divided_by == 0) & (total == 0)
            divided_by = tl.where(legal, divided_by, tl.where(nothing, 1.0, float("nan")))
        tl.store(normalizer, divided_by)
        tl.store(loss, (tl.sum(summed, axis=0) / divided_by).to(tl.float32))
    else:
        tl.store(loss_sum + bin, tl.sum(summed, axis=0).to(tl.float32))
        tl.store(tokens + bin, tl.sum(seen, axis=0))
        tl.store(correct + bin, tl.sum(right, axis=0))


@triton.jit(
    do_not_specialize=["count"],
    do_not_specialize_on_alignment=["upstream", "normalizer", "row_weights", "scale"],
)
def row_scale_kernel(upstream, normalizer, row_weights, scale, count, BLOCK: tl.constexpr):
    """scale[r] = upstream / normalizer * row_weights[r], in f64 and rounded once; what is left out is 1."""
    slots = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = slots < count
    factor = 1.0 / tl.load(normalizer)
    if upstream is not None:
        factor = tl.load(upstream).to(tl.float64) / tl.load(normalizer)
    factors = tl.zeros([BLOCK], tl.float64) + factor
    if row_weights is not None:
        factors *= tl.load(row_weights + slots, mask=inside, other=0.0).to(tl.float64)
    tl.store(scale + slots, factors.to(tl.float32), mask=inside)


@triton.jit(do_not_specialize_on_alignment=["source_rows", "target_rows", "row_scale", "targets"])
def scale_rows_kernel(
    source, source_rows, target, target_rows, row_scale, targets, width, source_stride, target_stride,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """target[target_rows[r]] = row_scale[r] * source[source_rows[r]] (an index left out is r), rounded once.

    Padding rows (targets[r] < 0) are not read; they are written as zeros.
    """
    slot = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    from_row = slot
    if source_rows is not None:
        from_row = tl.load(source_rows + slot)
    to_row = slot
    if target_rows is not None:
        to_row = tl.load(target_rows + slot)
    inside = column < width
    real = tl.load(targets + slot) >= 0
    values = tl.load(source + from_row * source_stride + column, mask=inside & real, other=0.0).to(tl.float32)
    if row_scale is not None:
        # A padding row's scale is nobody's business: 0 * NaN would not be 0.
        values *= tl.load(row_scale + slot, mask=real, other=0.0).to(tl.float32)
    tl.store(target + to_row * target_stride + column, values.to(target.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["size"], do_not_specialize_on_alignment=["factor"])
def rescale_kernel(values, factor, size, BLOCK: tl.constexpr, TILE: tl.constexpr):
    """values *= factor, a scalar on the device; where it is 1, as it is for a loss, nothing is read."""
    scale = tl.load(factor).to(tl.float32)
    if scale != 1.0:
        first = tl.program_id(0).to(tl.int64) * BLOCK
        for start in tl.range(0, BLOCK, TILE):
            offsets = first + start + tl.arange(0, TILE)
            inside = offsets < size
            scaled = tl.load(values + offsets, mask=inside, other=0.0).to(tl.float32) * scale
            tl.store(values + offsets, scaled.to(values.dtype.element_ty), mask=inside)
