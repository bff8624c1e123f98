"""Score tables as CSV files, so that scores made with other tools can be weighed too.

One row per score, with the columns

    model, task, score                  needed: a model id (`mini`, `plus_<task>`, ...), a task, a number
    sample                              the validation sample's id; empty or absent: the row is a mean
    group                               what the sample shares with others (its image); empty: nothing
    higher_is_better                    true or false, the same on every row of a task; empty: not said
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cotbal.atomic import replacing
from cotbal.method.arrays import FloatArray, Labels, directions
from cotbal.tasks import check_task_names

_NEEDED = ("model", "task", "score")
_OPTIONAL = ("sample", "group", "higher_is_better")
_DIRECTIONS = {"true": True, "false": False}


@dataclass(frozen=True, eq=False)
class Scores:
    """What a CSV file holds, as the attributes of a `cotbal.ScoreTable`."""

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


def write(scores: Scores, path: str | os.PathLike[str]) -> None:
    """Write `scores` to `path`, atomically, with every column of the format."""
    higher = dict(zip(scores.tasks, scores.higher_is_better, strict=True))
    with replacing(path, newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_NEEDED + _OPTIONAL)
        for model, row in scores.entries.items():
            for task, entry in row.items():
                direction = str(higher[task]).lower()
                if isinstance(entry, float):
                    writer.writerow((model, task, repr(entry), "", "", direction))
                    continue
                labels = scores.groups[task].tolist() if task in scores.groups else [""] * entry.size
                for sample, (score, label) in enumerate(zip(entry.tolist(), labels, strict=True)):
                    writer.writerow((model, task, repr(score), sample, label, direction))


def read(
    path: str | os.PathLike[str],
    *,
    tasks: Sequence[str] | None = None,
    higher_is_better: bool | Sequence[bool] | Mapping[str, bool] | None = None,
) -> Scores:
    """Read what `path` holds.

    Tasks come in the order of `tasks`, else of first appearance. Samples of a task are paired over the models
    by their `sample` id, in the order of the first model. `higher_is_better` is needed only where the file
    does not say it and lower is better; it must not contradict the file.

    Raises:
        ValueError: naming file and line: a missing or unknown column, a score that is not a finite number,
            a repeated row, samples that differ between models, or contradicting groups or directions.
        OSError: the file cannot be read.
    """
    name = os.fspath(path)
    rows = list(_rows(name))
    if not rows:
        raise ValueError(f"{name}: no scores; at least one row below the header is needed")
    names = check_task_names(dict.fromkeys(row.task for row in rows) if tasks is None else tasks)
    unknown = next((row for row in rows if row.task not in names), None)
    if unknown is not None:
        raise ValueError(f"{unknown.where}: task {unknown.task!r} is not among the tasks {list(names)}")

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
    order: dict[str, list[str]] = {}
    groups: dict[str, list[str]] = {}
    for (model, task), known in samples.items():
        ids = order.setdefault(task, list(known))
        if set(ids) != set(known):
            odd = sorted(set(ids) ^ set(known))[0]
            raise ValueError(
                f"{name}: sample {odd!r} of task {task!r} is scored for some models only (not for both "
                f"{next(m for m, t in samples if t == task)!r} and {model!r}); score every model on the same samples"
            )
        entries[model][task] = np.array([known[i].score for i in ids])
        labels = [known[i].group for i in ids]
        if groups.setdefault(task, labels) != labels:
            raise ValueError(f"{name}: samples of task {task!r} have other groups for model {model!r}")
    labelled = {task: _filled(name, task, labels) for task, labels in groups.items() if any(labels)}
    return Scores(names, _said(rows, names, higher_is_better), entries, labelled)


def _rows(name: str) -> Iterator[_Row]:
    with open(name, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        header = [column.strip() for column in reader.fieldnames or []]
        reader.fieldnames = header
        for column in _NEEDED:
            if column not in header:
                raise ValueError(
                    f"{name}: no column {column!r}; the header is {header}, needed are {list(_NEEDED)}"
                )
        for column in header:
            if column not in _NEEDED + _OPTIONAL:
                raise ValueError(f"{name}: unknown column {column!r}; known are {list(_NEEDED + _OPTIONAL)}")
        for record in reader:
            where = f"{name}, line {reader.line_num}"
            if None in record or any(value is None for value in record.values()):
                raise ValueError(f"{where}: the row does not have {len(header)} fields as the header has")
            cells = {column: value.strip() for column, value in record.items()}
            try:
                score = float(cells["score"])
            except ValueError:
                score = float("nan")
            if not np.isfinite(score):
                raise ValueError(f"{where}: score is {cells['score']!r}; a finite number is needed")
            direction = cells.get("higher_is_better", "").lower()
            if direction and direction not in _DIRECTIONS:
                raise ValueError(f"{where}: higher_is_better is {direction!r}; 'true' or 'false' is needed")
            yield _Row(
                where,
                cells["model"],
                cells["task"],
                score,
                cells.get("sample", ""),
                cells.get("group", ""),
                _DIRECTIONS.get(direction),
            )


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
