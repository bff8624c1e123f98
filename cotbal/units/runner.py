"""Running units: what is missing is done, what is done is kept, what no longer fits the config is refused."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from cotbal import strategies
from cotbal.config.schema import Config
from cotbal.config.yaml_file import ConfigError
from cotbal.method.weights import TaskWeights
from cotbal.strategies.base import Strategy
from cotbal.tasks import MINI, plus_model
from cotbal.units.arguments import training_settings
from cotbal.units.choices import check_strategy, make_strategy, metric_of
from cotbal.units.evaluate import answer, check_references, score_samples
from cotbal.units.fingerprint import versions
from cotbal.units.mixture import Mixture
from cotbal.units.progress import ScheduleProgress, UnitPhase
from cotbal.units.schedule import STAGES, Schedule, Unit, make_schedule
from cotbal.units.staleness import Staleness
from cotbal.units.store import Manifest, OutputFolder, SampleScore, UnitFolder

__all__ = ["Runner"]


class Runner:
    """Makes the units of one config in this process.

    Args:
        config: what to run.
        progress: told of everything that is done.
        redo: discard what no longer fits the config in place of refusing.

    Raises:
        ConfigError: a metric, strategy or setting is unknown, or a file is missing; nothing was run.
    """

    def __init__(self, config: Config, progress: ScheduleProgress, *, redo: bool = False) -> None:
        processes = int(os.environ.get("WORLD_SIZE", "1"))
        if processes > 1:
            raise ConfigError(
                f"WORLD_SIZE is {processes}: a unit cannot be spread over several processes by this version; start "
                "cotbal itself, without torchrun or accelerate launch"
            )
        self.config = config
        self.schedule: Schedule = make_schedule(config)
        self.folder = OutputFolder(config.output)
        self.progress = progress
        self.redo = redo
        self.metrics = {
            task.name: metric_of(task, index) for index, task in enumerate(config.tasks) if task.metric
        }
        self.settings = {stage: training_settings(config, stage) for stage in STAGES}
        for index, strategy in enumerate(config.comparison.strategies):
            check_strategy(strategy, index, [task.name for task in config.tasks])
        self.mixture = Mixture(config)
        self.staleness = Staleness(config, self.folder, self.mixture, self.metrics, self.settings)
        self._processor: Any = None
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
        """See `Staleness.check`."""
        return self.staleness.check(units, weights, redo=self.redo)

    def remaining(self, units: Iterable[Unit]) -> list[UnitPhase]:
        """What these units still have to do, in samples; counts for those that wait for weights too."""
        phases: list[UnitPhase] = []
        for unit in units:
            manifest = self.folder.unit(unit.name).manifest()
            state = manifest.state if manifest is not None else "planned"
            if state == "planned":
                phases.append(UnitPhase(unit.name, "train", self._training_samples(unit)))
            if state != "scored":
                phases.append(UnitPhase(unit.name, "score", self._scored_samples(unit)))
        self._tell_problems()
        return phases

    def _tell_problems(self) -> None:
        problems = self.mixture.problems
        if self.mixture.files_read:
            self.folder.write_problems(problems, self.mixture.files_read)
        if problems:
            self.progress.say(
                f"left out {len(problems)} broken records, the first is {problems[0]}; all are listed in "
                f"{self.folder.bad_records}"
            )

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
        if folder.skipped.is_file():
            self.folder.write_problems((), read=())
            self.progress.say(
                f"{unit.name}: records were left out while training, see {self.folder.bad_records}"
            )
        release_memory()
        self.progress.end()
        return manifest

    def _strategy(self, unit: Unit, weights: TaskWeights | None) -> Strategy:
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
        if unit.stage == "prepare" and not self.config.preparation.keep_models:
            shutil.rmtree(folder.model, ignore_errors=True)

    def _tell_hopeless(self, unit: Unit, scores: Sequence[SampleScore]) -> None:
        """Say at once what would stop the weighing when all units are done: a task of undefined difficulty."""
        for task in unit.scored_tasks if unit.stage == "prepare" else ():
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
