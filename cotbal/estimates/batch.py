"""The longest micro-batch that a mixture can make, on which memory is estimated."""

from __future__ import annotations

import heapq
import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from cotbal.config.schema import Config
from cotbal.data.collate import TaskCollator
from cotbal.data.packed import PackedRecords
from cotbal.data.pictures import picture_size
from cotbal.data.records import ImageSource, Record, RecordError
from cotbal.units.data_check import record_lengths
from cotbal.units.mixture import Mixture, packed

__all__ = ["longest_batch"]

# A picture counts as many characters as a few hundred tokens have.
_CHARACTERS_OF_A_PICTURE = 2000
# How many of the records that look longest are counted in tokens for each task, and how many may be looked at for
# that: those that are cut too short to train on are passed over.
_CANDIDATES = 8
_LOOKED_AT = 64


def longest_batch(config: Config, mixture: Mixture, processor: Any, rows: int) -> dict[str, Any]:
    """A batch of the longest records, as the collator makes it, cut at `max_length`.

    Where the data have been checked, the lengths in tokens are known. Before that, the records with most characters
    and pictures of each task are counted. No picture is decoded: blank ones of the same size take their places.

    Args:
        rows: samples of a micro-batch.

    Raises:
        ValueError: the processor cannot serve such records at all.
    """
    names = [task.name for task in config.tasks]
    collator = TaskCollator(processor, names, max_length=config.max_length, on_bad="skip")
    known = _known_lengths(config)
    found: list[tuple[int, int, Record]] = []
    for name in names:
        records = packed(mixture.read(name, "train"))
        wanted = len(found) + max(rows, _CANDIDATES)
        for record in _likely(records, known, max(rows, _LOOKED_AT)):
            blank = _blank(record)
            seen = None if blank is None else collator.examine(blank)
            if blank is not None and seen is not None and not seen.fatal:
                found.append((seen.tokens, -len(found), blank))
            if len(found) == wanted:
                break
    chosen: list[Record | None] = [
        record for _, _, record in sorted(found, key=lambda item: item[:2])[-rows:]
    ]
    # A mixture of fewer records than a batch has rows repeats them.
    chosen = (chosen * rows)[:rows] if chosen else [None]
    return dict(collator(chosen))


def _known_lengths(config: Config) -> Mapping[tuple[Path, int], int]:
    """The tokens of each record by file and index; none where the check is older than the data."""
    try:
        checked = (config.output / "check" / "lengths.jsonl").stat().st_mtime
        if any(path.stat().st_mtime > checked for task in config.tasks for path in task.train):
            return {}
        return record_lengths(config)
    except (OSError, ValueError, LookupError, TypeError):
        return {}


def _likely(records: PackedRecords, known: Mapping[tuple[Path, int], int], count: int) -> list[Record]:
    """The longest records of a task, as far as can be told without the processor; made one by one."""
    if not known:
        return heapq.nlargest(count, records, key=_looks)
    lengths = [known.get(place, 0) for place in records.where()]
    return [records[number] for number in heapq.nlargest(count, range(len(lengths)), key=lengths.__getitem__)]


def _looks(record: Record) -> int:
    return sum(len(turn.text) for turn in record.turns) + _CHARACTERS_OF_A_PICTURE * len(record.images)


def _blank(record: Record) -> Record | None:
    """The record with blank pictures of the same size; None where a picture is missing or broken."""
    try:
        return replace(record, images=tuple(_blank_picture(image) for image in record.images))
    except RecordError:
        return None


def _blank_picture(source: ImageSource) -> bytes:
    stream = io.BytesIO()
    Image.new("1", picture_size(source)).save(stream, "png")
    return stream.getvalue()
