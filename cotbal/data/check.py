"""Checking records before anything is trained: each goes alone through everything that training does to it.

`inspect_records` does it in worker processes, at the speed of decoding; `summarise` makes of what was found one line
per task and split. Nothing here reads a config: the processor is handed in.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

from torch.utils.data import DataLoader, Dataset

from cotbal.data.collate import TaskCollator
from cotbal.data.packed import PackedRecords
from cotbal.data.pictures import picture_size
from cotbal.data.pictures_io import read_picture_bytes
from cotbal.data.records import Problem, Record, RecordError
from cotbal.data.splits import mini_indices

Mode = Literal["full", "quick"]

# Of a quick check: how many records of a set are looked at whole.
QUICK_SAMPLE = 64
_CHUNK = 8
# Headers are read so fast that handing findings over must not cost more.
_HEADERS_CHUNK = 256
# Below this many records, starting processes costs more than it saves.
_WORTH_PROCESSES = 512
_particular = re.compile(r"""'[^']*'|"[^"]*"|\S*/\S*|-?\d+(?:\.\d+)?""")


@dataclass(frozen=True, slots=True)
class Finding:
    """What the check found of one record.

    Attributes:
        reason: why it cannot be used, or None.
        cut: truncation takes answers from it, but leaves others.
        pictures, tokens, answer_tokens: how many; tokens are 0 where it was not looked at whole.
        digest: of its texts and the content of its pictures; empty where it was not looked at whole.
        notes: what was said of its chat template.
    """

    reason: str | None
    cut: str | None = None
    pictures: int = 0
    tokens: int = 0
    answer_tokens: int = 0
    digest: bytes = b""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class SetSummary:
    """One split of one task, checked.

    Attributes:
        records: how many the files hold, broken ones included.
        looked_at: how many were looked at whole; fewer than `records` in a quick check.
        longest: tokens of the longest record, images included.
        truncated: records that lose answers, but not all, to `max_length`.
        duplicates: records whose texts and pictures are also in training data (of validation and test sets).
        problems: the records that cannot be used.
        notes: what was said of the chat template.
    """

    task: str
    split: str
    records: int
    looked_at: int
    pictures: int
    answer_tokens: int
    longest: int
    truncated: int
    duplicates: int
    problems: tuple[Problem, ...]
    notes: tuple[str, ...] = ()

    @property
    def usable(self) -> int:
        """Records that are left."""
        return self.records - len(self.problems)

    @property
    def reasons(self) -> dict[str, int]:
        """How many records each kind of problem costs, most first."""
        kinds = Counter(kind_of_reason(problem.reason) for problem in self.problems)
        return dict(kinds.most_common())


@dataclass(frozen=True)
class RecordCheck:
    """Examines records; made once, used in every worker.

    Args:
        processor: as for `TaskCollator`.
        max_length: longest row in tokens; None where nothing is truncated (sets that are scored by generation).
        whole: look at everything; otherwise at the headers of the pictures only.
    """

    processor: Any
    max_length: int | None = None
    whole: bool = True
    _collators: dict[str, TaskCollator] = field(default_factory=dict, repr=False, compare=False)

    def __call__(self, records: Sequence[Record]) -> list[Finding | None]:
        """What was found of each record; None where nothing was, in headers.

        Raises:
            ValueError: the processor cannot serve such records at all.
        """
        return [self._of(record) if self.whole else _headers(record) for record in records]

    def _of(self, record: Record) -> Finding:
        if record.task not in self._collators:
            self._collators[record.task] = TaskCollator(self.processor, [record.task], self.max_length)
        seen = self._collators[record.task].examine(record)
        count = len(record.images)
        if seen.fatal:
            return Finding(seen.problem, pictures=count)
        return Finding(
            None, seen.problem, count, seen.tokens, seen.answer_tokens, content_digest(record), seen.notes
        )


