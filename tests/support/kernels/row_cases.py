"""Row passes computed in NumPy float64, with the error a float32 kernel is allowed on each value."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray

Array = NDArray[np.float64]
# Half an ulp of 1: the largest relative error of one rounding.
HALF_ULP = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
_U = HALF_ULP[torch.float32]
# Relative error of a sum of exponentials, in u: 2.5 of each exponential, 1 of its argument's rounding (mean of
# |z - max| e^(z - max) <= log V < 13 in the worst case), 66 of a sum of 64 terms a lane on 4 lanes.
_SUM = 82.0
# Below this, floats are subnormal and kernels may flush them.
_TINY = 2.0**-125


@dataclass(frozen=True)
class Case:
    """Arguments of one row pass; ``storage`` holds the logits and what lies around them."""

    storage: torch.Tensor
    columns: int
    targets: torch.Tensor
    rows: torch.Tensor | None = None
    row_scale: torch.Tensor | None = None
    logit_scale: float = 1.0
    softcap: float | None = None
    offset: int = 0

    @property
    def logits(self) -> torch.Tensor:
        return self.window(self.storage)

    def window(self, storage: torch.Tensor) -> torch.Tensor:
        return storage[:, self.offset : self.offset + self.columns]

    @property
    def visited(self) -> list[int]:
        return list(range(len(self.targets))) if self.rows is None else self.rows.tolist()

    @property
    def options(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "row_scale": self.row_scale,
            "logit_scale": self.logit_scale,
            "softcap": self.softcap,
        }


@dataclass(frozen=True)
class Exact:
    """Float64 results [n] and [n, V], and the absolute error allowed on each; None where either hit is right."""

    nll: Array
    nll_error: Array
    hits: list[bool | None] = field(repr=False)
    gradient: Array
    gradient_error: Array


def exact(case: Case) -> Exact:
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        return _exact(case)


def _exact(case: Case) -> Exact:
    raw = case.logits.to(torch.float64).numpy()[case.visited]
    targets = case.targets.numpy()
    scale = np.ones(len(targets)) if case.row_scale is None else case.row_scale.to(torch.float64).numpy()
    scaled = case.logit_scale * raw
    # One rounding makes the scaled logit; a softcap adds a division, a tanh (2 ulp) and a product.
    finite = np.where(np.isfinite(scaled), np.abs(scaled), 0.0)
    plain = case.logit_scale == 1.0
    z_error = 0.0 * finite if plain else 2 * _U * finite
    z, slope = scaled, np.ones_like(scaled)
    if case.softcap is not None:
        z = case.softcap * np.tanh(scaled / case.softcap)
        slope = 1 / np.cosh(scaled / case.softcap) ** 2
        z_error = np.minimum(z_error, case.softcap) + 8 * _U * np.minimum(finite, case.softcap)
        z_error = np.where(np.isfinite(scaled), z_error, 8 * _U * case.softcap)
    # In f16, unlike the others, ordinary probabilities are subnormal: then the spacing is absolute.
    dtype = case.storage.dtype
    tiny = max(_TINY, torch.finfo(dtype).tiny * HALF_ULP[dtype])
    count, columns = raw.shape
    nll, nll_error = np.zeros(count), np.zeros(count)
    gradient, gradient_error = np.zeros((count, columns)), np.zeros((count, columns))
    hits: list[bool | None] = [False] * count
    for i, target in enumerate(targets):
        if target < 0:
            continue
        largest = z[i].max()
        terms = np.exp(z[i] - largest)
        probability = terms / terms.sum()
        worst = np.nan_to_num(z_error[i]).max(initial=0.0)
        nll[i] = largest + np.log(terms.sum()) - z[i, target]
        nll_error[i] = 2 * worst + _SUM * _U + 2 * _U * abs(nll[i])
        onehot = np.arange(columns) == target
        factor = scale[i] * case.logit_scale * slope[i]
        gradient[i] = factor * (probability - onehot)
        relative = 2 * worst + (_SUM + 8) * _U
        slope_error = 0.0 if case.softcap is None else 12 * _U
        gradient_error[i] = (
            np.abs(factor) * probability * relative
            + np.abs(scale[i] * case.logit_scale) * slope_error * np.abs(probability - onehot)
            + (HALF_ULP[case.storage.dtype] + 4 * _U) * np.abs(gradient[i])
            + tiny * (1 + abs(scale[i] * case.logit_scale))
        )
        rivals = np.delete(z[i], target)
        margin = z[i, target] - rivals.max(initial=-np.inf)
        if plain and case.softcap is None:
            hits[i] = bool(z[i].argmax() == target)
        else:
            hits[i] = None if abs(margin) <= 2 * worst else bool(margin > 0)
    return Exact(nll, nll_error, hits, gradient, gradient_error)


@contextmanager
def forced(instruction_set: str) -> Iterator[None]:
    """COTBAL_CPU_ISA for a while."""
    before = os.environ.get("COTBAL_CPU_ISA")
    os.environ["COTBAL_CPU_ISA"] = instruction_set
    try:
        yield
    finally:
        if before is None:
            del os.environ["COTBAL_CPU_ISA"]
        else:
            os.environ["COTBAL_CPU_ISA"] = before


# Around every vector width and the kernel's block of 1024 columns.
_COLUMNS = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 65, 127, 1023, 1024, 1025, 1040, 2047, 2500, 4099]


@st.composite
def cases(draw: st.DrawFn, dtypes: Sequence[torch.dtype] = (torch.float32, torch.bfloat16)) -> Case:
    """Row passes of every layout and option; values are what a seed makes of the drawn magnitudes."""
    columns = draw(st.sampled_from(_COLUMNS) | st.integers(1, 80))
    total = draw(st.integers(1, 5))
    offset = draw(st.integers(0, 5))
    dtype = draw(st.sampled_from(dtypes))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    magnitude = draw(st.sampled_from([0.0, 0.1, 1.0, 10.0, 100.0]))
    values = magnitude * random.standard_normal((total, offset + columns + draw(st.integers(0, 3))))
    if draw(st.booleans()):
        values = np.round(values)  # ties
    masked = draw(st.sampled_from([0.0, 0.0, 0.1, 0.9]))
    values = np.where(random.random(values.shape) < masked, -np.inf, values)
    storage = torch.from_numpy(values).to(dtype)

    rows = None
    count = draw(st.integers(0, total))
    if draw(st.booleans()):
        rows = torch.from_numpy(random.permutation(total)[:count].astype(np.int64))
    # A row needs one logit to be left; rows without any have a test of their own.
    window = storage[:, offset : offset + columns]
    window[:, random.integers(columns)] = torch.nan_to_num(
        window[:, random.integers(columns)], neginf=magnitude / 2
    )
    empty = torch.isinf(window).all(1)
    window[empty, 0] = 0.0
    targets = torch.from_numpy(random.integers(-1, columns, count))
    if draw(st.booleans()):
        picked = window[:count] if rows is None else window[rows]
        best = picked.float().argmax(1)
        targets = torch.where(targets < 0, targets, best)

    return Case(
        storage=storage,
        columns=columns,
        targets=targets,
        rows=rows,
        row_scale=torch.from_numpy(random.exponential(size=count)).float() if draw(st.booleans()) else None,
        logit_scale=draw(st.sampled_from([1.0, 1.0, 0.25, -1.5, 3.0])) if masked == 0.0 else 1.0,
        softcap=draw(st.sampled_from([None, None, 0.5, 30.0])),
        offset=offset,
    )
