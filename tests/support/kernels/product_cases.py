"""Matrix products for the native kernels: shapes around their tiles and blocks, every layout and dtype."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import strategies as st
from support.kernels.row_cases import HALF_ULP, Array

# The inner dimension is summed in blocks of at most this many, one after the other.
INNER_BLOCK = 512
DTYPES = (torch.float32, torch.bfloat16)


@dataclass(frozen=True)
class ProductCase:
    """``out (+)= left @ right.T``; each matrix is a window of a storage that may be wider, or lies transposed."""

    left: torch.Tensor
    right: torch.Tensor
    out_dtype: torch.dtype
    accumulate: bool
    margin: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        return self.left.shape[0], self.right.shape[0]

    def storage(self) -> torch.Tensor:
        """Where the output lies; what it holds is added to, or poison."""
        rows, columns = self.shape
        whole = torch.full((rows, columns + self.margin), float("nan"))
        if self.accumulate:
            whole[:, :columns] = torch.linspace(-1.0, 1.0, rows * columns).reshape(rows, columns)
        return whole.to(self.out_dtype)

    def window(self, storage: torch.Tensor) -> torch.Tensor:
        return storage[:, : self.shape[1]]


def exact_product(case: ProductCase) -> tuple[Array, Array]:
    """The product in float64, and the error allowed on each value.

    A float sum of n terms is off by at most n + 1 half ulps of the sum of their magnitudes, multiplications
    included; here n is at most a block's terms, then one for each block and one for what is added to.
    """
    left, right = (factor.to(torch.float64).numpy() for factor in (case.left, case.right))
    inner = left.shape[1]
    value, magnitude = left @ right.T, np.abs(left) @ np.abs(right).T
    if case.accumulate:
        before = case.window(case.storage()).to(torch.float64).numpy()
        value, magnitude = value + before, magnitude + np.abs(before)
    terms = min(inner, INNER_BLOCK) + -(-inner // INNER_BLOCK) + 3
    allowed = terms * HALF_ULP[torch.float32] * magnitude * (1 + 1e-3)
    if case.out_dtype != torch.float32:
        allowed = allowed + HALF_ULP[case.out_dtype] * (np.abs(value) + allowed)
    return value, allowed


def factor(
    lanes: int, inner: int, dtype: torch.dtype, along_lanes: bool, margin: int, seed: int
) -> torch.Tensor:
    """Normal values [lanes, inner], in rows or in columns that are `margin` elements apart."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = (inner, lanes) if along_lanes else (lanes, inner)
    # Exactly as large as its contents: one element past the last is past the allocation.
    flat = torch.randn((rows - 1) * (columns + margin) + columns, generator=generator).to(dtype)
    matrix = flat.as_strided((rows, columns), (columns + margin, 1))
    return matrix.t() if along_lanes else matrix


@st.composite
def product_cases(draw: st.DrawFn) -> ProductCase:
    lanes = st.one_of(st.integers(1, 40), st.integers(1, 40), st.sampled_from([145, 193]))
    inner = draw(st.one_of(st.integers(1, 40), st.sampled_from([512, 513, 1025])))
    margin = st.sampled_from([0, 1, 5])
    sides = [
        factor(
            draw(lanes),
            inner,
            draw(st.sampled_from(DTYPES)),
            draw(st.booleans()),
            draw(margin),
            draw(st.integers(0, 2**31)),
        )
        for _ in range(2)
    ]
    dtype = draw(st.sampled_from(DTYPES))
    return ProductCase(
        sides[0], sides[1], dtype, dtype == torch.float32 and draw(st.booleans()), draw(margin)
    )
