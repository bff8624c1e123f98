"""Many records in two blocks of memory, which forked data-loading workers share without copying.

Python counts the references to an object in the object itself: a worker that only reads a list of records writes to
all of its pages, and each worker ends with a copy of its own.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import overload

import numpy as np

from cotbal.data.records import Record, Turn

__all__ = ["PackedRecords"]


class PackedRecords(Sequence[Record]):
    """A sequence of records that are made anew whenever one is asked for.

    >>> record = Record("7", "t", (), (Turn("user", "q"), Turn("assistant", "x")), ("x",), Path("a.json"), 0)
    >>> PackedRecords([record, record])[1] == record
    True
    """

    def __init__(self, records: Iterable[Record]) -> None:
        packed = bytearray()
        ends = [0]
        for record in records:
            packed += pickle.dumps(_plain(record), protocol=5)
            ends.append(len(packed))
        self._packed = bytes(packed)
        self._ends = np.array(ends, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        place = index % len(self)
        start, end = int(self._ends[place]), int(self._ends[place + 1])
        return _record(*pickle.loads(memoryview(self._packed)[start:end]))


Plain = tuple[
    str,
    str,
    tuple[str | bytes, ...],
    tuple[tuple[str, str, float], ...],
    tuple[str, ...],
    str,
    int,
]


def _plain(record: Record) -> Plain:
    images = tuple(image if isinstance(image, bytes) else str(image) for image in record.images)
    turns = tuple((turn.role, turn.text, turn.weight) for turn in record.turns)
    return record.id, record.task, images, turns, record.references, str(record.source), record.index


def _record(
    name: str,
    task: str,
    images: tuple[str | bytes, ...],
    turns: tuple[tuple[str, str, float], ...],
    references: tuple[str, ...],
    source: str,
    index: int,
) -> Record:
    return Record(
        id=name,
        task=task,
        images=tuple(image if isinstance(image, bytes) else Path(image) for image in images),
        turns=tuple(Turn(role, text, weight) for role, text, weight in turns),  # type: ignore[arg-type]
        references=references,
        source=Path(source),
        index=index,
    )
