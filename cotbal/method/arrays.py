"""Arguments of the public functions as float64 arrays, or an error that names them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.str_]


def float_array(name: str, values: Any, *, ndim: int, allow_nan: bool = False) -> FloatArray:
    """A float64 copy of `values`, which must have `ndim` dimensions and finite entries.

    With `allow_nan` an entry may be NaN (an undefined value) but still not infinite.

    Raises:
        TypeError: `values` is not made of real numbers.
        ValueError: wrong number of dimensions, no entries, or an entry that is not finite.
    """
    try:
        given = np.asarray(values)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be an array of real numbers; found {type(values).__name__}") from error
    if given.dtype.kind not in "fiub":
        raise TypeError(f"{name} must be made of real numbers; found {_kind(values, given)}")
    if given.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} dimension(s); found shape {given.shape}")
    if given.size == 0:
        raise ValueError(f"{name} is empty; at least one entry is needed")
    array = np.array(given, dtype=np.float64)
    bad = np.isinf(array) if allow_nan else ~np.isfinite(array)
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        index = where[0] if ndim == 1 else where
        raise ValueError(f"{name}[{index}] is {array[where]}; finite numbers are needed")
    return array


def _kind(values: Any, array: npt.NDArray[Any]) -> str:
    if array.dtype.kind == "O":
        return f"a {type(values).__name__} of objects or of sequences of unequal length"
    return f"dtype {array.dtype}"


def same_length(length: int, **arrays: FloatArray) -> None:
    """Every array must have `length` entries along each of its dimensions."""
    for name, array in arrays.items():
        if array.shape != (length,) * array.ndim:
            wanted = (length,) * array.ndim
            raise ValueError(f"{name} has shape {array.shape}; {wanted} is needed for {length} task(s)")


def directions(value: Any, tasks: Sequence[str] | int) -> tuple[bool, ...]:
    """`higher_is_better` as one bool per task: from one bool, one per task in order, or a mapping by name."""
    count = tasks if isinstance(tasks, int) else len(tasks)
    if isinstance(value, (bool, np.bool_)):
        return (bool(value),) * count
    if isinstance(value, Mapping):
        if isinstance(tasks, int):
            raise TypeError(
                "higher_is_better: a mapping by task name needs named tasks; give one bool per task"
            )
        if set(value) != set(tasks):
            raise ValueError(
                f"higher_is_better names the tasks {sorted(value)}; the tasks are {sorted(tasks)}"
            )
        entries = [value[task] for task in tasks]
    else:
        try:
            entries = list(value)
        except TypeError:
            raise TypeError(
                f"higher_is_better must be a bool or one bool per task; found {type(value).__name__}"
            ) from None
    if len(entries) != count:
        raise ValueError(f"higher_is_better has {len(entries)} entries; there are {count} task(s)")
    for index, entry in enumerate(entries):
        if not isinstance(entry, (bool, np.bool_)):
            raise TypeError(f"higher_is_better[{index}] is {entry!r}; True or False is needed")
    return tuple(bool(entry) for entry in entries)


def positive(name: str, value: Any) -> float:
    """A finite number above 0."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} must be a number; found {type(value).__name__}")
    number = float(value)
    if not math.isfinite(number) or number <= 0:
        raise ValueError(f"{name} is {number}; a finite number above 0 is needed")
    return number
