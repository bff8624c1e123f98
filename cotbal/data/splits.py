"""Nested, seeded subsets of tasks: the mini set and the plus sets of the preparation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b

from cotbal.data.packed import PackedRecords
from cotbal.data.records import Record

MINI = "mini"
PLUS_PREFIX = "plus_"


def mini_indices(count: int, fraction: float = 1 / 32, seed: int = 0, *, stream: str = "") -> list[int]:
    """Return the ascending indices of a seeded subset of ceil(fraction * count) of `count` samples.

    Every index has a rank that depends on (seed, stream, index) alone, and the subset takes the lowest ranks.
    So subsets are nested (a smaller fraction gives a part of a larger one's subset) and the same on every machine
    and in every version, and samples appended to a file do not reshuffle the others.

    Args:
        count: number of samples, at least 0.
        fraction: share to take, in (0, 1].
        seed: any integer.
        stream: a name that makes subsets with the same seed independent (the task, in `preparation_sets`).

    Raises:
        ValueError: count is negative, or fraction is outside (0, 1].

    >>> mini_indices(100, 0.05) == [i for i in mini_indices(100, 0.5) if i in mini_indices(100, 0.05)]
    True
    >>> len(mini_indices(100)), len(mini_indices(1)), mini_indices(0)
    (4, 1, [])
    """
    if count < 0:
        raise ValueError(f"count is {count}; expected 0 or more")
    _check_fraction("fraction", fraction)
    size = min(count, math.ceil(round(fraction * count, 9)))
    if size == count:
        return list(range(count))
    key = f"{seed}/{stream}/".encode()
    ranked = sorted(range(count), key=lambda index: blake2b(key + b"%d" % index, digest_size=8).digest())
    return sorted(ranked[:size])


def preparation_sets(
    records_by_task: Mapping[str, Sequence[Record]],
    *,
    mini_fraction: float = 1 / 32,
    plus_fraction: float = 1.0,
    seed: int = 0,
    measured: Sequence[str] | None = None,
) -> dict[str, Sequence[Record]]:
    """Return the training sets of the preparation's N + 1 units.

    "mini" is the union of a `mini_fraction` subset of every task; "plus_<task>" is a `plus_fraction` subset of
    that task (which contains its mini subset) and the mini subsets of all the others.

    Args:
        records_by_task: the training records of every task; of packed ones the sets are packed too.
        mini_fraction, plus_fraction: shares of a task, 0 < mini_fraction <= plus_fraction <= 1.
        seed: fixes the subsets.
        measured: tasks that get a plus set (the others take part with their mini subsets only); None: all.

    Raises:
        ValueError: there is no task, a task has no records, a measured task is missing, or the fractions are
            out of range or order.
    """
    _check_fraction("mini_fraction", mini_fraction)
    _check_fraction("plus_fraction", plus_fraction)
    if plus_fraction < mini_fraction:
        raise ValueError(f"plus_fraction ({plus_fraction}) is below mini_fraction ({mini_fraction})")
    if not records_by_task:
        raise ValueError("records_by_task is empty; expected at least one task")
    for task, records in records_by_task.items():
        if not records:
            raise ValueError(f"task {task!r} has no training records")
    chosen = list(records_by_task) if measured is None else list(measured)
    for task in chosen:
        if task not in records_by_task:
            raise ValueError(f"measured task {task!r} is not among {', '.join(records_by_task)}")

    def subset(task: str, fraction: float) -> Sequence[Record]:
        records = records_by_task[task]
        indices = mini_indices(len(records), fraction, seed, stream=task)
        if isinstance(records, PackedRecords):
            return records.select(indices)
        return [records[index] for index in indices]

    minis = {task: subset(task, mini_fraction) for task in records_by_task}
    sets = {MINI: _union(minis.values())}
    for task in chosen:
        larger = subset(task, plus_fraction)
        sets[PLUS_PREFIX + task] = _union(larger if other == task else part for other, part in minis.items())
    return sets


def _union(parts: Iterable[Sequence[Record]]) -> Sequence[Record]:
    listed = list(parts)
    packed = [part for part in listed if isinstance(part, PackedRecords)]
    if len(packed) == len(listed):
        return PackedRecords.joined(packed)
    return [record for part in listed for record in part]


def _check_fraction(name: str, value: float) -> None:
    if not 0 < value <= 1:
        raise ValueError(f"{name} is {value}; expected a number above 0 and at most 1")
