"""Gather the contents of an output folder into the values that a report is made from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cotbal.config.schema import Config
from cotbal.config.yaml_file import ConfigError
from cotbal.data.dataset_info import data_file
from cotbal.data.records import Problem
from cotbal.method.arrays import FloatArray
from cotbal.method.measurement import Measurement, measure
from cotbal.method.scores import ScoreTable
from cotbal.method.weights import TaskWeights
from cotbal.metrics import get as get_metric
from cotbal.output.manifest import Manifest, retry_sentence
from cotbal.output.score_file import SampleScore
from cotbal.output.store import OutputFolder
from cotbal.report.inputs import (
    SINGLE,
    Comparison,
    Curve,
    ReportInput,
    ReportProvenance,
    StrategyScores,
    UnitRecord,
)
from cotbal.tasks import Task
from cotbal.units.schedule import Schedule, Unit, make_schedule

__all__ = ["measure_scores", "read_accuracies", "report_input", "saved_accuracies", "task_values"]


def task_values(config: Config, directions: Mapping[str, bool] | None = None) -> tuple[Task, ...]:
    """The tasks of a config as values, with the direction of their metrics.

    Args:
        directions: whether higher is better, of tasks with a metric of the user's own, as it was when they were
            scored; such a metric is then not imported.
    """
    values = []
    for task in config.tasks:
        higher = task.higher_is_better
        if higher is None and directions is not None and ":" in (task.metric or ""):
            higher = directions.get(task.name, True)
        if higher is None:
            higher = get_metric(task.metric).higher_is_better if task.metric is not None else True
        values.append(Task(task.name, task.metric, higher, task.weight))
    return tuple(values)


def _directions(manifests: Mapping[str, Manifest | None]) -> dict[str, bool]:
    """The directions of users' own metrics, from the units they have scored."""
    return {
        task: bool(scoring["higher_is_better"])
        for manifest in manifests.values()
        if manifest is not None
        for task, scoring in manifest.scoring.items()
        if "higher_is_better" in scoring
    }


def read_accuracies(folder: OutputFolder) -> ScoreTable | None:
    """The token accuracies that a preparation with the hybrid estimator has left; None without."""
    folder.check_product(folder.accuracies_csv)
    path = folder.accuracies_csv
    return ScoreTable.from_csv(path, higher_is_better=True) if path.is_file() else None


def saved_accuracies(config: Config, folder: OutputFolder) -> ScoreTable | None:
    """The same, held to the config's estimator.

    Raises:
        ConfigError: the folder's preparation is of the other estimator.
    """
    found = read_accuracies(folder)
    made = "full" if found is None else "hybrid"
    if made != config.preparation.estimator:
        raise ConfigError(
            f"{folder.path}: its preparation is of `estimator: {made}`, and the config says "
            f"{config.preparation.estimator}; run `cotbal prepare`, which makes what is missing and no more"
        )
    return found


def measure_scores(config: Config, scores: ScoreTable, accuracies: ScoreTable | None = None) -> Measurement:
    """Call `measure` with a config's settings."""
    settings = config.weighing
    return measure(
        scores,
        accuracies=accuracies,
        confidence=settings.confidence,
        replicates=settings.replicates,
        seed=config.seed,
        plain=settings.plain,
    )


def report_input(config: Config) -> ReportInput:
    """Gather everything done so far; what is missing stays empty."""
    folder = OutputFolder(config.output)
    schedule = make_schedule(config)
    manifests = {unit.name: folder.unit(unit.name).manifest() for unit in schedule.units}
    folder.check_product(folder.scores_csv)
    folder.check_product(folder.weights_json)
    _check_preparation(schedule, folder, manifests)
    scores = ScoreTable.from_csv(folder.scores_csv) if folder.scores_csv.is_file() else None
    accuracies = None if scores is None else saved_accuracies(config, folder)
    return ReportInput(
        title=config.title,
        tasks=task_values(config, _directions(manifests)),
        scores=scores,
        measurement=None if scores is None else measure_scores(config, scores, accuracies),
        weights=TaskWeights.load(folder.weights_json) if folder.weights_json.is_file() else None,
        comparison=_comparison(config, schedule, folder, manifests),
        curves=tuple(curve for unit in schedule.units for curve in _curves(folder, unit)),
        problems=_problems(config, folder),
        warnings=_warnings(manifests),
        provenance=_provenance(config, schedule, manifests),
    )


def _check_preparation(
    schedule: Schedule, folder: OutputFolder, manifests: Mapping[str, Manifest | None]
) -> None:
    """Hold the scores that `scores.csv` was made from to their seals, as those of the comparison are.

    Raises:
        DamagedFileError: some are not as they were written.
    """
    for unit in schedule.of("prepare"):
        manifest = manifests[unit.name]
        if manifest is not None and manifest.state == "scored":
            folder.unit(unit.name).kept_scores(manifest)


