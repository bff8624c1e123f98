"""The Triton row kernel: device code only; `backend.row_pass` launches it.

Importing this file imports Triton, so nothing may import it at its own import time.
"""

# Kernels are read by Triton's compiler, not by Python: their parameters have no Python types.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc, no-any-return, assignment"
# ruff: noqa: SIM300 (a constexpr in capitals is the variable here)

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def _tanh(x):
    # Triton has no tanh of its own, the hardware's is good to 2^-11 only, and libdevice's does not run under the
    # interpreter. Every multiply-add is spelled as fma, so that no compiler can contract it in one place and not in
    # another: the target's z must compare equal to the same column's z inside a tile.
    magnitude = tl.abs(x)
    decay = tl.exp2(magnitude * -2.8853900817779268)
    far = (1.0 - decay) / (1.0 + decay)
    square = magnitude * magnitude
    # tanh(x)/x = 1 + x^2 P(x^2) on |x| < 0.5: Chebyshev fit, error about one unit in the last place.
    series = tl.fma(square, -0.0069470275193452835, 0.021472735330462456)
    series = tl.fma(series, square, -0.05393379181623459)
    series = tl.fma(series, square, 0.1333322674036026)
    series = tl.fma(series, square, -0.3333333134651184)
    near = tl.fma(series * square, magnitude, magnitude)
    result = tl.where(magnitude < 0.5, near, far)
    return tl.where(x < 0, -result, result)


@triton.jit
def _exp_beyond(z, origin):
    # exp(z - origin). The difference comes first, though z * log2(e) - shift would be one instruction: it is exact
    # near the peak, so that a perfectly predicted token has nll and gradient 0 however large its logit.
    return tl.exp2((z - origin) * LOG2_E)


@triton.jit
def _unpack(words, HALF: tl.constexpr, DTYPE: tl.constexpr):
    # words are 32 bits of a row: one f32 value, or two 16-bit ones (HALF 0 is the even column).
    if DTYPE == tl.float32:
        return words.to(tl.float32, bitcast=True)
    elif DTYPE == tl.bfloat16:
        if HALF == 0:
            return (words << 16).to(tl.float32, bitcast=True)
        else:
            return (words & -65536).to(tl.float32, bitcast=True)
    else:
        return (words >> (16 * HALF)).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)


@triton.jit
def _transform(x, valid, logit_scale, softcap, SCALED: tl.constexpr, CAPPED: tl.constexpr):
    # z of the raw logits; -inf outside `valid`, whatever the scale or the cap make of a masked -inf.
    z = x
    if SCALED:
        z *= logit_scale
    if CAPPED:
        z = _tanh(z / softcap) * softcap
    if SCALED or CAPPED:
        z = tl.where(valid, z, float("-inf"))
    return z


@triton.jit
def _points_z(row, columns, valid, logit_scale, softcap, SCALED: tl.constexpr, CAPPED: tl.constexpr):
    # z of a few single columns.
    x = tl.load(row + columns, mask=valid, other=float("-inf")).to(tl.float32)
    return _transform(x, valid, logit_scale, softcap, SCALED, CAPPED)


@triton.jit
def _tile_z(
    words, groups, count, logit_scale, softcap, DTYPE: tl.constexpr, HALVES: tl.constexpr,
    GROUPS: tl.constexpr, SCALED: tl.constexpr, CAPPED: tl.constexpr,
):  # fmt: skip
    # z of a tile's even and odd columns, each [GROUPS, 4]; f32 tiles have no odd ones (the even ones again).
    valid = (groups < count)[:, None]
    even = _unpack(words, 0, DTYPE)
    odd = even
    if HALVES == 2:
        odd = _unpack(words, 1, DTYPE)
    even = _transform(even, valid, logit_scale, softcap, SCALED, CAPPED)
    if HALVES == 2:
        odd = _transform(odd, valid, logit_scale, softcap, SCALED, CAPPED)
    return even, odd


