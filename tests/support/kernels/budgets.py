"""How far a result may lie from the exact one: twice (what a plain computation errs + one rounding)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

Array = npt.NDArray[np.float64]
# Half an ulp of 1: the largest relative error of one rounding.
UNIT = {torch.float64: 2.0**-53, torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
# Half the smallest subnormal: the largest absolute error of rounding something tiny. Kernels may flush
# subnormals of f32 and bf16, so those get the smallest normal.
TINY = {
    torch.float64: 2.0**-1022,
    torch.float32: 2.0**-126,
    torch.float16: 2.0**-25,
    torch.bfloat16: 2.0**-126,
}


def exact(value: torch.Tensor) -> Array:
    """A tensor of any dtype as float64."""
    return np.asarray(value.detach().to("cpu", torch.float64).numpy(), np.float64)


def worst(value: Array, axes: tuple[int, ...]) -> Array:
    """Largest magnitude along some axes, kept for broadcasting; 0 where there is nothing."""
    return (
        np.max(np.abs(value), axis=axes, initial=0.0, keepdims=True) if value.size else np.zeros_like(value)
    )


def assert_within_budget(
    what: str,
    actual: torch.Tensor,
    plain: torch.Tensor,
    truth: Array,
    band: Array | float,
    axes: tuple[int, ...] | None = None,
) -> None:
    """Assert |actual - truth| <= 2 (error of plain + band) for every entry.

    Args:
        plain: the plain computation in the same precision; its largest error along ``axes`` counts (all
            axes where ``None``), since a single entry of it may be right by luck.
        band: what one rounding may change in each entry, and the unavoidable error of the working precision.
    """
    assert actual.shape == truth.shape, f"{what}: shape {tuple(actual.shape)}, expected {truth.shape}"
    if truth.size == 0:
        return
    found = exact(actual)
    every = tuple(range(truth.ndim)) if axes is None else axes
    plain_error = worst(np.nan_to_num(exact(plain) - truth, nan=0.0), every)
    same = found == truth  # infinities that agree have no difference
    with np.errstate(invalid="ignore"):
        error = np.where(same, 0.0, np.abs(found - truth))
        allowed = 2 * (plain_error + band)
    bad = ~(error <= allowed)
    if bad.any():
        at = tuple(int(each) for each in np.argwhere(bad)[0])
        raise AssertionError(
            f"{what}{list(at)}: got {found[at]!r}, exact {truth[at]!r}, error {error[at]:.3g}, "
            f"allowed {np.broadcast_to(allowed, truth.shape)[at]:.3g}; {int(bad.sum())} of {bad.size} entries"
        )
