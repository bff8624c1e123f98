"""Many records in a few blocks of memory, which forked data-loading workers share without copying.

Python counts the references to an object in the object itself: a worker that only reads a list of records writes to
all of its pages, and each worker ends with a copy of its own. A block is also a fraction of the size of the objects.
"""

from __future__ import annotations

import marshal
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from cotbal.data.plain_llava import MARK, plain_fields
from cotbal.data.records import ImageSource, Record, RecordSet, Role, Turn

__all__ = ["PackedRecords", "Packer", "mixes_images"]

Indices = NDArray[np.int64]


class _Block:
    """Records one after the other, each packed, with what is asked of all of them in columns beside.

    The plainest are joined texts. `marshal` packs the others: it is the fastest serialiser there is for texts and
    numbers, and what it writes never leaves this process and those that it starts.
    """

    def __init__(
        self,
        packed: bytearray,
        ends: Indices,
        indices: Indices,
        sources: NDArray[np.int32],
        files: list[Path],
    ) -> None:
        self.packed = packed
        self.ends = ends
        self.indices = indices
        self.sources = sources
        self.files = files

    def packed_record(self, place: int) -> bytes:
        start, end = int(self.ends[place]), int(self.ends[place + 1])
        return bytes(memoryview(self.packed)[start:end])

    def record(self, place: int) -> Record:
        found = self.packed_record(place)
        source, index = self.files[self.sources[place]], int(self.indices[place])
        if found[0] == MARK:
            name, task, image, texts = plain_fields(found)
            return Record(name, task, _paths(image), _in_turn(texts), texts[-1:], source, index)
        name, task, images, turns, references = marshal.loads(found)
        said = tuple([Turn(*turn) for turn in turns])
        return Record(name, task, tuple(map(_source, images)), said, references, source, index)

    def images(self, place: int) -> tuple[str | bytes, ...]:
        found = self.packed_record(place)
        if found[0] == MARK:
            return (plain_fields(found)[2],)
        images: tuple[str | bytes, ...] = marshal.loads(found)[2]
        return images


class Packer:
    """Packs records as they come."""

    def __init__(self) -> None:
        self._packed = bytearray()
        self._ends = array("q", [0])
        self._indices = array("q")
        self._sources = array("i")
        self._pictures = array("i")
        self._files: dict[Path, int] = {}
        self._latest: Path | None = None
        self._number = 0

    def add(self, record: Record) -> None:
        images = tuple([image if isinstance(image, bytes) else str(image) for image in record.images])
        turns = tuple([(turn.role, turn.text, turn.weight) for turn in record.turns])
        packed = marshal.dumps((record.id, record.task, images, turns, record.references))
        self.add_packed(packed, len(images), record.source, record.index)

    def add_packed(self, packed: bytes, images: int, source: Path, index: int) -> None:
        """Add a record that was never made an object, in the form that `packed_plainly` gives it."""
        self._packed += packed
        self._ends.append(len(self._packed))
        self._indices.append(index)
        if source is not self._latest:
            # A path's hash takes longer than all else here.
            self._number = self._files.setdefault(source, len(self._files))
            self._latest = source
        self._sources.append(self._number)
        self._pictures.append(images)

    def records(self) -> PackedRecords:
        """What was packed; nothing can be added afterwards."""
        block = _Block(
            self._packed,
            np.array(self._ends, dtype=np.int64),
            np.array(self._indices, dtype=np.int64),
            np.array(self._sources, dtype=np.int32),
            list(self._files),
        )
        pictures = np.array(self._pictures, dtype=np.int32)
        return PackedRecords._of((block,), np.arange(len(pictures)), pictures)


class PackedRecords(Sequence[Record]):
    """A sequence of records that are made anew whenever one is asked for.

    >>> record = Record("7", "t", (), (Turn("user", "q"), Turn("assistant", "x")), ("x",), Path("a.json"), 0)
    >>> PackedRecords([record, record])[1] == record
    True
    """

    _blocks: tuple[_Block, ...]
    _starts: Indices
    _places: Indices
    pictures: NDArray[np.int32]
    """How many pictures each record has."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        packer = Packer()
        for record in records:
            packer.add(record)
        made = packer.records()
        self._set(made._blocks, made._places, made.pictures)

    @classmethod
    def _of(cls, blocks: tuple[_Block, ...], places: Indices, pictures: NDArray[np.int32]) -> PackedRecords:
        made = cls.__new__(cls)
        made._set(blocks, places, pictures)
        return made

    def _set(self, blocks: tuple[_Block, ...], places: Indices, pictures: NDArray[np.int32]) -> None:
        self._blocks = blocks
        self._places = places
        self.pictures = pictures
        self._starts = np.cumsum([0, *(len(block.indices) for block in blocks)])

    @classmethod
    def joined(cls, parts: Sequence[PackedRecords]) -> PackedRecords:
        """All records of several sequences, in order; the records themselves are not copied."""
        blocks: dict[int, _Block] = {}
        for part in parts:
            blocks |= {id(block): block for block in part._blocks}
        listed = tuple(blocks.values())
        starts = dict(zip(blocks, np.cumsum([0, *(len(block.indices) for block in listed)]), strict=False))
        places = [part._places_within(starts) for part in parts]
        pictures = [part.pictures for part in parts]
        if not parts:
            return cls()
        return cls._of(listed, np.concatenate(places), np.concatenate(pictures))

    def _places_within(self, starts: dict[int, Any]) -> Indices:
        moved = np.array([starts[id(block)] for block in self._blocks], dtype=np.int64) - self._starts[:-1]
        found: Indices = self._places + moved[self._block_of(self._places)]
        return found

    def _block_of(self, places: Any) -> Any:
        return np.searchsorted(self._starts, places, side="right") - 1

    def select(self, indices: Sequence[int] | Indices) -> PackedRecords:
        """Some of the records, in the given order; the records themselves are not copied."""
        chosen = np.asarray(indices, dtype=np.int64)
        return self._of(self._blocks, self._places[chosen], self.pictures[chosen])

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        block, place = self._at(index)
        return block.record(place)

    def _at(self, index: int) -> tuple[_Block, int]:
        place = int(self._places[index])
        number = 0 if len(self._blocks) == 1 else int(self._block_of(place))
        return self._blocks[number], place - int(self._starts[number])

    def where(self) -> Iterator[tuple[Path, int]]:
        """The file and the index in it of every record, without unpacking any."""
        for number in range(len(self)):
            block, place = self._at(number)
            yield block.files[block.sources[place]], int(block.indices[place])

    def images(self) -> Iterator[tuple[str | bytes, ...]]:
        """The images of every record, paths as texts, without making the records."""
        for number in range(len(self)):
            if self.pictures[number]:
                block, place = self._at(number)
                yield block.images(place)
            else:
                yield ()


def _source(image: str | bytes) -> ImageSource:
    return image if isinstance(image, bytes) else Path(image)


def _paths(image: str) -> tuple[Path, ...]:
    return (Path(image),) if image else ()


def _in_turn(texts: tuple[str, ...]) -> tuple[Turn, ...]:
    roles: tuple[Role, Role] = ("user", "assistant")
    return tuple([Turn(roles[place % 2], text) for place, text in enumerate(texts)])


def mixes_images(records: Iterable[Record]) -> bool:
    """True where some records have images and others have none."""
    if isinstance(records, RecordSet):
        records = records.records
    if isinstance(records, PackedRecords):
        return bool(records.pictures.any()) and not bool(records.pictures.all())
    kinds = set()
    for record in records:
        kinds.add(bool(record.images))
        if len(kinds) == 2:
            return True
    return False
