"""The task weights as a value: by name, with their terms and their provenance."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from importlib import metadata
from typing import Any, Literal, Self, get_args

import numpy as np

from cotbal.atomic import read_file, replacing
from cotbal.method.arrays import BoolArray, FloatArray
from cotbal.method.text_table import decimal, interval, text_table
from cotbal.tasks import check_task_name, check_task_names

FORMAT = "cotbal-task-weights"
VERSION = 1
Source = Literal["arrays", "means", "samples"]

# For sums of N numbers near 1 that were written to a file as shortest decimals.
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Provenance:
    """Where weights come from.

    Attributes:
        source: "samples" (per-sample scores), "means" (mean scores only) or "arrays" (numbers given directly).
        cotbal_version: version of this package.
        scores_sha256: hash of the score table, if there was one.
        confidence, replicates, seed: the bootstrap's; replicates is 0 without a bootstrap.
        shrink: whether the terms were shrunk.
        undefined: tasks whose inward contributions were undefined.
        seeds: of the preparations the weights are means of; empty for one preparation.
    """

    source: Source
    cotbal_version: str
    scores_sha256: str | None = None
    confidence: float | None = None
    replicates: int = 0
    seed: int | None = None
    shrink: bool = False
    undefined: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()

    @classmethod
    def here(cls, source: Source, **known: Any) -> Self:
        """Return a provenance with the installed version of this package."""
        try:
            version = metadata.version("cotbal")
        except metadata.PackageNotFoundError:
            version = "unknown"
        return cls(source, version, **known)


@dataclass(frozen=True, eq=False)
class TaskWeights:
    """One weight per task, from `weigh` or `combine_terms`; the measured tasks' weights sum to their number.

    >>> from cotbal.method.weighing import task_weights
    >>> print(task_weights([0.2, 0.1], [0.1, 0.1], [0.5, 0.1], tasks=["caption", "vqa"]))
    task     weight  outward  inward  difficulty
    caption   1.215    1.100   1.000       1.380
    vqa       0.785    0.900   1.000       0.620

    Attributes:
        tasks: names of the N tasks.
        values: the weights, float64 [N], read-only.
        outward, inward, difficulty: the terms w_out, w_in, w_dif, [N]; values = ((w_out + w_in)/2 + w_dif)/2.
            NaN for a task whose weight was given explicitly.
        temperature: T of the softmaxes.
        intervals: bootstrap intervals of `values`, [N, 2], NaN for a task without one; or None.
        provenance: where the numbers come from.

    Raises:
        ValueError: an array has another length than `tasks`, or weights are negative, not finite, or not the
            combination of their terms.
    """

    tasks: tuple[str, ...]
    values: FloatArray
    outward: FloatArray
    inward: FloatArray
    difficulty: FloatArray
    temperature: float
    intervals: FloatArray | None
    provenance: Provenance

    def __post_init__(self) -> None:
        object.__setattr__(self, "tasks", check_task_names(self.tasks))
        count = len(self.tasks)
        shapes: dict[str, tuple[int, ...]] = {
            "values": (count,),
            "outward": (count,),
            "inward": (count,),
            "difficulty": (count,),
        }
        if self.intervals is not None:
            shapes["intervals"] = (count, 2)
        for name, shape in shapes.items():
            array = np.array(getattr(self, name), dtype=np.float64)
            if array.shape != shape:
                raise ValueError(f"{name} has shape {array.shape}; {shape} is needed for {count} task(s)")
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        self._check_numbers()

    def _check_numbers(self) -> None:
        for task, value in zip(self.tasks, self.values.tolist(), strict=True):
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(
                    f"weight of task {task!r} is {value}; a finite number of at least 0 is needed"
                )
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"temperature is {self.temperature}; a finite number above 0 is needed")
        terms = np.stack([self.outward, self.inward, self.difficulty])
        given = np.isnan(terms)
        if (given.any(axis=0) != given.all(axis=0)).any() or np.isinf(terms).any():
            task = self.tasks[int(np.argmax(~np.isfinite(terms).all(axis=0)))]
            raise ValueError(f"task {task!r} has some terms and lacks others; all three or none are needed")
        measured = self.measured
        made = ((self.outward + self.inward) / 2 + self.difficulty) / 2
        wrong = measured & ~np.isclose(self.values, made, rtol=_TOLERANCE, atol=_TOLERANCE)
        if wrong.any():
            index = int(np.argmax(wrong))
            raise ValueError(
                f"weight of task {self.tasks[index]!r} is {self.values[index]:g}, but its terms make "
                f"{made[index]:g}; give a weight of your own as an explicit one, without terms"
            )
        count = int(measured.sum())
        for name in ("outward", "inward", "difficulty"):
            total = float(getattr(self, name)[measured].sum())
            if abs(total - count) > _TOLERANCE * max(1, count):
                raise ValueError(
                    f"the {name} terms of {count} measured task(s) sum to {total}; {count} is needed"
                )

    def __str__(self) -> str:
        """One line per task: its weight, the interval if there is one, and the terms."""
        headings = ["task", "weight", "interval", "outward", "inward", "difficulty"]
        rows = []
        for index, task in enumerate(self.tasks):
            bounds = "-" if self.intervals is None else interval(self.intervals[index].tolist())
            terms = [self.outward[index], self.inward[index], self.difficulty[index]]
            rows.append([task, decimal(self.values[index]), bounds, *map(decimal, terms)])
        if self.intervals is None:
            headings.remove("interval")
            for row in rows:
                del row[2]
        return text_table(headings, rows)

    def __repr__(self) -> str:
        weights = ", ".join(f"{task}={decimal(value)}" for task, value in self.as_dict().items())
        return f"TaskWeights({weights})"

    @property
    def measured(self) -> BoolArray:
        """Which weights are measured, [N] bool; the others were given explicitly."""
        return ~np.isnan(self.outward)

    def as_dict(self) -> dict[str, float]:
        """Return the weights by task name."""
        return dict(zip(self.tasks, self.values.tolist(), strict=True))

    def for_tasks(self, names: Iterable[str]) -> Self:
        """Return the same weights in the order of `names`, which must be the same tasks.

        Raises:
            ValueError: a task has no weight, or a weight has no task.
        """
        wanted = check_task_names(names)
        lacking = [name for name in wanted if name not in self.tasks]
        if lacking:
            raise ValueError(
                f"no weight for task {lacking[0]!r}; known tasks: {', '.join(self.tasks)}. Measure it, or add it "
                "with with_explicit (in a config, give the task a weight)"
            )
        left = [name for name in self.tasks if name not in wanted]
        if left:
            raise ValueError(
                f"the weight of task {left[0]!r} is left over; requested tasks: {', '.join(wanted)}. Weights are "
                "relative to all tasks they were measured with, so weigh again without it"
            )
        order = [self.tasks.index(name) for name in wanted]
        return type(self)(
            wanted,
            self.values[order],
            self.outward[order],
            self.inward[order],
            self.difficulty[order],
            self.temperature,
            None if self.intervals is None else self.intervals[order],
            self.provenance,
        )

    def with_explicit(self, weights: Mapping[str, float]) -> Self:
        """Return these weights and those of further tasks that are not measured, each at least 0.

        Raises:
            ValueError: a task already has a weight, a name is not allowed, or a weight is negative or not finite.
        """
        for name in weights:
            if check_task_name(name) in self.tasks:
                raise ValueError(
                    f"task {name!r} already has a weight ({self.as_dict()[name]:g}); leave out its explicit weight"
                )
        none = np.full(len(weights), np.nan)
        intervals = self.intervals
        if intervals is not None:
            intervals = np.concatenate([intervals, np.full((len(weights), 2), np.nan)])
        return type(self)(
            (*self.tasks, *weights),
            np.concatenate([self.values, np.array(list(weights.values()), dtype=np.float64)]),
            np.concatenate([self.outward, none]),
            np.concatenate([self.inward, none]),
            np.concatenate([self.difficulty, none]),
            self.temperature,
            intervals,
            self.provenance,
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the weights as JSON, atomically. The same weights always give the same bytes."""
        rows = []
        for index, task in enumerate(self.tasks):
            is_measured = bool(self.measured[index])
            bounds = None if self.intervals is None else self.intervals[index].tolist()
            rows.append(
                {
                    "task": task,
                    "weight": float(self.values[index]),
                    "outward": float(self.outward[index]) if is_measured else None,
                    "inward": float(self.inward[index]) if is_measured else None,
                    "difficulty": float(self.difficulty[index]) if is_measured else None,
                    "interval": None if bounds is None or any(map(math.isnan, bounds)) else bounds,
                }
            )
        content: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "temperature": self.temperature,
            "tasks": rows,
            "provenance": asdict(self.provenance),
        }
        if not self.provenance.seeds:  # As files of one preparation always were.
            del content["provenance"]["seeds"]
        with replacing(path) as file:
            json.dump(content, file, indent=2, allow_nan=False)
            file.write("\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote, and check all of it.

        Raises:
            ValueError: with file and field: the file is not JSON, has another format or version, has missing or
                unknown fields or values of a wrong type, or its numbers contradict each other.
            OSError: the file cannot be read.
        """
        name = os.fspath(path)
        try:
            content = json.loads(read_file(path).decode())
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{name}: not a JSON file ({error})") from error
        try:
            return cls._from_json(content)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{name}: {error}") from error

    @classmethod
    def _from_json(cls, content: Any) -> Self:
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError(f"not a task-weights file; a field 'format' of {FORMAT!r} is needed")
        if content.get("version") != VERSION:
            raise ValueError(
                f"version is {content.get('version')!r}; this cotbal reads version {VERSION}. Weigh again, or "
                "install the cotbal that wrote it"
            )
        _check_fields("the file", content, ("format", "version", "temperature", "tasks", "provenance"))
        if not isinstance(content["tasks"], list) or not content["tasks"]:
            raise ValueError("tasks must be a list with at least one entry")
        rows = []
        for index, row in enumerate(content["tasks"]):
            where = f"tasks[{index}]"
            _check_fields(where, row, ("task", "weight", "outward", "inward", "difficulty", "interval"))
            bounds = row["interval"]
            if bounds is None:
                bounds = [None, None]
            elif not isinstance(bounds, list) or len(bounds) != 2 or None in bounds:
                raise ValueError(f"{where}.interval is {bounds!r}; null or two numbers are needed")
            numbers = [_number(f"{where}.weight", row["weight"])]
            for term in ("outward", "inward", "difficulty"):
                numbers.append(_number(f"{where}.{term}", row[term], or_null=True))
            numbers += [_number(f"{where}.interval", bound, or_null=True) for bound in bounds]
            rows.append(numbers)
        table = np.array(rows)
        return cls(
            check_task_names(row["task"] for row in content["tasks"]),
            table[:, 0],
            table[:, 1],
            table[:, 2],
            table[:, 3],
            _number("temperature", content["temperature"]),
            None if np.isnan(table[:, 4:]).all() else table[:, 4:],
            _provenance(content["provenance"]),
        )


def _check_fields(where: str, found: Any, wanted: tuple[str, ...]) -> None:
    if not isinstance(found, dict):
        raise ValueError(
            f"{where} is {type(found).__name__}; an object with the fields {list(wanted)} is needed"
        )
    for field_name in wanted:
        if field_name not in found:
            raise ValueError(f"{where} has no field {field_name!r}")
    for field_name in found:
        if field_name not in wanted:
            raise ValueError(
                f"{where} has the unknown field {field_name!r}; known fields: {', '.join(wanted)}"
            )


def _number(where: str, value: Any, *, or_null: bool = False) -> float:
    if value is None and or_null:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{where} is {value!r}; a finite number is needed")
    return float(value)


def _provenance(found: Any) -> Provenance:
    known = [field.name for field in fields(Provenance)]
    if isinstance(found, dict) and "seeds" not in found:
        known.remove("seeds")
    _check_fields("provenance", found, tuple(known))
    if found["source"] not in get_args(Source):
        raise ValueError(
            f"provenance.source is {found['source']!r}; one of {list(get_args(Source))} is needed"
        )
    checks: dict[str, tuple[tuple[type, ...], str]] = {
        "cotbal_version": ((str,), "a string"),
        "scores_sha256": ((str, type(None)), "a string or null"),
        "confidence": ((float, type(None)), "a number or null"),
        "replicates": ((int,), "a whole number"),
        "seed": ((int, type(None)), "a whole number or null"),
        "shrink": ((bool,), "true or false"),
        "undefined": ((list,), "a list of task names"),
        "seeds": ((list,), "a list of whole numbers"),
    }
    for field_name, (types, wanted) in checks.items():
        value = found.get(field_name, [])
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise ValueError(f"provenance.{field_name} is {value!r}; {wanted} is needed")
    undefined = tuple(check_task_name(name) for name in found["undefined"])
    seeds = found.get("seeds", [])
    if any(isinstance(seed, bool) or not isinstance(seed, int) for seed in seeds):
        raise ValueError(f"provenance.seeds is {seeds!r}; a list of whole numbers is needed")
    return Provenance(**{**found, "undefined": undefined, "seeds": tuple(seeds)})
