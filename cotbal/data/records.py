"""The values that data readers produce: turns, records, problems and sets of records."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

IMAGE_PLACEHOLDER = "<image>"

Role = Literal["system", "user", "assistant"]
OnBad = Literal["refuse", "skip"]
ImageSource = Path | bytes
"""Where an image is: the path of its file, or the file's bytes."""

# How many problems an error message lists before it only counts.
SHOWN_PROBLEMS = 10
_shown = re.compile(r"^  (.+?), record (\d+): (.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation; user texts keep their `<image>` placeholders.

    `weight` multiplies the loss of an answer's tokens; an answer of weight 0 is shown and not trained on.
    """

    role: Role
    text: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Record:
    """One training or validation sample of one task.

    Attributes:
        id: the file's own id, or the record's index when it has none.
        task: name of the task it belongs to.
        images: its images, in the order of the `<image>` placeholders of its user turns: paths, or the bytes of
            image files where a table holds the images themselves.
        turns: the conversation: system turns first, then user and assistant in turn, ending with an answer.
        references: accepted answers to the last question; the last assistant turn unless the file lists others.
        source: the file it was read from.
        index: its position in that file, from 0.
    """

    id: str
    task: str
    images: tuple[ImageSource, ...]
    turns: tuple[Turn, ...]
    references: tuple[str, ...]
    source: Path
    index: int


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a record (or the rest of a file) cannot be used."""

    file: Path
    index: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}, record {self.index}: {self.reason}"


@dataclass(frozen=True)
class RecordSet:
    """The usable records of some files, and the problems of the others.

    Behaves as a sequence of its records.
    """

    records: Sequence[Record]
    problems: tuple[Problem, ...] = ()

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Record:
        return self.records[index]

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)


class BadRecordsError(ValueError):
    """Raised when records cannot be used and the caller asked to refuse them; `problems` holds them all.

    Out of a data-loading worker it comes with the problems that its message shows.
    """

    def __init__(self, problems: Iterable[Problem] | str, advice: str = "") -> None:
        if isinstance(problems, str):
            # torch makes a worker's error anew from the text of its traceback, which ends with our own message.
            text = problems.rpartition(f"{type(self).__name__}: ")[2].strip()
            self.problems = tuple(
                Problem(Path(file), int(index), reason) for file, index, reason in _shown.findall(text)
            )
            self.advice = "\n".join(line for line in text.splitlines()[1:] if not line.startswith("  "))
            super().__init__(text)
            return
        self.problems = tuple(problems)
        self.advice = advice
        count = len(self.problems)
        lines = [f"{count} bad record{'s' if count != 1 else ''}:"]
        lines += [f"  {problem}" for problem in self.problems[:SHOWN_PROBLEMS]]
        if count > SHOWN_PROBLEMS:
            lines.append(f"  ... and {count - SHOWN_PROBLEMS} more")
        if advice:
            lines.append(advice)
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[type[BadRecordsError], tuple[tuple[Problem, ...], str]]:
        # Errors travel between processes by pickle.
        return type(self), (self.problems, self.advice)


class RecordError(ValueError):
    """A raw record does not have the shape its format asks for; the text is the reason."""


@dataclass(frozen=True, slots=True)
class RawSample:
    """What a format's reader finds in a record, before paths are resolved and the conversation is checked."""

    images: tuple[str | bytes, ...]
    turns: tuple[Turn, ...]


def check_on_bad(value: str) -> None:
    """Raise ValueError unless value is "refuse" or "skip"."""
    if value not in ("refuse", "skip"):
        raise ValueError(
            f"on_bad is {value!r}; expected 'refuse' (raise an error) or 'skip' (leave out and count)"
        )
