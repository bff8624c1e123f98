"""Validation scores of every model on every task: the table that measuring starts from."""

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
from cotbal.tasks import MINI, check_task_names, plus_model


@dataclass(frozen=True, eq=False)
class ScoreTable:
    """Scores V[model, task], raw (as the metric gives them), per validation sample where known.

    Attributes:
        tasks: names of the N tasks, in the order of every array made from this table.
        higher_is_better: direction of each task's metric.
        entries: model -> task -> per-sample scores (float64 [n]) or one mean (float). A model need not have
            been scored on every task. Samples of one task are paired: entry k of every model is sample k.
        groups: task -> one label per sample; samples that share a label (questions on one image) are
            resampled together. A task that is absent has every sample in a group of its own.

    Raises:
        ValueError: unknown or repeated tasks, no scores, NaN or infinite scores, models with unequal numbers
            of samples of one task, or groups of another length than the samples.

    >>> table = ScoreTable.from_samples({"mini": {"vqa": [0, 1]}, "plus_vqa": {"vqa": [1, 1]}})
    >>> table.tasks, table.mini, table.plus
    (('vqa',), array([0.5]), array([[1.]]))
    """

    tasks: tuple[str, ...]
    higher_is_better: tuple[bool, ...]
    entries: Mapping[str, Mapping[str, float | FloatArray]]
    groups: Mapping[str, Labels] = field(default_factory=dict)

    def __post_init__(self) -> None:
        tasks = check_task_names(self.tasks)
        object.__setattr__(self, "tasks", tasks)
        object.__setattr__(self, "higher_is_better", directions(self.higher_is_better, tasks))
        if not self.entries:
            raise ValueError("the score table has no model; at least one model's scores are needed")
        counts: dict[str, tuple[str, int]] = {}
        entries: dict[str, Mapping[str, float | FloatArray]] = {}
        for model, row in self.entries.items():
            _check_model(model)
            unknown = [task for task in row if task not in tasks]
            if unknown:
                raise ValueError(f"model {model!r} has scores of {unknown[0]!r}; the tasks are {list(tasks)}")
            entries[model] = MappingProxyType(
                {task: _entry(model, task, row[task], counts) for task in tasks if task in row}
            )
        object.__setattr__(self, "entries", MappingProxyType(entries))
        object.__setattr__(self, "groups", MappingProxyType(_labels(self.groups, tasks, counts)))

    @classmethod
    def from_samples(
        cls,
        samples: Mapping[str, Mapping[str, Sequence[float]]],
        *,
        tasks: Sequence[str] | None = None,
        groups: Mapping[str, Sequence[Any]] | None = None,
        higher_is_better: bool | Sequence[bool] | Mapping[str, bool] = True,
    ) -> Self:
        """From per-sample scores: model id (`mini`, `plus_<task>`, ...) -> task -> one score per sample.

        `tasks` fixes the order (default: order of first appearance); `groups` as in the class.
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
        """From mean scores alone: `mini` [N], `plus` [N, N] with plus[i, j] = V[plus_i, j].

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
        return cls(found.tasks, found.higher_is_better, found.entries, found.groups)

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write all of the table as CSV, atomically; `from_csv` gives it back exactly."""
        content = scores_csv.Scores(self.tasks, self.higher_is_better, self.entries, self.groups)
        scores_csv.write(content, path)

    @property
    def models(self) -> tuple[str, ...]:
        """Ids of the scored models."""
        return tuple(self.entries)

    def mean(self, model: str, task: str) -> float:
        """V[model, task]: mean score over the validation samples."""
        entry = self._find(model, task)
        # What entry.mean() does, without its overhead: a table of 512 tasks has 262,656 means.
        return entry if isinstance(entry, float) else float(np.add.reduce(entry)) / entry.size

    def samples(self, model: str, task: str) -> FloatArray | None:
        """Per-sample scores [n], read-only; None where only the mean is known."""
        entry = self._find(model, task)
        return None if isinstance(entry, float) else entry

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
    def sha256(self) -> str:
        """Hash of everything in the table, to recognise it later."""
        digest = hashlib.sha256()
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
            return f"there is no task {task!r}; the tasks are {list(self.tasks)}"
        if model not in self.entries:
            return f"there are no scores of model {model!r}; scored are {list(self.entries)}"
        return f"model {model!r} has no score on task {task!r}; evaluate it there, or leave the task out"


def _check_model(model: str) -> None:
    if not isinstance(model, str) or not model or model != model.strip():
        raise ValueError(f"model id {model!r} is not allowed; a string without outer blanks is needed")


def _entry(model: str, task: str, value: Any, counts: dict[str, tuple[str, int]]) -> float | FloatArray:
    name = f"score of model {model!r} on task {task!r}"
    if isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool):
        number = float(value)
        if not math.isfinite(number):
            raise ValueError(f"{name} is {number}; a finite number is needed")
        return number
    array = _read_only(float_array(name, value, ndim=1))
    first, count = counts.setdefault(task, (model, array.size))
    if array.size != count:
        raise ValueError(
            f"task {task!r} has {count} samples from model {first!r} and {array.size} from model {model!r}; "
            "all models must be scored on the same samples in the same order"
        )
    return array


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
