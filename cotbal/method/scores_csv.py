"""Score tables as CSV files, so that scores made with other tools can be weighed too.

One row per score, with the columns

    model, task, score                  needed: a model id (`mini`, `plus_<task>`, ...), a task, a number
    sample                              the validation sample's id; empty or absent: the row is a mean
    group                               what the sample shares with others (its image); empty: nothing
    higher_is_better                    true or false, the same on every row of a task; empty: not said
    seed                                of the preparation, where it was repeated; absent: there was one

Files are read as spreadsheet programs save them: see `cotbal.method.spreadsheets`.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cotbal.atomic import replacing
from cotbal.method.arrays import FloatArray, Labels, directions
from cotbal.method.spreadsheets import Numbers, read_sheet
from cotbal.tasks import check_task_names

_NEEDED = ("model", "task", "score")
_OPTIONAL = ("sample", "group", "higher_is_better")
_SEED = "seed"
_FORMULA = ("=", "+", "-", "@", "'")
_DIRECTIONS = {"true": True, "false": False}


@dataclass(frozen=True, eq=False)
class Scores:
    """What a CSV file holds of one preparation, as the attributes of a `cotbal.ScoreTable`."""

    tasks: tuple[str, ...]
    higher_is_better: tuple[bool, ...]
    entries: Mapping[str, Mapping[str, float | FloatArray]]
    groups: Mapping[str, Labels]


@dataclass(frozen=True)
class _Row:
    where: str
    model: str
    task: str
    score: float
    sample: str
    group: str
    higher_is_better: bool | None
    seed: int | None


def write(
    by_seed: Mapping[int | None, Scores],
    path: str | os.PathLike[str],
    ids: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Write the scores of every preparation to `path`, atomically, with every column of the format.

    One preparation has the seed None, and the file then has no column `seed`.

    Args:
        ids: task -> ids of its samples; None: their numbers.
    """
    with replacing(path, newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow((*_NEEDED, *_OPTIONAL) + ((_SEED,) if None not in by_seed else ()))
        for seed, scores in by_seed.items():
            last = () if seed is None else (seed,)
            writer.writerows((*cells, *last) for cells in _cells(scores, ids))


def _cells(scores: Scores, ids: Mapping[str, Sequence[str]] | None) -> Iterator[tuple[object, ...]]:
    higher = dict(zip(scores.tasks, scores.higher_is_better, strict=True))
    for model, row in scores.entries.items():
        for task, entry in row.items():
            direction = str(higher[task]).lower()
            if isinstance(entry, float):
                yield _cell(model), _cell(task), repr(entry), "", "", direction
                continue
            labels = scores.groups[task].tolist() if task in scores.groups else [""] * entry.size
            samples = [str(number) for number in range(entry.size)] if ids is None else ids[task]
            for sample, score, label in zip(samples, entry.tolist(), labels, strict=True):
                yield _cell(model), _cell(task), repr(score), _cell(sample), _cell(label), direction


def _cell(text: str) -> str:
    """A text as a cell that no spreadsheet takes for a formula: those that look like one get an apostrophe first.

    >>> _cell("=1+1"), _text(_cell("=1+1")), _cell("vqa")
    ("'=1+1", '=1+1', 'vqa')
    """
    return f"'{text}" if text.lstrip()[:1] in _FORMULA else text


def _text(cell: str) -> str:
    """The text of a cell that `_cell` made; cells of other tools are texts already."""
    return cell[1:] if cell[:1] == "'" and cell[1:].lstrip()[:1] in _FORMULA else cell


def read(
    path: str | os.PathLike[str],
    *,
    tasks: Sequence[str] | None = None,
    higher_is_better: bool | Sequence[bool] | Mapping[str, bool] | None = None,
) -> dict[int | None, Scores]:
    """Read what `path` holds, by seed; None stands for the one preparation of a file without seeds.

    Tasks come in the order of `tasks`, else of first appearance. Samples of a task are paired over models
    and seeds by their `sample` id, in the order of the first model. `higher_is_better` is needed only where the file
    does not say it and lower is better; it must not contradict the file.

    Raises:
        ValueError: naming file and line: a missing or unknown column, a score that is not a finite number,
            a repeated row, samples that differ between models, or contradicting groups or directions.
        OSError: the file cannot be read.
    """
    name = os.fspath(path)
    try:
        rows = list(_rows(name))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{name}: not a CSV file in UTF-8 ({error})") from error
    if not rows:
        raise ValueError(f"{name}: no scores; at least one row below the header is needed")
    names = check_task_names(dict.fromkeys(row.task for row in rows) if tasks is None else tasks)
    unknown = next((row for row in rows if row.task not in names), None)
    if unknown is not None:
        raise ValueError(f"{unknown.where}: task {unknown.task!r} is not among the tasks {list(names)}")
    higher = _said(rows, names, higher_is_better)
    by_seed: dict[int | None, list[_Row]] = {}
    for row in rows:
        by_seed.setdefault(row.seed, []).append(row)
    if None in by_seed and len(by_seed) > 1:
        where = by_seed[None][0].where
        raise ValueError(f"{where}: the row has no seed, and others have one; give every row one")
    order: dict[str, list[str]] = {}
    return {seed: _scores(name, part, names, higher, order) for seed, part in by_seed.items()}


def _scores(
    name: str,
    rows: Sequence[_Row],
    tasks: tuple[str, ...],
    higher: tuple[bool, ...],
    order: dict[str, list[str]],
) -> Scores:
    """One preparation's scores; `order` has the sample ids of the tasks met so far, and gets those of the others."""
    means: dict[tuple[str, str], _Row] = {}
    samples: dict[tuple[str, str], dict[str, _Row]] = {}
    for row in rows:
        key = (row.model, row.task)
        known = samples.setdefault(key, {}) if row.sample else {}
        if row.sample in known or (not row.sample and key in means):
            what = f"sample {row.sample!r}" if row.sample else "a score without a sample id"
            raise ValueError(
                f"{row.where}: {what} of model {row.model!r} on task {row.task!r} was given before; "
                "number the samples in a column 'sample', once each"
            )
        if row.sample:
            known[row.sample] = row
        else:
            means[key] = row
        if key in means and key in samples:
            raise ValueError(
                f"{row.where}: model {row.model!r} has both a mean and per-sample scores on task {row.task!r}; "
                "keep one of the two"
            )
    entries: dict[str, dict[str, float | FloatArray]] = {row.model: {} for row in rows}
    for (model, task), row in means.items():
        entries[model][task] = row.score
    groups: dict[str, list[str]] = {}
    for (model, task), known in samples.items():
        ids = order.setdefault(task, list(known))
        if set(ids) != set(known):
            odd = sorted(set(ids) ^ set(known))[0]
            raise ValueError(
                f"{name}: sample {odd!r} of task {task!r} is scored for some models only (not for both "
                f"{next(m for m, t in samples if t == task)!r} and {model!r}"
                f"{'' if rows[0].seed is None else ', or not with every seed'}); score every model on the same "
                "samples"
            )
        entries[model][task] = np.array([known[i].score for i in ids])
        labels = [known[i].group for i in ids]
        if groups.setdefault(task, labels) != labels:
            raise ValueError(f"{name}: samples of task {task!r} have other groups for model {model!r}")
    labelled = {task: _filled(name, task, labels) for task, labels in groups.items() if any(labels)}
    return Scores(tasks, higher, entries, labelled)


def _rows(name: str) -> Iterator[_Row]:
    sheet = read_sheet(name)
    for column in _NEEDED:
        if column not in sheet.columns:
            raise ValueError(
                f"{name}: no column {column!r}; the header is {list(sheet.columns)}, needed are {list(_NEEDED)}"
            )
    for column in sheet.columns:
        known = [*_NEEDED, *_OPTIONAL, _SEED]
        if column not in known:
            raise ValueError(f"{name}: unknown column {column!r}; known are {known}")
    numbers = Numbers()
    for line, cells in sheet.rows:
        where = f"{name}, line {line}"
        score = numbers.read(cells["score"], where, cells["task"])
        direction = cells.get("higher_is_better", "").lower()
        if direction and direction not in _DIRECTIONS:
            raise ValueError(f"{where}: higher_is_better is {direction!r}; 'true' or 'false' is needed")
        yield _Row(
            where,
            _text(cells["model"]),
            _text(cells["task"]),
            score,
            _text(cells.get("sample", "")),
            _text(cells.get("group", "")),
            _DIRECTIONS.get(direction),
            _seed(where, cells.get(_SEED, "")),
        )


def _seed(where: str, cell: str) -> int | None:
    if cell and not cell.isdecimal():
        raise ValueError(f"{where}: seed is {cell!r}; a whole number of at least 0 is needed")
    return int(cell) if cell else None


def _said(
    rows: Sequence[_Row],
    tasks: tuple[str, ...],
    given: bool | Sequence[bool] | Mapping[str, bool] | None,
) -> tuple[bool, ...]:
    """Each task's direction: as the argument says, else as the file says, else higher is better."""
    argument = None if given is None else dict(zip(tasks, directions(given, tasks), strict=True))
    known: dict[str, bool] = {}
    for row in rows:
        if row.higher_is_better is None:
            continue
        if known.setdefault(row.task, row.higher_is_better) != row.higher_is_better:
            raise ValueError(f"{row.where}: higher_is_better of task {row.task!r} contradicts an earlier row")
        if argument is not None and argument[row.task] != row.higher_is_better:
            raise ValueError(
                f"{row.where}: higher_is_better of task {row.task!r} is {row.higher_is_better} in the file and "
                f"{argument[row.task]} in the call; leave the argument out, or correct one of them"
            )
    return tuple(argument[task] if argument is not None else known.get(task, True) for task in tasks)


def _filled(name: str, task: str, labels: list[str]) -> Labels:
    if not all(labels):
        raise ValueError(
            f"{name}: some samples of task {task!r} have a group and some have none; give all of them one"
        )
    return np.array(labels, dtype=np.str_)
