"""The kernels' own exp and tanh, value by value against NumPy float64."""

import numpy as np
import pytest
import torch

native = pytest.importorskip("cotbal_kernels.backends.native.backend")
if native.missing() is not None:
    pytest.skip(str(native.missing()), allow_module_level=True)
from cotbal_kernels.backends.native import _native  # noqa: E402

SETS = [name for name, supported in native.instruction_sets().items() if supported]
every_set = pytest.mark.parametrize("instruction_set", SETS)
# What the comments of csrc/vector_math.hpp derive.
EXP_ULPS = 1.25
TANH_ULPS = 2.5


def computed(function: str, values: np.ndarray, instruction_set: str) -> np.ndarray:
    output = torch.full((len(values),), float("nan"))
    _native.elementwise(function, torch.from_numpy(values), output, instruction_set)
    return output.numpy()


def floats(first: float, last: float, step: int) -> np.ndarray:
    """Every step-th float32 from first to last, of one sign."""
    low, high = sorted(int(np.float32(x).view(np.uint32)) for x in (first, last))
    return np.arange(low, high + 1, step, dtype=np.uint32).view(np.float32)


def ulps_off(found: np.ndarray, exact: np.ndarray) -> float:
    spacing = np.spacing(np.abs(exact.astype(np.float32))).astype(np.float64)
    return float((np.abs(found.astype(np.float64) - exact) / spacing).max())


@every_set
@pytest.mark.parametrize("step", [997, pytest.param(1, marks=pytest.mark.soak)])
def test_exp(instruction_set: str, step: int) -> None:
    """Every normal result: arguments from the smallest to -87.3."""
    worst = 0.0
    values = floats(-0.0, -87.33, step)
    for part in np.array_split(values, max(1, len(values) // 2**22)):
        exact = np.exp(part.astype(np.float64))
        worst = max(worst, ulps_off(computed("exp", part, instruction_set), exact))
    assert worst <= EXP_ULPS


@every_set
@pytest.mark.parametrize("step", [997, pytest.param(1, marks=pytest.mark.soak)])
def test_tanh(instruction_set: str, step: int) -> None:
    worst = 0.0
    positive = floats(2.0**-126, 100.0, step)
    for part in np.array_split(positive, max(1, len(positive) // 2**22)):
        for values in (part, -part):
            exact = np.tanh(values.astype(np.float64))
            worst = max(worst, ulps_off(computed("tanh", values, instruction_set), exact))
    assert worst <= TANH_ULPS


@every_set
def test_special_values(instruction_set: str) -> None:
    special = np.array([0.0, -0.0, -np.inf, np.nan, -1e30, -88.5, -87.8], dtype=np.float32)
    np.testing.assert_array_equal(computed("exp", special, instruction_set), [1, 1, 0, np.nan, 0, 0, 0])
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e30, -50.0], dtype=np.float32)
    np.testing.assert_array_equal(computed("tanh", special, instruction_set), [0, 0, 1, -1, np.nan, 1, -1])


@every_set
def test_exp_is_monotone_where_it_vanishes(instruction_set: str) -> None:
    """Between the last normal result and 0 nothing jumps up again."""
    values = floats(-87.0, -89.0, 1)
    found = computed("exp", values, instruction_set)
    assert (np.diff(found.astype(np.float64)) <= np.spacing(found[:-1]).astype(np.float64)).all()
    assert found[-1] == 0


def test_refuses_what_it_cannot_index() -> None:
    with pytest.raises(ValueError, match=r"output must have the shape \[3\]"):
        _native.elementwise("exp", torch.zeros(3), torch.zeros(2), "portable")
    with pytest.raises(ValueError, match="'exp' or 'tanh'"):
        _native.elementwise("log", torch.zeros(3), torch.zeros(3), "portable")
