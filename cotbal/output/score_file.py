"""Reading what a unit has written, line by line, held to its seal and to its form."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cotbal.atomic import read_file
from cotbal.config.yaml_file import ConfigError
from cotbal.output.seals import bytes_damage

__all__ = ["DamagedFileError", "SampleScore", "read_json_lines", "read_scores"]

_REDO = "add --redo to do it again"


class DamagedFileError(ConfigError):
    """A file that cotbal wrote is not as it was written."""


@dataclass(frozen=True)
class SampleScore:
    """The score of one sample of one task, and what it was given for."""

    task: str
    index: int
    id: str
    group: str
    prediction: str | None
    references: tuple[str, ...]
    score: float


def read_json_lines(
    path: Path, seal: str | None = None, *, torn: bool = False
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each line's number, from 1, and its values; what is read is what is checked.

    Args:
        path: a file of `json_line`'s.
        seal: of the file; None where there is none.
        torn: the last line may be half written, and is then left out.

    Raises:
        DamagedFileError: the file is not as it was sealed, or a line is not an object of JSON.
    """
    content = read_file(path)
    found = None if seal is None else bytes_damage(path, content, seal)
    if found is not None:
        raise DamagedFileError(f"{found}; {_REDO}")
    # Lines as `json_line` ends them; `splitlines` would also split at separators inside of strings.
    *lines, rest = content.split(b"\n")
    if torn:
        rest = b""
    for number, line in enumerate([*lines, rest] if rest else lines, 1):
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, dict) or (rest and number > len(lines)):
            raise DamagedFileError(f"{path}:{number}: not a whole line of JSON; {_REDO}")
        yield number, values


def read_scores(path: Path, seal: str | None = None) -> list[SampleScore]:
    """The scores in a file: samples of each task in order, numbered from 0, each with a finite score.

    Raises:
        ConfigError: there is no such file.
        DamagedFileError: it is not as it was sealed, or a line is no score, is out of order or has no finite score.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such file; this unit has not been scored yet")
    found: list[SampleScore] = []
    next_index: dict[str, int] = {}
    for number, values in read_json_lines(path, seal):
        score = _score(values)
        if score is None:
            raise DamagedFileError(f"{path}:{number}: not a score; {_REDO}")
        expected = next_index.get(score.task, 0)
        if score.index != expected:
            raise DamagedFileError(
                f"{path}:{number}: sample {score.index} of task {score.task!r} in the place of sample "
                f"{expected}; {_REDO}"
            )
        next_index[score.task] = expected + 1
        found.append(score)
    return found


def _score(values: dict[str, Any]) -> SampleScore | None:
    try:
        references = values["references"]
        score = SampleScore(**{**values, "references": tuple(references)})
    except (TypeError, KeyError):
        return None
    texts = (score.task, score.id, score.group, *score.references)
    fits = (
        isinstance(references, list)
        and all(isinstance(text, str) for text in texts)
        and type(score.index) is int
        and (score.prediction is None or isinstance(score.prediction, str))
        and type(score.score) is float
        and math.isfinite(score.score)
    )
    return score if fits else None