def _problems(config: Config, folder: OutputFolder) -> tuple[Problem, ...]:
    """The records that were left out.

    Raises:
        ConfigError: they are of files that the config does not name: another run's list, or a config changed since.
    """
    ours = {
        path
        for task in config.tasks
        for split in ("train", "validation", "test")
        for path in map(_data_file, getattr(task, split))
    }
    found = folder.problems()
    other = next((problem.file for problem in found if problem.file not in ours), None)
    if other is not None:
        raise ConfigError(
            f"{folder.bad_records}: it lists records of {other}, which is no file of this config; delete it, and "
            "`cotbal run` writes it anew"
        )
    return found


def _data_file(path: Path) -> Path:
    try:
        return data_file(path)
    except ValueError:
        # Its `dataset_info.json` is gone or has changed.
        return path


def _warnings(manifests: Mapping[str, Manifest | None]) -> tuple[str, ...]:
    """What happened to units on their way that a reader has to know."""
    begun = [manifest for manifest in manifests.values() if manifest is not None]
    retried = [
        f"{manifest.unit} {retry_sentence(entry)}: its result is not that of the config's learning rate."
        for manifest in begun
        for entry in manifest.divergences
    ]
    stopped = [f"{manifest.unit} stopped: {manifest.stopped}" for manifest in begun if manifest.stopped]
    return (*retried, *stopped)


def _comparison(
    config: Config, schedule: Schedule, folder: OutputFolder, manifests: dict[str, Manifest | None]
) -> Comparison | None:
    tasks = tuple(
        task
        for task, settings in zip(task_values(config, _directions(manifests)), config.tasks, strict=True)
        if settings.test
    )
    means: dict[tuple[str, int], dict[str, float]] = {}
    values: dict[tuple[str, int], dict[str, FloatArray]] = {}
    groups: dict[str, list[str]] = {}
    for unit in schedule.of("tune"):
        manifest = manifests[unit.name]
        if manifest is None or manifest.state != "scored" or not unit.scored_tasks:
            continue
        model = SINGLE if unit.strategy is None else unit.model
        row = means.setdefault((model, unit.seed), {})
        by_task: dict[str, list[SampleScore]] = {}
        for sample in folder.unit(unit.name).scores():
            by_task.setdefault(sample.task, []).append(sample)
        for task, found in by_task.items():
            scored = [sample.score for sample in found]
            row[task] = math.fsum(scored) / len(scored)
            values.setdefault((model, unit.seed), {})[task] = np.array(scored)
            groups[task] = [sample.group for sample in found]
    if not means:
        return None
    return Comparison(
        tasks=tuple(task.name for task in tasks),
        higher_is_better=tuple(task.higher_is_better for task in tasks),
        scores=tuple(
            StrategyScores(model, seed, row, values.get((model, seed), {}))
            for (model, seed), row in means.items()
        ),
        samples={task: len(labels) for task, labels in groups.items()},
        groups={task: np.array(labels, dtype=np.str_) for task, labels in groups.items()},
    )


def _curves(folder: OutputFolder, unit: Unit) -> list[Curve]:
    """Return each task's training loss, from the log entries that have one."""
    model = SINGLE if unit.stage == "tune" and unit.strategy is None else unit.model
    points: dict[str, dict[int, float]] = {}
    for entry in folder.unit(unit.name).log():
        for task in unit.train_tasks:
            loss = entry.get(f"loss/{task}")
            if loss is not None:
                points.setdefault(task, {})[int(entry["step"])] = float(loss)
    return [
        Curve(
            unit.name,
            model,
            unit.seed,
            task,
            tuple(sorted(found)),
            tuple(found[step] for step in sorted(found)),
        )
        for task, found in points.items()
    ]


def _provenance(
    config: Config, schedule: Schedule, manifests: dict[str, Manifest | None]
) -> ReportProvenance:
    begun = [manifest for manifest in manifests.values() if manifest is not None]
    versions: dict[str, str] = {}
    for manifest in begun:
        for package, version in manifest.versions.items():
            known = versions.setdefault(package, version)
            if version not in known.split(", "):
                versions[package] = f"{known}, {version}"
    return ReportProvenance(
        versions=versions,
        seeds={
            "preparation": ", ".join(map(str, config.preparation_seeds)),
            "comparison": ", ".join(map(str, config.comparison_seeds)),
            "bootstrap": str(config.seed),
        },
        config=config.text,
        model=config.model.name,
        date=max((manifest.finished for manifest in begun), default=""),
        units=tuple(
            UnitRecord(
                unit.name,
                "planned" if manifest is None else "stopped" if manifest.stopped else manifest.state,
                unit.seed,
                0 if manifest is None else manifest.steps,
                0 if manifest is None else manifest.samples.get("train", 0),
                {} if manifest is None else dict(manifest.seconds),
            )
            for unit in schedule.units
            for manifest in [manifests[unit.name]]
        ),
    )
