"""The Triton row kernel: device code only; `backend.row_pass` launches it.

Importing this file imports Triton, so nothing may import it at its own import time.
"""

# Kernels are read by Triton's compiler, not by Python: their parameters have no Python types.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc, no-any-return, assignment"
# ruff: noqa: SIM300 (a constexpr in capitals is the variable here)

from __future__ import annotations

import triton
import triton.language as tl

from cotbal_kernels.backends.triton.row_functions import (
    accumulate,
    exp_beyond,
    moment_of,
    moved,
    points_z,
    probable,
    sloped,
    write,
)


@triton.jit(
    do_not_specialize=["columns", "logits_stride", "gradient_stride", "zero"],
    do_not_specialize_on_alignment=[
        "logits",
        "gradient",
        "targets",
        "rows",
        "row_scale",
        "nll",
        "hits",
        "label_error",
        "softmax_shift",
        "target_shift",
        "entropy_scale",
        "lse",
        "mean",
        "entropy",
        "highest",
    ],
)
def row_kernel(
    logits, gradient, targets, rows, row_scale, nll, hits, label_error, columns, logits_stride,
    gradient_stride, logit_scale, softcap, zero,
    softmax_shift, target_shift, entropy_scale, lse, mean, entropy, highest, label_smoothing, lse_square_scale,
    EDGES: tl.constexpr, CONGRUENT: tl.constexpr, PACKED: tl.constexpr, SCALED: tl.constexpr, CAPPED: tl.constexpr,
    TERMS: tl.constexpr, HELD: tl.constexpr, STREAMED: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """One program: one row's nll, hit and gradient. See `backend.row_pass` for what it computes.

    The row is cut into groups of 16 aligned bytes. The first `HELD` tiles of `GROUPS` groups stay in registers, as
    the 32-bit words that were loaded, between the online pass and the gradient pass; what is beyond them
    (`STREAMED`) is read a second time. With `EDGES`, the row does not begin or end on a 16-byte boundary: up to 7
    columns on either side are handled apart, so that the tiles keep 128-bit accesses. `zero` is 0 at run time and
    unknown to the compiler, which would otherwise keep the held words unpacked, in twice the registers. What comes
    after it is in `RowTerms` (`highest` is its peak); nothing of it is compiled without `TERMS`.
    """
    DTYPE: tl.constexpr = logits.dtype.element_ty
    HALVES: tl.constexpr = 1 if DTYPE == tl.float32 else 2
    WORDS: tl.constexpr = 4
    VEC: tl.constexpr = WORDS * HALVES
    # -inf in every value of a word: f32, bf16 and fp16.
    MASKED: tl.constexpr = (
        -8388608 if DTYPE == tl.float32 else (-8323200 if DTYPE == tl.bfloat16 else -67044352)
    )

    slot = tl.program_id(0).to(tl.int64)
    label = tl.load(targets + slot)
    row = slot
    if rows is not None:
        row = tl.load(rows + slot)
    supervised = (label >= 0) & (label < columns)
    target = tl.where(supervised, label, 0).to(tl.int32)
    row_start = logits + row * logits_stride

    head = 0
    if EDGES:
        misaligned = (-row_start.to(tl.int64)) & 15
        head = tl.minimum((misaligned // (4 // HALVES)).to(tl.int32), columns)
    count = (columns - head) // VEC
    # A row without a target is never read: its logits may be anything, NaN included.
    readable = tl.where(supervised, count, 0)
    target_group = (target - head) // VEC
    target_lane = (target - head) % VEC
    main = tl.multiple_of((row_start + head).to(tl.pointer_type(tl.int32), bitcast=True), 16)
    lane = tl.arange(0, GROUPS)
    word = tl.arange(0, WORDS)[None, :]

    held = ()
    for tile in tl.static_range(HELD):
        groups = tile * GROUPS + lane
        held = held + (  # noqa: RUF005 (Triton knows no starred tuples)
            tl.load(
                main + groups[:, None] * WORDS + word,
                mask=(groups < readable)[:, None],
                other=MASKED,
                eviction_policy="evict_first",
            ),
        )
    target_z = points_z(row_start, target, supervised, logit_scale, softcap, SCALED, CAPPED)

    peak = tl.full([GROUPS], float("-inf"), tl.float32)
    early = tl.full([GROUPS], float("-inf"), tl.float32)
    total = tl.zeros([GROUPS], tl.float32)
    summed = tl.zeros([GROUPS], tl.float32)
    moment = tl.zeros([GROUPS], tl.float32)
    SUMMED: tl.constexpr = mean is not None
    MOMENT: tl.constexpr = entropy is not None
    SLANTED: tl.constexpr = entropy_scale is not None
    for tile in tl.static_range(HELD):
        peak, total, early, summed, moment = accumulate(
            peak, total, early, summed, moment, held[tile], tile * GROUPS + lane, readable, target_group, logit_scale,
            softcap, DTYPE, HALVES, GROUPS, SCALED, CAPPED, SUMMED, MOMENT,
        )  # fmt: skip
    if STREAMED:
        for start in tl.range(HELD * GROUPS, readable, GROUPS, loop_unroll_factor=2):
            groups = start + lane
            words = tl.load(
                main + groups[:, None] * WORDS + word,
                mask=(groups < readable)[:, None],
                other=MASKED,
                # Wanted again by the gradient pass, a few microseconds from now.
                eviction_policy="evict_last",
            )
            peak, total, early, summed, moment = accumulate(
                peak, total, early, summed, moment, words, groups, readable, target_group, logit_scale,
                softcap, DTYPE, HALVES, GROUPS, SCALED, CAPPED, SUMMED, MOMENT,
            )  # fmt: skip

    # One tree over both maxima, then one over the sums: two rounds of barriers instead of three.
    row_peak, row_early = tl.split(tl.max(tl.join(peak, early), axis=0))
    # Columns of the target's own group that stand before it.
    own = head + target_group * VEC + tl.arange(0, VEC)
    own_before = (own >= 0) & (own < target) & supervised
    own_z = points_z(row_start, own, own_before, logit_scale, softcap, SCALED, CAPPED)
    row_early = tl.maximum(row_early, tl.max(own_z, axis=0))
    if EDGES:
        # Lanes 0..7 stand for the columns before the first group, lanes 8..15 for those after the last one.
        edge_lane = tl.arange(0, 16)
        edge = tl.where(edge_lane < 8, edge_lane, head + count * VEC + edge_lane - 8)
        edge_valid = tl.where(edge_lane < 8, edge_lane < head, edge < columns)
        edge_read = edge_valid & supervised
        edge_z = points_z(row_start, edge, edge_read, logit_scale, softcap, SCALED, CAPPED)
        row_peak = tl.maximum(row_peak, tl.max(edge_z, axis=0))
        row_early = tl.maximum(row_early, tl.max(tl.where(edge < target, edge_z, float("-inf")), axis=0))
    origin = tl.where(row_peak == float("-inf"), 0.0, row_peak)
    row_total = tl.sum(total * exp_beyond(peak, origin), axis=0)
    if EDGES:
        row_total += tl.sum(exp_beyond(edge_z, origin), axis=0)

    outside = (label >= columns) | (label < -1)
    loss = tl.log(row_total) + (origin - target_z)
    loss = tl.where(supervised, loss, tl.where(outside, float("nan"), 0.0))
    tl.store(nll + slot, loss)
    tl.store(hits + slot, supervised & (target_z >= row_peak) & (row_early < target_z))
    if label_error is not None:
        # Slot and label (clipped to 32 bits) in one word, so that the two belong together whoever writes last.
        # A plain store to memory the host can read: it costs nothing unless there is an offender.
        shown = tl.minimum(tl.maximum(label, -2147483648), 2147483647) & 0xFFFFFFFF
        tl.store(label_error, ((slot + 1) << 32) | shown, mask=outside)

    row_lse = tl.log(row_total) + origin
    if TERMS:
        # What a row without a target says of itself is 0.
        if lse is not None:
            tl.store(lse + slot, tl.where(supervised, row_lse, 0.0))
        if highest is not None:
            tl.store(highest + slot, tl.where(supervised, row_peak, 0.0))
        if SUMMED:
            row_sum = tl.sum(summed, axis=0)
            if EDGES:
                row_sum += tl.sum(tl.where(edge_read, edge_z, 0.0), axis=0)
            tl.store(mean + slot, tl.where(supervised, row_sum / columns, 0.0))
        if MOMENT:
            row_moment = tl.sum(moved(moment, total, peak, origin), axis=0)
            if EDGES:
                row_moment += tl.sum(moment_of(edge_z, origin), axis=0)
            found = tl.log(row_total) - row_moment / row_total
            tl.store(entropy + slot, tl.where(supervised, found, 0.0))

    if gradient is not None:
        scale = 1.0
        if row_scale is not None:
            scale = tl.load(row_scale + slot).to(tl.float32)
        softmax_scale = scale
        target_scale = scale
        slant = 0.0
        constant = 0.0
        if TERMS:
            softmax_scale = scale * (1.0 + 2.0 * lse_square_scale * row_lse)
            target_scale = scale * (1.0 - label_smoothing)
            constant = tl.where(supervised, scale * label_smoothing / columns, 0.0)
            if softmax_shift is not None:
                softmax_scale += tl.load(softmax_shift + slot).to(tl.float32)
            if target_shift is not None:
                target_scale += tl.load(target_shift + slot).to(tl.float32)
            if SLANTED:
                leaning = tl.load(entropy_scale + slot).to(tl.float32)
                softmax_scale -= leaning * tl.log(row_total)
                slant = tl.where(supervised, leaning / row_total, 0.0)
        factor = tl.where(supervised, softmax_scale / row_total, 0.0)
        unit = tl.where(supervised, target_scale, 0.0)
        gradient_start = gradient + row * gradient_stride
        gradient_main = gradient_start
        if EDGES:
            gradient_main = gradient_start + head
        if CONGRUENT:
            gradient_main = tl.multiple_of(gradient_main, 16)
        for tile in tl.static_range(HELD):
            write(
                gradient_main, held[tile] ^ zero, tile * GROUPS + lane, readable, count, tile * GROUPS, target_group,
                target_lane, origin, factor, unit, slant, constant, logit_scale, softcap, DTYPE, HALVES, GROUPS,
                PACKED, SCALED, CAPPED, TERMS, SLANTED,
            )  # fmt: skip
        if STREAMED:
            for start in tl.range(HELD * GROUPS, count, GROUPS):
                groups = start + lane
                words = tl.load(
                    main + groups[:, None] * WORDS + word,
                    mask=(groups < readable)[:, None],
                    other=MASKED,
                    eviction_policy="evict_first",
                )
                write(
                    gradient_main, words, groups, readable, count, start, target_group, target_lane, origin,
                    factor, unit, slant, constant, logit_scale, softcap, DTYPE, HALVES, GROUPS,
                    PACKED, SCALED, CAPPED, TERMS, SLANTED,
                )  # fmt: skip
        if EDGES:
            edge_gradient = probable(edge_z, origin, factor, slant, constant, TERMS, SLANTED)
            edge_gradient = tl.where(edge == target, edge_gradient - unit, edge_gradient)
            edge_gradient = sloped(edge_gradient, edge_z, edge_read, logit_scale, softcap, SCALED, CAPPED)
            tl.store(gradient_start + edge, edge_gradient.to(gradient.dtype.element_ty), mask=edge_valid)
