"""The values a report is made from; no output folder is needed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from cotbal.data.records import Problem
from cotbal.method.arrays import FloatArray, Labels, directions
from cotbal.method.measurement import Measurement
from cotbal.method.scores import ScoreTable
from cotbal.method.weights import TaskWeights
from cotbal.tasks import Task, check_task_names

SINGLE = "single"


@dataclass(frozen=True)
class StrategyScores:
    """Test scores of one strategy on one seed.

    Attributes:
        strategy: `"ew"`, `"cotbal"`, ...; `"single"` for the models tuned on one task each, taken together.
        seed: of the tuning.
        scores: task -> mean test score, raw (as its metric gives it). Tasks not scored are absent.
        samples: task -> score of every test sample, where known, in the same order for all strategies.

    Raises:
        ValueError: a score is NaN or infinite.
    """

    strategy: str
    seed: int
    scores: Mapping[str, float]
    samples: Mapping[str, FloatArray] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        for task, score in self.scores.items():
            if not math.isfinite(score):
                raise ValueError(
                    f"test score of {self.strategy!r}, seed {self.seed}, on task {task!r} is {score}; a finite "
                    "number is needed. Leave out tasks that were not scored"
                )
        object.__setattr__(self, "scores", MappingProxyType(dict(self.scores)))


@dataclass(frozen=True)
class Comparison:
    """Test scores of all tuned models.

    Attributes:
        tasks: names of the tasks with a test set.
        higher_is_better: direction of each task's metric.
        scores: one per strategy and seed.
        samples: task -> size of its test set, where known.
        groups: task -> a label per test sample; those that share one (questions on one picture) are drawn together.

    Raises:
        ValueError: a strategy appears twice with the same seed, or a score belongs to an unknown task.
    """

    tasks: tuple[str, ...]
    higher_is_better: tuple[bool, ...]
    scores: tuple[StrategyScores, ...]
    samples: Mapping[str, int] = field(default_factory=dict)
    groups: Mapping[str, Labels] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tasks", check_task_names(self.tasks))
        object.__setattr__(self, "higher_is_better", directions(self.higher_is_better, self.tasks))
        object.__setattr__(self, "samples", MappingProxyType(dict(self.samples)))
        seen: set[tuple[str, int]] = set()
        for row in self.scores:
            if (row.strategy, row.seed) in seen:
                raise ValueError(f"scores holds {row.strategy!r} with seed {row.seed} twice; give each once")
            seen.add((row.strategy, row.seed))
            unknown = [task for task in row.scores if task not in self.tasks]
            if unknown:
                raise ValueError(
                    f"{row.strategy!r} with seed {row.seed} has a score of {unknown[0]!r}; the tasks are "
                    f"{list(self.tasks)}"
                )

    @property
    def strategies(self) -> tuple[str, ...]:
        """The strategies in order of appearance, without single-task tuning."""
        return tuple(dict.fromkeys(row.strategy for row in self.scores if row.strategy != SINGLE))

    def of(self, strategy: str) -> tuple[StrategyScores, ...]:
        """Return the scores of one strategy by seed."""
        return tuple(sorted((r for r in self.scores if r.strategy == strategy), key=lambda r: r.seed))


@dataclass(frozen=True)
class Curve:
    """Training loss of one task in one unit.

    Attributes:
        unit: the unit's name.
        model: `"mini"`, `"plus_<task>"`, `"single"`, or a strategy.
        seed: the unit's seed.
        task: the task whose loss it is.
        steps: optimizer steps, ascending.
        losses: mean loss per supervised token since the last entry; NaN where the task had no token.

    Raises:
        ValueError: the lengths differ, or the steps do not ascend.
    """

    unit: str
    model: str
    seed: int
    task: str
    steps: tuple[int, ...]
    losses: tuple[float, ...]

    def __post_init__(self) -> None:
        where = f"curve of task {self.task!r} in unit {self.unit!r}"
        if len(self.steps) != len(self.losses):
            raise ValueError(f"{where} has {len(self.steps)} steps and {len(self.losses)} losses")
        if any(b <= a for a, b in zip(self.steps[:-1], self.steps[1:], strict=True)):
            raise ValueError(f"{where}: its steps must ascend")


@dataclass(frozen=True)
class UnitRecord:
    """The record of one unit.

    Attributes:
        name: the name of the unit and its folder.
        state: `planned`, `trained` or `scored`.
        seed: the seed of its data order and dropout.
        steps: optimizer steps.
        samples: samples trained on, over all epochs.
        seconds: phase (`train`, `score`, `forced` for token accuracies) -> time it took.
    """

    name: str
    state: str
    seed: int
    steps: int = 0
    samples: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def total_seconds(self) -> float:
        """The time of all phases."""
        return sum(self.seconds.values())

    @property
    def scoring_seconds(self) -> float:
        """The time of all phases after the training."""
        return self.total_seconds - self.seconds.get("train", 0.0)


@dataclass(frozen=True)
class ReportProvenance:
    """Where the results come from; shown unchanged.

    Attributes:
        versions: package -> version.
        seeds: purpose -> seed(s), in words or numbers.
        config: the config as YAML text; may be empty.
        model: the model that all tuning started from.
        date: when the work was finished; may be empty. Reports with the same date and results are equal.
        units: every unit.
    """

    versions: Mapping[str, str] = field(default_factory=dict)
    seeds: Mapping[str, str] = field(default_factory=dict)
    config: str = ""
    model: str = ""
    date: str = ""
    units: tuple[UnitRecord, ...] = ()


@dataclass(frozen=True)
class ReportInput:
    """Everything a report says, in values. Parts that do not exist yet are None or empty, and the report says so.

    Attributes:
        title: heading, the mixture's name usually.
        tasks: all tasks of the mixture, measured or not, in the order of every table.
        scores: validation scores of the preparation models.
        measurement: contributions and difficulties.
        weights: the task weights.
        comparison: test scores.
        curves: training losses.
        problems: broken records that were left out of training or evaluation.
        warnings: sentences for the reader, in addition to the report's own.
        provenance: versions, seeds, config.

    Raises:
        ValueError: there is no task, a task is repeated, or one of the parts contains an unknown task.
    """

    title: str
    tasks: tuple[Task, ...]
    scores: ScoreTable | None = None
    measurement: Measurement | None = None
    weights: TaskWeights | None = None
    comparison: Comparison | None = None
    curves: tuple[Curve, ...] = ()
    problems: tuple[Problem, ...] = ()
    warnings: tuple[str, ...] = ()
    provenance: ReportProvenance = field(default_factory=ReportProvenance)

    def __post_init__(self) -> None:
        names = check_task_names(task.name for task in self.tasks)
        parts: dict[str, tuple[str, ...]] = {
            "scores": self.scores.tasks if self.scores else (),
            "measurement": self.measurement.tasks if self.measurement else (),
            "weights": self.weights.tasks if self.weights else (),
            "comparison": self.comparison.tasks if self.comparison else (),
            "curves": tuple(curve.task for curve in self.curves),
        }
        for part, found in parts.items():
            unknown = [task for task in found if task not in names]
            if unknown:
                raise ValueError(
                    f"{part} has a task {unknown[0]!r}; the tasks of the report are {list(names)}"
                )

    @property
    def all_weights(self) -> TaskWeights | None:
        """The weights of all tasks that have one, in the order of `tasks`: measured, or given in the config."""
        if self.weights is None:
            return None
        known = self.weights.tasks
        given = {t.name: t.weight for t in self.tasks if t.weight is not None and t.name not in known}
        weights = self.weights.with_explicit(given) if given else self.weights
        return weights.for_tasks(task.name for task in self.tasks if task.name in weights.tasks)

    def task(self, name: str) -> Task:
        """Return the task with that name."""
        return next(task for task in self.tasks if task.name == name)