@triton.jit
def _accumulate(
    peak, total, early, words, groups, count, target_group, logit_scale, softcap,
    DTYPE: tl.constexpr, HALVES: tl.constexpr, GROUPS: tl.constexpr, SCALED: tl.constexpr, CAPPED: tl.constexpr,
):  # fmt: skip
    # One tile of the online pass. A lane owns a group of adjacent columns (16 bytes): the maximum and the sum inside
    # a group stay in one thread, so a group costs one rescaling exponential, not one a column, and no barrier.
    even, odd = _tile_z(words, groups, count, logit_scale, softcap, DTYPE, HALVES, GROUPS, SCALED, CAPPED)
    top = tl.max(even, axis=1)
    if HALVES == 2:
        top = tl.maximum(top, tl.max(odd, axis=1))
    # The first of several equal maxima wins, so a maximum that stands before the target's group takes the hit away.
    early = tl.maximum(early, tl.where(groups < target_group, top, float("-inf")))
    new = tl.maximum(peak, top)
    origin = tl.where(new == float("-inf"), 0.0, new)
    terms = tl.sum(_exp_beyond(even, origin[:, None]), axis=1)
    if HALVES == 2:
        terms += tl.sum(_exp_beyond(odd, origin[:, None]), axis=1)
    total = tl.fma(total, _exp_beyond(peak, origin), terms)
    return new, total, early


@triton.jit
def _sloped(gradient, z, valid, logit_scale, softcap, SCALED: tl.constexpr, CAPPED: tl.constexpr):
    # From the gradient of z to that of the raw logits.
    if CAPPED:
        ratio = z / softcap
        gradient *= 1.0 - ratio * ratio
    if SCALED:
        gradient *= logit_scale
    if SCALED or CAPPED:
        gradient = tl.where(valid, gradient, 0.0)
    return gradient


