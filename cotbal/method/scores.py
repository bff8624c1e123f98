"""Validation scores of every model on every task: the table that `measure` starts from."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from cotbal.method import scores_csv
from cotbal.method.arrays import FloatArray, Labels, directions, float_array, same_length
from cotbal.method.text_table import decimal, text_table
from cotbal.tasks import MINI, check_task_names, plus_model


@dataclass(frozen=True, eq=False)
class ScoreTable:
    """Raw scores V[model, task] as the metric gives them, per validation sample where known.

    Attributes:
        tasks: names of the N tasks, in the order of every array made from this table.
        higher_is_better: direction of each task's metric.
        entries: model -> task -> per-sample scores (float64 [n]) or one mean (float). A model need not have
            been scored on every task. Samples of one task are paired: entry k of every model is sample k.
            With seeds: float64 [S, n], or [S] means, one row per seed.
        groups: task -> one label per sample; samples that share a label (questions on one image) are
            resampled together. A task that is absent has every sample in a group of its own.
        seeds: of the preparations the scores come from, where there are several, scored on the same samples;
            empty for one preparation. See `from_seeds`.

    Raises:
        ValueError: unknown or repeated tasks, no scores, NaN or infinite scores, models with unequal numbers
            of samples of one task, groups of another length than the samples, or an entry without a row for
            every seed.

    >>> table = ScoreTable.from_samples({"mini": {"vqa": [0, 1]}, "plus_vqa": {"vqa": [1, 1]}})
    >>> table.tasks, table.mini, table.plus
    (('vqa',), array([0.5]), array([[1.]]))
    >>> print(table)
    model       vqa
    mini      0.500
    plus_vqa  1.000
    samples       2
    """

    tasks: tuple[str, ...]
    higher_is_better: tuple[bool, ...]
    entries: Mapping[str, Mapping[str, float | FloatArray]]
    groups: Mapping[str, Labels] = field(default_factory=dict)
    seeds: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        tasks = check_task_names(self.tasks)
        object.__setattr__(self, "tasks", tasks)
        object.__setattr__(self, "higher_is_better", directions(self.higher_is_better, tasks))
        if not self.entries:
            raise ValueError("the score table has no model; at least one model's scores are needed")
        object.__setattr__(self, "seeds", _check_seeds(self.seeds))
        counts: dict[str, tuple[str, int]] = {}
        entries: dict[str, Mapping[str, float | FloatArray]] = {}
        for model, row in self.entries.items():
            _check_model(model)
            unknown = [task for task in row if task not in tasks]
            if unknown:
                raise ValueError(f"model {model!r} has scores of {unknown[0]!r}; the tasks are {list(tasks)}")
            entries[model] = MappingProxyType(
                {
                    task: _entry(model, task, row[task], counts, len(self.seeds))
                    for task in tasks
                    if task in row
                }
            )
        object.__setattr__(self, "entries", MappingProxyType(entries))
        object.__setattr__(self, "groups", MappingProxyType(_labels(self.groups, tasks, counts)))

    @classmethod
    def from_samples(
        cls,
        samples: Mapping[str, Mapping[str, Sequence[float]]],
        *,
        tasks: Sequence[str] | None = None,
        groups: Mapping[str, Sequence[object]] | None = None,
        higher_is_better: bool | Sequence[bool] | Mapping[str, bool] = True,
    ) -> Self:
        """Make a table from per-sample scores: model id (`mini`, `plus_<task>`, ...) -> task -> one score per sample.

        `tasks` fixes the order (default: order of first appearance); `groups` is as in the class.
        """
        if tasks is None:
            tasks = list(dict.fromkeys(task for row in samples.values() for task in row))
        names = check_task_names(tasks)
        return cls(names, directions(higher_is_better, names), samples, groups or {})  # type: ignore[arg-type]

    @classmethod
    def from_means(
        cls,
        mini: npt.ArrayLike,
        plus: npt.ArrayLike,
        *,
        tasks: Sequence[str],
        higher_is_better: bool | Sequence[bool] | Mapping[str, bool] = True,
    ) -> Self:
        """Make a table from mean scores alone: `mini` [N], `plus` [N, N] with plus[i, j] = V[plus_i, j].

        Without per-sample scores there are no intervals.

        >>> ScoreTable.from_means([0.5, 0.2], [[0.7, 0.3], [0.6, 0.5]], tasks=["a", "b"]).mean("plus_b", "a")
        0.6
        """
        names = check_task_names(tasks)
        mini_scores = float_array("mini", mini, ndim=1)
        plus_scores = float_array("plus", plus, ndim=2)
        same_length(len(names), mini=mini_scores, plus=plus_scores)
        entries: dict[str, dict[str, float | FloatArray]] = {
            MINI: dict(zip(names, mini_scores.tolist(), strict=True))
        }
        for name, row in zip(names, plus_scores.tolist(), strict=True):
            entries[plus_model(name)] = dict(zip(names, row, strict=True))
        return cls(names, directions(higher_is_better, names), entries)

    @classmethod
    def from_csv(
        cls,
        path: str | os.PathLike[str],
        *,
        tasks: Sequence[str] | None = None,
        higher_is_better: bool | Sequence[bool] | Mapping[str, bool] | None = None,
    ) -> Self:
        """Read a CSV file: see `cotbal.method.scores_csv.read` for its columns and errors."""
        found = scores_csv.read(path, tasks=tasks, higher_is_better=higher_is_better)
        tables = {
            0 if seed is None else seed: cls(part.tasks, part.higher_is_better, part.entries, part.groups)
            for seed, part in found.items()
        }
        try:
            return cls.from_seeds(tables)
        except ValueError as error:
            raise ValueError(f"{os.fspath(path)}: {error}") from None

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write all of the table as CSV, atomically; `from_csv` gives it back exactly."""
        tables: dict[int | None, ScoreTable] = {seed: self.of_seed(seed) for seed in self.seeds}
        content = {
            seed: scores_csv.Scores(table.tasks, table.higher_is_better, table.entries, table.groups)
            for seed, table in (tables or {None: self}).items()
        }
        scores_csv.write(content, path)

    def __str__(self) -> str:
        """Mean scores, one line per model, with the number of validation samples of each task."""
        rows = [
            [
                model,
                *(decimal(self.mean(model, task)) if self.has(model, task) else "-" for task in self.tasks),
            ]
            for model in self.models
        ]
        samples = {
            task: entry.shape[-1]
            for row in self.entries.values()
            for task, entry in row.items()
            if not isinstance(entry, float) and entry.ndim == (2 if self.seeds else 1)
        }
        rows.append(["samples", *(str(samples.get(task, "-")) for task in self.tasks)])
        if self.seeds:
            rows.append(["seeds", *(str(len(self.seeds)) for _ in self.tasks)])
        if not all(self.higher_is_better):
            rows.append(["better", *("higher" if higher else "lower" for higher in self.higher_is_better)])
        return text_table(["model", *self.tasks], rows)

    def __repr__(self) -> str:
        return f"ScoreTable({len(self.models)} models, tasks: {', '.join(self.tasks)})"

    @classmethod
    def from_seeds(cls, tables: Mapping[int, ScoreTable]) -> Self:
        """One table of a preparation that was repeated: seed -> its scores.

        A mean of this table is over seeds and samples; `of_seed` gives one preparation back. A single table is
        returned as it is, without a seed.

        Raises:
            ValueError: no table, or tables that differ in tasks, directions, models, samples or groups.

        >>> first = ScoreTable.from_samples({"mini": {"vqa": [0, 1]}})
        >>> second = ScoreTable.from_samples({"mini": {"vqa": [1, 1]}})
        >>> ScoreTable.from_seeds({0: first, 1: second}).mean("mini", "vqa")
        0.75
        """
        if not tables:
            raise ValueError("tables is empty; at least one seed's scores are needed")
        (seed, first), *others = tables.items()
        for other, table in others:
            _check_alike(seed, first, other, table)
        if not others:
            return cls(first.tasks, first.higher_is_better, first.entries, first.groups)
        entries = {
            model: {task: np.stack([table.entries[model][task] for table in tables.values()]) for task in row}
            for model, row in first.entries.items()
        }
        return cls(first.tasks, first.higher_is_better, entries, first.groups, tuple(tables))

    def of_seed(self, seed: int) -> ScoreTable:
        """The scores of one preparation, as a table without seeds.

        Raises:
            ValueError: the table has no such seed.
        """
        if seed not in self.seeds:
            raise ValueError(f"there are no scores of seed {seed}; the seeds are {list(self.seeds)}")
        row = self.seeds.index(seed)
        entries: dict[str, dict[str, float | FloatArray]] = {
            model: {task: _row_of(entry, row) for task, entry in scored.items()}
            for model, scored in self.entries.items()
        }
        return ScoreTable(self.tasks, self.higher_is_better, entries, self.groups)

    @property
    def models(self) -> tuple[str, ...]:
        """The ids of the scored models."""
        return tuple(self.entries)

    def mean(self, model: str, task: str) -> float:
        """V[model, task]: mean score over the validation samples, and over the seeds."""
        entry = self._find(model, task)
        # What entry.mean() does, without its overhead: a table of 512 tasks has 262,656 means.
        return entry if isinstance(entry, float) else float(np.add.reduce(entry, axis=None)) / entry.size

    def samples(self, model: str, task: str) -> FloatArray | None:
        """Per-sample scores [n] (means over the seeds), read-only; None where only the mean is known."""
        entry = self._find(model, task)
        if isinstance(entry, float) or (self.seeds and entry.ndim == 1):
            return None
        return _read_only(entry.mean(axis=0)) if self.seeds else entry

    def has(self, model: str, task: str) -> bool:
        """Whether this model was scored on this task."""
        return task in self.entries.get(model, {})

    @cached_property
    def mini(self) -> FloatArray:
        """V[mini, j] for every task j: float64 [N]."""
        return _read_only(np.array([self.mean(MINI, task) for task in self.tasks]))

    @cached_property
    def plus(self) -> FloatArray:
        """V[plus_i, j] for every pair of tasks: float64 [N, N], one row per trained task i."""
        return _read_only(np.array([[self.mean(plus_model(i), j) for j in self.tasks] for i in self.tasks]))

    @cached_property
    def own(self) -> FloatArray:
        """V[plus_i, i] for every task i, the diagonal of `plus`, [N]; the other entries need not be there."""
        return _read_only(np.array([self.mean(plus_model(task), task) for task in self.tasks]))

    @cached_property
    def sha256(self) -> str:
        """Return a hash of everything in the table, to recognise it later."""
        digest = hashlib.sha256()
        if self.seeds:
            digest.update(f"seeds {self.seeds}\n".encode())
        for task, higher in zip(self.tasks, self.higher_is_better, strict=True):
            digest.update(f"task {task} {higher}\n".encode())
            if task in self.groups:
                digest.update("\0".join(self.groups[task].tolist()).encode())
        for model in sorted(self.entries):
            for task, entry in self.entries[model].items():
                kind = "mean" if isinstance(entry, float) else f"samples {entry.size}"
                digest.update(f"\n{model} {task} {kind}\n".encode())
                digest.update(np.asarray(entry, dtype="<f8").tobytes())
        return digest.hexdigest()

    def _find(self, model: str, task: str) -> float | FloatArray:
        try:
            return self.entries[model][task]
        except KeyError:
            raise ValueError(self._missing(model, task)) from None

    def _missing(self, model: str, task: str) -> str:
        if task not in self.tasks:
            return f"no task {task!r}; known tasks: {', '.join(self.tasks)}"
        if model not in self.entries:
            return f"no scores for model {model!r}; scored models: {', '.join(self.entries)}"
        return f"model {model!r} has no score on task {task!r}; score it there, or leave the task out"


