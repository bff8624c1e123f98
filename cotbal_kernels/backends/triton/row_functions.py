"""What the Triton row kernel is made of: device functions alone.

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
def tanh(x):
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
def exp_beyond(z, origin):
    # exp(z - origin). The difference comes first, though z * log2(e) - shift would be one instruction: it is exact
    # near the peak, so that a perfectly predicted token has nll and gradient 0 however large its logit.
    return tl.exp2((z - origin) * LOG2_E)


@triton.jit
def unpack(words, HALF: tl.constexpr, DTYPE: tl.constexpr):
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
def transform(x, valid, logit_scale, softcap, SCALED: tl.constexpr, CAPPED: tl.constexpr):
    # z of the raw logits; -inf outside `valid`, whatever the scale or the cap make of a masked -inf.
    z = x
    if SCALED:
        z *= logit_scale
    if CAPPED:
        z = tanh(z / softcap) * softcap
    if SCALED or CAPPED:
        z = tl.where(valid, z, float("-inf"))
    return z


@triton.jit
def points_z(row, columns, valid, logit_scale, softcap, SCALED: tl.constexpr, CAPPED: tl.constexpr):
    # z of a few single columns.
    x = tl.load(row + columns, mask=valid, other=float("-inf")).to(tl.float32)
    return transform(x, valid, logit_scale, softcap, SCALED, CAPPED)


@triton.jit
def tile_z(
    words, groups, count, logit_scale, softcap, DTYPE: tl.constexpr, HALVES: tl.constexpr,
    GROUPS: tl.constexpr, SCALED: tl.constexpr, CAPPED: tl.constexpr,
):  # fmt: skip
    # z of a tile's even and odd columns, each [GROUPS, 4]; f32 tiles have no odd ones (the even ones again).
    valid = (groups < count)[:, None]
    even = unpack(words, 0, DTYPE)
    odd = even
    if HALVES == 2:
        odd = unpack(words, 1, DTYPE)
    even = transform(even, valid, logit_scale, softcap, SCALED, CAPPED)
    if HALVES == 2:
        odd = transform(odd, valid, logit_scale, softcap, SCALED, CAPPED)
    return even, odd


@triton.jit
def moment_of(z, origin):
    # (z - origin) exp(z - origin), 0 where the exponential is.
    away = tl.maximum(z - origin, -104.0)
    return away * tl.exp2(away * LOG2_E)


@triton.jit
def moved(moment, total, peak, origin):
    # A lane's moment about another origin; without any logit so far there is nothing to move.
    apart = tl.where(peak == float("-inf"), 0.0, peak - origin)
    return (moment + apart * total) * exp_beyond(peak, origin)


@triton.jit
def accumulate(
    peak, total, early, summed, moment, words, groups, count, target_group, logit_scale, softcap,
    DTYPE: tl.constexpr, HALVES: tl.constexpr, GROUPS: tl.constexpr, SCALED: tl.constexpr, CAPPED: tl.constexpr,
    SUMMED: tl.constexpr, MOMENT: tl.constexpr,
):  # fmt: skip
    # One tile of the online pass. A lane owns a group of adjacent columns (16 bytes): the maximum and the sum inside
    # a group stay in one thread, so a group costs one rescaling exponential, not one a column, and no barrier.
    even, odd = tile_z(words, groups, count, logit_scale, softcap, DTYPE, HALVES, GROUPS, SCALED, CAPPED)
    top = tl.max(even, axis=1)
    if HALVES == 2:
        top = tl.maximum(top, tl.max(odd, axis=1))
    # The first of several equal maxima wins, so a maximum that stands before the target's group takes the hit away.
    early = tl.maximum(early, tl.where(groups < target_group, top, float("-inf")))
    new = tl.maximum(peak, top)
    origin = tl.where(new == float("-inf"), 0.0, new)
    terms = tl.sum(exp_beyond(even, origin[:, None]), axis=1)
    if HALVES == 2:
        terms += tl.sum(exp_beyond(odd, origin[:, None]), axis=1)
    if SUMMED:
        valid = (groups < count)[:, None]
        summed += tl.sum(tl.where(valid, even, 0.0), axis=1)
        if HALVES == 2:
            summed += tl.sum(tl.where(valid, odd, 0.0), axis=1)
    if MOMENT:
        moment = moved(moment, total, peak, origin) + tl.sum(moment_of(even, origin[:, None]), axis=1)
        if HALVES == 2:
            moment += tl.sum(moment_of(odd, origin[:, None]), axis=1)
    total = tl.fma(total, exp_beyond(peak, origin), terms)
    return new, total, early, summed, moment


@triton.jit
def probable(z, origin, factor, slant, constant, TERMS: tl.constexpr, SLANTED: tl.constexpr):
    # The gradient of z beside the target: factor exp(z - origin), and with terms what `RowTerms` adds to it.
    gradient = exp_beyond(z, origin) * factor
    if SLANTED:
        away = tl.maximum(z - origin, -104.0)
        gradient = tl.exp2(away * LOG2_E) * tl.fma(slant, away, factor)
    if TERMS:
        gradient -= constant
    return gradient


@triton.jit
def sloped(gradient, z, valid, logit_scale, softcap, SCALED: tl.constexpr, CAPPED: tl.constexpr):
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
def write(
    gradient, words, groups, readable, count, first_group, target_group, target_lane, origin, factor, unit,
    slant, constant, logit_scale, softcap, DTYPE: tl.constexpr, HALVES: tl.constexpr, GROUPS: tl.constexpr,
    PACKED: tl.constexpr, SCALED: tl.constexpr, CAPPED: tl.constexpr, TERMS: tl.constexpr, SLANTED: tl.constexpr,
):  # fmt: skip
    # One tile of the gradient pass: `readable` groups hold logits, `count` groups are written.
    VEC: tl.constexpr = 4 * HALVES
    valid = (groups < readable)[:, None]
    even_z, odd_z = tile_z(
        words, groups, readable, logit_scale, softcap, DTYPE, HALVES, GROUPS, SCALED, CAPPED
    )
    even = probable(even_z, origin, factor, slant, constant, TERMS, SLANTED)
    odd = even
    if HALVES == 2:
        odd = probable(odd_z, origin, factor, slant, constant, TERMS, SLANTED)
    if (target_group >= first_group) & (target_group < first_group + GROUPS):
        # In f32, before the one rounding on store: near p = 1 a rounded p would leave nothing of p - 1.
        here = (groups == target_group)[:, None]
        position = HALVES * tl.arange(0, 4)[None, :]
        even = tl.where(here & (position == target_lane), even - unit, even)
        if HALVES == 2:
            odd = tl.where(here & (position + 1 == target_lane), odd - unit, odd)
    even = sloped(even, even_z, valid, logit_scale, softcap, SCALED, CAPPED)
    if HALVES == 2:
        odd = sloped(odd, odd_z, valid, logit_scale, softcap, SCALED, CAPPED)
    written = (groups < count)[:, None]
    if PACKED:
        # As the words that were loaded: on CDNA, values stored one by one are stores of 2 or 4 bytes. (On NVIDIA they
        # are 16 bytes either way, and packing them spills registers.)
        words_out = tl.multiple_of(gradient.to(tl.pointer_type(tl.int32), bitcast=True), 16)
        if HALVES == 2:
            low = even.to(gradient.dtype.element_ty).to(tl.int16, bitcast=True).to(tl.int32) & 0xFFFF
            high = odd.to(gradient.dtype.element_ty).to(tl.int16, bitcast=True).to(tl.int32) << 16
            out = low | high
        else:
            out = even.to(tl.int32, bitcast=True)
        tl.store(
            words_out + groups[:, None] * 4 + tl.arange(0, 4)[None, :],
            out,
            mask=written,
            eviction_policy="evict_first",
        )
    else:
        tile = even
        if HALVES == 2:
            tile = tl.reshape(tl.join(even, odd), [GROUPS, VEC])
        tl.store(
            gradient + groups[:, None] * VEC + tl.arange(0, VEC)[None, :],
            tile.to(gradient.dtype.element_ty),
            mask=written,
            eviction_policy="evict_first",
        )