@triton.jit
def _write(
    gradient, words, groups, readable, count, first_group, target_group, target_lane, origin, factor, unit,
    logit_scale, softcap, DTYPE: tl.constexpr, HALVES: tl.constexpr, GROUPS: tl.constexpr,
    SCALED: tl.constexpr, CAPPED: tl.constexpr,
):  # fmt: skip
    # One tile of the gradient pass: `readable` groups hold logits, `count` groups are written.
    VEC: tl.constexpr = 4 * HALVES
    valid = (groups < readable)[:, None]
    even_z, odd_z = _tile_z(
        words, groups, readable, logit_scale, softcap, DTYPE, HALVES, GROUPS, SCALED, CAPPED
    )
    even = _exp_beyond(even_z, origin) * factor
    odd = even
    if HALVES == 2:
        odd = _exp_beyond(odd_z, origin) * factor
    if (target_group >= first_group) & (target_group < first_group + GROUPS):
        # In f32, before the one rounding on store: near p = 1 a rounded p would leave nothing of p - 1.
        here = (groups == target_group)[:, None]
        position = HALVES * tl.arange(0, 4)[None, :]
        even = tl.where(here & (position == target_lane), even - unit, even)
        if HALVES == 2:
            odd = tl.where(here & (position + 1 == target_lane), odd - unit, odd)
    tile = _sloped(even, even_z, valid, logit_scale, softcap, SCALED, CAPPED)
    if HALVES == 2:
        odd = _sloped(odd, odd_z, valid, logit_scale, softcap, SCALED, CAPPED)
        tile = tl.reshape(tl.join(tile, odd), [GROUPS, VEC])
    offsets = groups[:, None] * VEC + tl.arange(0, VEC)[None, :]
    tl.store(
        gradient + offsets,
        tile.to(gradient.dtype.element_ty),
        mask=(groups < count)[:, None],
        eviction_policy="evict_first",
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
    ],
)
def row_kernel(
    logits, gradient, targets, rows, row_scale, nll, hits, label_error, columns, logits_stride,
    gradient_stride, logit_scale, softcap, zero,
    EDGES: tl.constexpr, CONGRUENT: tl.constexpr, SCALED: tl.constexpr, CAPPED: tl.constexpr,
    HELD: tl.constexpr, STREAMED: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """One program: one row's nll, hit and gradient. See `backend.row_pass` for what it computes.

    The row is cut into groups of 16 aligned bytes. The first `HELD` tiles of `GROUPS` groups stay in registers, as
    the 32-bit words that were loaded, between the online pass and the gradient pass; what is beyond them
    (`STREAMED`) is read a second time. With `EDGES`, the row does not begin or end on a 16-byte boundary: up to 7
    columns on either side are handled apart, so that the tiles keep 128-bit accesses. `zero` is 0 at run time and
    unknown to the compiler, which would otherwise keep the held words unpacked, in twice the registers.
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
    target_z = _points_z(row_start, target, supervised, logit_scale, softcap, SCALED, CAPPED)

    peak = tl.full([GROUPS], float("-inf"), tl.float32)
    early = tl.full([GROUPS], float("-inf"), tl.float32)
    total = tl.zeros([GROUPS], tl.float32)
    for tile in tl.static_range(HELD):
        peak, total, early = _accumulate(
            peak, total, early, held[tile], tile * GROUPS + lane, readable, target_group, logit_scale,
            softcap, DTYPE, HALVES, GROUPS, SCALED, CAPPED,
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
            peak, total, early = _accumulate(
                peak, total, early, words, groups, readable, target_group, logit_scale,
                softcap, DTYPE, HALVES, GROUPS, SCALED, CAPPED,
            )  # fmt: skip

    # One tree over both maxima, then one over the sums: two rounds of barriers instead of three.
    row_peak, row_early = tl.split(tl.max(tl.join(peak, early), axis=0))
    # Columns of the target's own group that stand before it.
    own = head + target_group * VEC + tl.arange(0, VEC)
    own_before = (own >= 0) & (own < target) & supervised
    own_z = _points_z(row_start, own, own_before, logit_scale, softcap, SCALED, CAPPED)
    row_early = tl.maximum(row_early, tl.max(own_z, axis=0))
    if EDGES:
        # Lanes 0..7 stand for the columns before the first group, lanes 8..15 for those after the last one.
        edge_lane = tl.arange(0, 16)
        edge = tl.where(edge_lane < 8, edge_lane, head + count * VEC + edge_lane - 8)
        edge_valid = tl.where(edge_lane < 8, edge_lane < head, edge < columns)
        edge_read = edge_valid & supervised
        edge_z = _points_z(row_start, edge, edge_read, logit_scale, softcap, SCALED, CAPPED)
        row_peak = tl.maximum(row_peak, tl.max(edge_z, axis=0))
        row_early = tl.maximum(row_early, tl.max(tl.where(edge < target, edge_z, float("-inf")), axis=0))
    origin = tl.where(row_peak == float("-inf"), 0.0, row_peak)
    row_total = tl.sum(total * _exp_beyond(peak, origin), axis=0)
    if EDGES:
        row_total += tl.sum(_exp_beyond(edge_z, origin), axis=0)

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

    if gradient is not None:
        scale = 1.0
        if row_scale is not None:
            scale = tl.load(row_scale + slot).to(tl.float32)
        factor = tl.where(supervised, scale / row_total, 0.0)
        unit = tl.where(supervised, scale, 0.0)
        gradient_start = gradient + row * gradient_stride
        gradient_main = gradient_start
        if EDGES:
            gradient_main = gradient_start + head
        if CONGRUENT:
            gradient_main = tl.multiple_of(gradient_main, 16)
        for tile in tl.static_range(HELD):
            _write(
                gradient_main, held[tile] ^ zero, tile * GROUPS + lane, readable, count, tile * GROUPS, target_group,
                target_lane, origin, factor, unit, logit_scale, softcap, DTYPE, HALVES, GROUPS,
                SCALED, CAPPED,
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
                _write(
                    gradient_main, words, groups, readable, count, start, target_group, target_lane, origin,
                    factor, unit, logit_scale, softcap, DTYPE, HALVES, GROUPS, SCALED, CAPPED,
                )  # fmt: skip
        if EDGES:
            edge_gradient = _exp_beyond(edge_z, origin) * factor
            edge_gradient = tl.where(edge == target, edge_gradient - unit, edge_gradient)
            edge_gradient = _sloped(edge_gradient, edge_z, edge_read, logit_scale, softcap, SCALED, CAPPED)
            tl.store(gradient_start + edge, edge_gradient.to(gradient.dtype.element_ty), mask=edge_valid)