def _check_model(model: str) -> None:
    if not isinstance(model, str) or not model or model != model.strip():
        raise ValueError(f"model id {model!r} is not allowed; a string without outer blanks is needed")


def _check_seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    checked = tuple(int(seed) for seed in seeds)
    if len(checked) == 1 or len(set(checked)) < len(checked):
        raise ValueError(
            f"seeds is {list(checked)}; at least two different ones are needed, or none for one preparation"
        )
    return checked


def _check_alike(seed: int, first: ScoreTable, other: int, table: ScoreTable) -> None:
    def shapes(of: ScoreTable) -> dict[str, dict[str, tuple[int, ...]]]:
        return {m: {t: np.shape(entry) for t, entry in row.items()} for m, row in of.entries.items()}

    for what, one, two in (
        ("tasks", first.tasks, table.tasks),
        ("higher_is_better", first.higher_is_better, table.higher_is_better),
        ("models", sorted(first.entries), sorted(table.entries)),
        ("numbers of samples", shapes(first), shapes(table)),
        (
            "groups",
            {task: labels.tolist() for task, labels in first.groups.items()},
            {task: labels.tolist() for task, labels in table.groups.items()},
        ),
    ):
        if one != two:
            found = f": {one} and {two}" if what in ("tasks", "higher_is_better", "models") else ""
            raise ValueError(
                f"the scores of seeds {seed} and {other} have other {what}{found}; score every seed's models on "
                "the same samples of the same tasks"
            )


