"""The longest micro-batch that a mixture can make, on which memory is estimated."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from cotbal.config.schema import Config
from cotbal.data.collate import TaskCollator
from cotbal.data.records import Record

__all__ = ["longest_batch"]

# A picture counts as many characters as a few hundred tokens have.
_CHARACTERS_OF_A_PICTURE = 2000
# How many of the records that look longest are counted in tokens, for each of the batch.
_CANDIDATES = 8


def longest_batch(
    config: Config, processor: Any, sets: Iterable[Sequence[Record]], rows: int
) -> dict[str, Any]:
    """A batch of the longest records, as the collator makes it.

    Lengths are in tokens, pictures included, among the records of most characters and pictures of each set; no row
    is longer than `max_length`.

    Args:
        sets: training records, task by task.
        rows: samples of a micro-batch.
    """
    collator = TaskCollator(
        processor, [task.name for task in config.tasks], max_length=config.max_length, on_bad="skip"
    )
    found: list[tuple[int, int, Record]] = []
    for records in sets:
        likely = sorted(records, key=_looks, reverse=True)[: max(_CANDIDATES, rows)]
        for record in likely:
            seen = collator.examine(record)
            if not seen.fatal:
                found.append((seen.tokens, -len(found), record))
    chosen: list[Record | None] = [
        record for _, _, record in sorted(found, key=lambda item: item[:2])[-rows:]
    ]
    # A mixture of fewer records than a batch has rows repeats them.
    chosen = (chosen * rows)[:rows] if chosen else [None]
    return dict(collator(chosen))


def _looks(record: Record) -> int:
    return sum(len(turn.text) for turn in record.turns) + _CHARACTERS_OF_A_PICTURE * len(record.images)
