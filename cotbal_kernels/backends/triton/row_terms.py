"""The terms of a row pass as the Triton kernel takes them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from cotbal_kernels.backends.base import WRITTEN, RowTerms


def arguments(terms: RowTerms | None) -> tuple[Tensor | float | None, ...]:
    """The row kernel's arguments after `zero`."""
    if terms is None:
        return (None, None, None, None, None, None, None, 0.0, 0.0)
    read = (terms.softmax_shift, terms.target_shift, terms.entropy_scale)
    return (
        *(None if each is None else each.contiguous() for each in read),
        terms.lse,
        terms.mean,
        terms.entropy,
        terms.peak,
        float(terms.label_smoothing),
        float(terms.lse_square_scale),
    )


def spread(terms: RowTerms, rows: Tensor, positions: int) -> RowTerms:
    """The terms of some rows as those of all positions; what is to be filled is fresh."""
    vectors: dict[str, Any] = {
        name: value.new_empty(positions)
        if name in WRITTEN
        else value.new_zeros(positions).index_copy_(0, rows, value)
        for name, value in terms.vectors().items()
    }
    return replace(terms, **vectors)