def _row_of(entry: float | FloatArray, row: int) -> float | FloatArray:
    assert not isinstance(entry, float)
    return float(entry[row]) if entry.ndim == 1 else entry[row]


def _entry(
    model: str, task: str, value: Any, counts: dict[str, tuple[str, int]], seeds: int
) -> float | FloatArray:
    name = f"score of model {model!r} on task {task!r}"
    if seeds:
        return _seeded_entry(name, model, task, value, counts, seeds)
    if isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool):
        number = float(value)
        if not math.isfinite(number):
            raise ValueError(f"{name} is {number}; a finite number is needed")
        return number
    array = _read_only(float_array(name, value, ndim=1))
    _count_samples(model, task, array.size, counts)
    return array


def _seeded_entry(
    name: str, model: str, task: str, value: Any, counts: dict[str, tuple[str, int]], seeds: int
) -> FloatArray:
    array = _read_only(float_array(name, value, ndim=2 if np.ndim(value) == 2 else 1))
    if array.shape[0] != seeds:
        raise ValueError(f"{name} has shape {array.shape}; one row for each of the {seeds} seeds is needed")
    if array.ndim == 2:
        _count_samples(model, task, array.shape[1], counts)
    return array


def _count_samples(model: str, task: str, samples: int, counts: dict[str, tuple[str, int]]) -> None:
    first, count = counts.setdefault(task, (model, samples))
    if samples != count:
        raise ValueError(
            f"task {task!r} has {count} samples from model {first!r} and {samples} from model {model!r}; "
            "all models must be scored on the same samples in the same order"
        )


def _labels(
    groups: Mapping[str, Any], tasks: tuple[str, ...], counts: dict[str, tuple[str, int]]
) -> dict[str, Labels]:
    labels: dict[str, Labels] = {}
    for task in groups:
        if task not in tasks:
            raise ValueError(f"groups names the task {task!r}; the tasks are {list(tasks)}")
    for task in tasks:
        if task not in groups:
            continue
        if task not in counts:
            raise ValueError(f"groups of task {task!r} are given, but the task has no per-sample scores")
        array = np.array([str(label) for label in groups[task]], dtype=np.str_)
        if array.size != counts[task][1]:
            raise ValueError(
                f"groups of task {task!r} has {array.size} labels; the task has {counts[task][1]} samples"
            )
        array.flags.writeable = False
        labels[task] = array
    return labels


def _read_only(array: FloatArray) -> FloatArray:
    array.flags.writeable = False
    return array
