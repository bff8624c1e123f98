"""Running units: what is missing is done, what is done is kept, what no longer fits the config is refused."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cotbal import strategies
from cotbal.config.schema import Config, StrategyConfig, TaskConfig
from cotbal.config.yaml_file import ConfigError
from cotbal.method.weights import TaskWeights
from cotbal.metrics import Metric
from cotbal.metrics import get as get_metric
from cotbal.tasks import MINI, plus_model
from cotbal.units.arguments import settings_that_matter, training_settings
from cotbal.units.evaluate import answer, check_references, score_samples
from cotbal.units.fingerprint import differences, folder_digest, versions
from cotbal.units.mixture import Mixture
from cotbal.units.progress import PlanProgress, Work
from cotbal.units.schedule import Plan, Unit, make_plan
from cotbal.units.store import Manifest, RunFolder, SampleScore, UnitFolder

__all__ = ["Runner", "UnitChangedError"]


class UnitChangedError(ConfigError):
    """Finished units were made from something else than the config now says."""


class Runner:
    """Runs the units of one config in this process.

    Args:
        config: what to run.
        progress: told of everything that is done.
        redo: discard what no longer fits the config in place of refusing.

    Raises:
        ConfigError: a metric, strategy or setting is unknown, or a file is missing; nothing was run.
    """

    def __init__(self, config: Config, progress: PlanProgress, *, redo: bool = False) -> None:
        processes = int(os.environ.get("WORLD_SIZE", "1"))
        if processes > 1:
            raise ConfigError(
                f"WORLD_SIZE is {processes}: a unit cannot be spread over several processes by this version; start "
                "cotbal itself, without torchrun or accelerate launch"
            )
        self.config = config
        self.plan: Plan = make_plan(config)
        self.folder = RunFolder(config.output)
        self.progress = progress
        self.redo = redo
        self.metrics = {
            task.name: metric_of(task, index) for index, task in enumerate(config.tasks) if task.metric
        }
        self.settings = {stage: training_settings(config, stage) for stage in ("preparation", "comparison")}
        for index, strategy in enumerate(config.comparison.strategies):
            check_strategy(strategy, index, [task.name for task in config.tasks])
        self.mixture = Mixture(config)
        self._processor: Any = None
        self._model_digest: str | None = None
        self._references_checked: set[tuple[str, str]] = set()

    @property
    def processor(self) -> Any:
        """The processor, loaded once."""
        if self._processor is None:
            from cotbal.units.loading import load_processor

            self._processor = load_processor(self.config.model)
        return self._processor

    def run(self, units: Iterable[Unit], weights: TaskWeights | None = None) -> None:
        """Do what is missing of these units, in order.

        Args:
            weights: weight of every task, for units that are tuned with the measured weights.

        Raises:
            UnitChangedError: finished units were made from something else; nothing was run.
        """
        chosen = list(units)
        manifests = self.check(chosen, weights)
        for unit in chosen:
            self._run_unit(unit, manifests[unit.name], weights)

    def check(self, units: Sequence[Unit], weights: TaskWeights | None = None) -> dict[str, Manifest]:
        """The manifest each unit has or is to have; stale results are refused, or discarded with `redo`.

        Raises:
            UnitChangedError: what changed, unit by unit, and what to do.
        """
        manifests: dict[str, Manifest] = {}
        stale: list[str] = []
        for unit in units:
            folder = self.folder.unit(unit.name)
            fresh = self.describe(unit, weights)
            stored = folder.manifest()
            if stored is None:
                folder.discard()
                manifests[unit.name] = fresh
                continue
            retrain = differences(stored.training, fresh.training)
            rescore = differences(stored.scoring, fresh.scoring)
            if not (retrain or rescore):
                manifests[unit.name] = stored
            elif self.redo:
                manifests[unit.name] = self._discard_stale(folder, stored, fresh, bool(retrain))
            elif retrain:
                stale.append(f"{unit.name} would have to be trained again:\n    " + "\n    ".join(retrain))
            else:
                stale.append(f"{unit.name} would have to be scored again:\n    " + "\n    ".join(rescore))
        if stale:
            raise UnitChangedError(
                f"{self.folder.path}: these results were made from something else than the config now says\n  "
                + "\n  ".join(stale)
                + "\nUndo the change, give another `output`, or add --redo to discard them and do them again."
            )
        return manifests

    def work(self, units: Iterable[Unit]) -> list[Work]:
        """What these units still have to do, in samples; counts for those that wait for weights too."""
        works: list[Work] = []
        for unit in units:
            manifest = self.folder.unit(unit.name).manifest()
            state = manifest.state if manifest is not None else "planned"
            if state == "planned":
                works.append(Work(unit.name, "train", self._training_samples(unit)))
            if state != "scored":
                works.append(Work(unit.name, "score", self._scored_samples(unit)))
        self._tell_problems()
        return works

    def _tell_problems(self) -> None:
        problems = self.mixture.problems
        if self.mixture.files_read:
            self.folder.write_problems(problems, self.mixture.files_read)
        if problems:
            self.progress.say(
                f"left out {len(problems)} broken records, the first is {problems[0]}; all are listed in "
                f"{self.folder.bad_records}"
            )

    def describe(self, unit: Unit, weights: TaskWeights | None = None) -> Manifest:
        """The manifest of a unit that has not begun: everything its result depends on.

        Raises:
            ConfigError: it is tuned with measured weights and there are none.
        """
        config = self.config
        if unit.needs_weights and weights is None:
            raise ConfigError(
                f"{unit.name} is tuned with measured weights, and there are none yet; run `cotbal weigh` first"
            )
        training: dict[str, Any] = {
            "model": config.model.model_dump(mode="json", exclude={"name"})
            | {"content": self._model_content()},
            "seed": unit.seed,
            "data": self.mixture.training_files(unit),
            "max_length": config.max_length,
            "bad_records": config.bad_records,
            "training": settings_that_matter(self.settings[unit.stage]),
        }
        if unit.stage == "preparation":
            training["fractions"] = {
                "mini": config.preparation.mini_fraction,
                "plus": config.preparation.plus_fraction,
            }
        if unit.strategy is not None:
            training["strategy"] = {"name": unit.strategy.name, "options": unit.strategy.options}
        if unit.needs_weights and weights is not None:
            training["weights"] = weights.as_dict()
        scoring: dict[str, Any] = {task: self._scoring(unit, task) for task in unit.scored_tasks}
        return Manifest(unit.name, unit.model, unit.stage, unit.seed, training, scoring)

    def _scoring(self, unit: Unit, task: str) -> dict[str, Any]:
        settings = self.mixture.task(task)
        metric = self.metrics[task]
        scoring: dict[str, Any] = {"data": self.mixture.scoring_files(unit, task), "metric": settings.metric}
        if metric.kind == "generation":
            scoring["max_new_tokens"] = settings.max_new_tokens
        return scoring

    def _model_content(self) -> str:
        if self._model_digest is None:
            name = self.config.model.name
            self._model_digest = folder_digest(Path(name)) if Path(name).is_dir() else f"{name} (hub)"
        return self._model_digest

    def _discard_stale(
        self, folder: UnitFolder, stored: Manifest, fresh: Manifest, retrain: bool
    ) -> Manifest:
        kept = not retrain and stored.state != "planned" and folder.model.is_dir()
        if not kept:
            folder.discard()
            return fresh
        manifest = fresh.advanced(
            "trained",
            versions=stored.versions,
            seconds=stored.seconds,
            samples=stored.samples,
            steps=stored.steps,
        )
        folder.write_manifest(manifest)
        folder.discard_scores()
        return manifest

    def _run_unit(self, unit: Unit, manifest: Manifest, weights: TaskWeights | None) -> None:
        folder = self.folder.unit(unit.name)
        if manifest.state == "scored":
            return
        if manifest.state == "trained" and not folder.model.is_dir():
            raise ConfigError(
                f"{folder.model}: there is no such folder, but the unit is marked as trained; delete {folder.path} "
                "to train it again"
            )
        if manifest.state == "planned":
            manifest = self._train(unit, folder, manifest, weights)
        shutil.rmtree(folder.checkpoints, ignore_errors=True)
        self._score(unit, folder, manifest)

    def _train(
        self, unit: Unit, folder: UnitFolder, manifest: Manifest, weights: TaskWeights | None
    ) -> Manifest:
        from cotbal.units.train import release_memory, train

        manifest = manifest.advanced("planned", versions=versions())
        folder.write_manifest(manifest)
        samples = self._training_samples(unit)
        trained = train(
            unit,
            self.config,
            self.settings[unit.stage],
            self.mixture.training_set(unit),
            self.processor,
            self._strategy(unit, weights),
            folder,
            samples=samples,
            begin=lambda done: self.progress.begin(unit.name, "train", done),
            advance=self.progress.advance,
        )
        manifest = manifest.advanced(
            "trained",
            steps=trained.steps,
            seconds={**manifest.seconds, "train": trained.seconds},
            samples={**manifest.samples, "train": samples},
        )
        folder.write_manifest(manifest)
        release_memory()
        self.progress.end()
        return manifest

    def _strategy(self, unit: Unit, weights: TaskWeights | None) -> strategies.Strategy:
        if unit.strategy is None:
            return strategies.get("ew", len(unit.train_tasks))
        return make_strategy(unit.strategy, unit.train_tasks, unit.seed, weights)

    def _score(self, unit: Unit, folder: UnitFolder, manifest: Manifest) -> None:
        """Score the saved model: what is scored is what is kept, whether or not this call trained it."""
        started = time.monotonic()
        scores: list[SampleScore] = []
        if unit.scored_tasks:
            from cotbal.units.loading import load_model
            from cotbal.units.train import release_memory

            self.progress.begin(unit.name, "score")
            model = load_model(self.config.model, folder.model)
            model = model.to(self._device(unit))
            for task in unit.scored_tasks:
                scores += self._score_task(unit, folder, model, task)
            del model
            release_memory()
            self.progress.end()
        folder.write_scores(scores)
        self._tell_hopeless(unit, scores)
        folder.write_manifest(
            manifest.advanced(
                "scored",
                finished=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
                seconds={**manifest.seconds, "score": time.monotonic() - started},
                samples={**manifest.samples, "score": len(scores)},
            )
        )
        shutil.rmtree(folder.predictions, ignore_errors=True)
        if unit.stage == "preparation" and not self.config.preparation.keep_models:
            shutil.rmtree(folder.model, ignore_errors=True)

    def _tell_hopeless(self, unit: Unit, scores: Sequence[SampleScore]) -> None:
        """Say at once what would stop the weighing when all runs are done: a task of undefined difficulty."""
        for task in unit.scored_tasks if unit.stage == "preparation" else ():
            stated = self.mixture.task(task).higher_is_better
            higher = self.metrics[task].higher_is_better if stated is None else stated
            decisive = plus_model(task) if higher else MINI
            if unit.model == decisive and sum(score.score for score in scores if score.task == task) <= 0:
                self.progress.say(
                    f"warning: {unit.model} scores 0 on task '{task}', so its difficulty is undefined and weighing "
                    "will stop there. Stop now and give it a metric with a finer scale, a longer preparation or an "
                    "explicit `weight`"
                )

    def _score_task(self, unit: Unit, folder: UnitFolder, model: Any, task: str) -> list[SampleScore]:
        records = self.mixture.records(task, unit.split)
        metric = self.metrics[task]
        answers = answer(
            model,
            self.processor,
            records,
            metric=metric,
            batch_size=self.config.evaluation.batch_size,
            max_new_tokens=self.mixture.task(task).max_new_tokens,
            max_length=self.config.max_length,
            path=folder.predictions / f"{task}.jsonl",
            advance=self.progress.advance,
        )
        return score_samples(records, answers, metric, task, self.mixture.task(task).images)

    def _device(self, unit: Unit) -> Any:
        from cotbal.units.arguments import training_arguments

        return training_arguments(
            self.settings[unit.stage], self.folder.unit(unit.name).checkpoints, unit.seed
        ).device

    def _training_samples(self, unit: Unit) -> int:
        """Samples the whole training of a unit sees, over all epochs."""
        settings = self.settings[unit.stage]
        # Read even where the number of steps is given: a broken record should be met now, not hours later.
        records = self.mixture.training_set(unit)
        if settings.get("max_steps", -1) > 0:
            accumulated = settings.get("gradient_accumulation_steps", 1)
            return int(settings["max_steps"] * settings.get("per_device_train_batch_size", 8) * accumulated)
        return math.ceil(float(settings["num_train_epochs"]) * len(records))

    def _scored_samples(self, unit: Unit) -> int:
        for task in unit.scored_tasks:
            if (task, unit.split) not in self._references_checked:
                check_references(self.mixture.records(task, unit.split), self.metrics[task], task)
                self._references_checked.add((task, unit.split))
        return sum(len(self.mixture.records(task, unit.split)) for task in unit.scored_tasks)


def metric_of(task: TaskConfig, index: int) -> Metric:
    """The metric a task names.

    Raises:
        ConfigError: there is no such metric.
    """
    try:
        return get_metric(str(task.metric))
    except (ValueError, TypeError, ImportError) as error:
        raise ConfigError(f"tasks[{index}].metric: {error}") from error


def make_strategy(
    settings: StrategyConfig, tasks: Sequence[str], seed: int, weights: TaskWeights | None
) -> strategies.Strategy:
    """The strategy of a config, for these tasks in this order.

    ``fixed`` takes its weights by task name; ``rlw`` draws from the run's seed unless it is given one.

    Raises:
        ValueError: an unknown strategy or option, or a task without a weight.
    """
    options = settings.options
    if settings.name == "cotbal" and weights is not None:
        options = {"weights": weights, "tasks": tasks} | options
    if settings.name == "rlw":
        options = {"seed": seed} | options
    if settings.name == "fixed" and isinstance(options.get("weights"), Mapping):
        given = options["weights"]
        unfit = sorted({*given} ^ {*tasks})
        if unfit:
            raise ValueError(
                f"weights has to name every task once and no other; see {', '.join(map(str, unfit))}"
            )
        options = options | {"weights": [given[task] for task in tasks]}
    return strategies.get(settings.name, len(tasks), **options)


def check_strategy(settings: StrategyConfig, index: int, tasks: Sequence[str]) -> None:
    """Refuse an unknown strategy or option before anything is run.

    Raises:
        ConfigError: the key's path and what is wrong.
    """
    place = f"comparison.strategies[{index}]"
    if settings.name == "cotbal":
        if settings.options:
            names = ", ".join(settings.options)
            raise ConfigError(f"{place}: cotbal takes no options, found {names}; see `weighing`")
        return
    try:
        make_strategy(settings, tasks, 0, None)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{place}: {error}") from error