def inspect_records(
    records: Sequence[Record],
    processor: Any,
    *,
    max_length: int | None = None,
    mode: Mode = "full",
    workers: int | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> list[Finding]:
    """One finding per record, in order.

    Args:
        mode: "quick" looks at the headers of all pictures, and at `QUICK_SAMPLE` records whole.
        workers: processes; None: as many as there are processors, none for small sets; 0: this process alone.
        advance: told how many records more are done.

    Raises:
        ValueError: the processor cannot serve such records at all.
    """
    sample = set(range(len(records)))
    if mode == "quick":
        share = min(1.0, QUICK_SAMPLE / max(1, len(records)))
        sample = set(mini_indices(len(records), share, stream="check"))
    whole = _Some(records, sorted(sample))
    counts = _picture_counts(records)
    # Without pictures there is no header to look at.
    rest = _Some(records, [index for index, count in enumerate(counts) if count and index not in sample])
    found: dict[int, Finding | None] = {}
    check = RecordCheck(processor, max_length)
    # What the processor cannot do at all is raised here, not as a traceback out of a worker.
    check(records[:1])
    for part, look in ((whole, check), (rest, RecordCheck(None, whole=False))):
        done = 0
        for findings in _mapped(look, part, workers):
            found.update(zip(part.indices[done:], findings, strict=False))
            done += len(findings)
            advance(len(findings))
    advance(len(records) - len(whole) - len(rest))
    sound = {count: Finding(None, pictures=count) for count in set(counts)}
    return [found.get(index) or sound[count] for index, count in enumerate(counts)]


def _picture_counts(records: Sequence[Record]) -> list[int]:
    if isinstance(records, PackedRecords):
        counts: list[int] = records.pictures.tolist()
        return counts
    return [len(record.images) for record in records]


class _Some(Dataset[Record]):
    """Some of the records, by index; nothing is copied."""

    def __init__(self, records: Sequence[Record], indices: Sequence[int]) -> None:
        self.records = records
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Record:
        return self.records[self.indices[index]]


def _mapped(check: RecordCheck, part: _Some, workers: int | None) -> Iterable[list[Finding | None]]:
    if not len(part):
        return
    if workers is None:
        workers = len(os.sched_getaffinity(0)) if len(part) >= _WORTH_PROCESSES else 0
    if workers:
        part = _Some(_packed(part), range(len(part)))
    loader: DataLoader[Record] = DataLoader(
        part,
        batch_size=_CHUNK if check.whole else _HEADERS_CHUNK,
        num_workers=workers,
        collate_fn=check,
        multiprocessing_context=multiprocessing.get_context("fork") if workers else None,
        prefetch_factor=8 if workers else None,
    )
    with warnings.catch_warnings():
        # The workers decode and tokenize; the locks of this process's threads are none of theirs.
        warnings.filterwarnings("ignore", message=".*multi-threaded.*fork", category=DeprecationWarning)
        yield from loader


def _packed(part: _Some) -> PackedRecords:
    if isinstance(part.records, PackedRecords):
        return part.records.select(part.indices)
    return PackedRecords(part[index] for index in range(len(part)))


def _headers(record: Record) -> Finding | None:
    try:
        for image in record.images:
            picture_size(image)
    except RecordError as error:
        return Finding(str(error), pictures=len(record.images))
    return None


def content_digest(record: Record) -> bytes:
    """A digest of a record's texts and of its pictures' files: equal content, equal digest, whatever the names."""
    digest = blake2b(digest_size=16)
    for turn in record.turns:
        digest.update(f"{turn.role}\0{turn.text}\0".encode())
    for image in record.images:
        content = read_picture_bytes(image) if isinstance(image, Path) else image
        digest.update(blake2b(content, digest_size=16).digest())
    return digest.digest()


def summarise(
    task: str,
    split: str,
    records: Sequence[Record],
    findings: Sequence[Finding],
    unread: Sequence[Problem] = (),
    *,
    refuse_cut: bool = False,
    trained_on: frozenset[bytes] = frozenset(),
) -> SetSummary:
    """What was found of one set.

    Args:
        unread: problems that reading the files found; their records are not among `records`.
        refuse_cut: a record that loses some of its answers to truncation counts as a problem too.
        trained_on: digests of all training records, for validation and test sets.
    """
    problems = [*unread]
    for position, finding in enumerate(findings):
        reason = finding.reason or (finding.cut if refuse_cut else None)
        if reason is not None:
            # Not all of them: packed records are made anew when they are asked for.
            problems.append(Problem(records[position].source, records[position].index, reason))
    problems.sort(key=lambda problem: (str(problem.file), problem.index))
    notes = dict.fromkeys(note for finding in findings for note in finding.notes)
    told: dict[str, str] = {}
    for note in notes:
        told.setdefault(note[:40], note)
    return SetSummary(
        task=task,
        split=split,
        records=len(records) + len(unread),
        looked_at=sum(bool(finding.tokens) or finding.reason is not None for finding in findings)
        + len(unread),
        pictures=sum(finding.pictures for finding in findings),
        answer_tokens=sum(finding.answer_tokens for finding in findings),
        longest=max((finding.tokens for finding in findings), default=0),
        truncated=sum(finding.cut is not None for finding in findings),
        duplicates=sum(finding.digest in trained_on for finding in findings if finding.digest),
        problems=tuple(problems),
        notes=tuple(told.values()),
    )


def kind_of_reason(reason: str) -> str:
    """A reason without what is particular to one record: names, places and numbers.

    >>> kind_of_reason("image /data/7.png cannot be decoded: broken")
    'image ... cannot be decoded: broken'
    """
    return _particular.sub("...", reason)[:100]
