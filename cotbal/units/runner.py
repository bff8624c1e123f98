"""Run units: do what is missing, keep what is done, and refuse what no longer fits the config."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cotbal import strategies
from cotbal.config.schema import Config
from cotbal.config.yaml_file import ConfigError
from cotbal.method.weights import TaskWeights
from cotbal.metrics.metric import TOKEN_ACCURACY
from cotbal.models.adapters import check_adapter
from cotbal.models.quantization import check_quantization
from cotbal.output.answer_file import Answer
from cotbal.output.fingerprint import versions
from cotbal.output.integrity import UnitDamagedError
from cotbal.output.manifest import Manifest
from cotbal.output.score_file import SampleScore
from cotbal.output.seals import seal_bytes
from cotbal.output.store import OutputFolder, UnitFolder
from cotbal.strategies.base import Strategy
from cotbal.tasks import MINI, plus_model
from cotbal.units import ranks
from cotbal.units.answering import Answering, Questions, check_engine, in_process
from cotbal.units.arguments import training_settings
from cotbal.units.batches import batch_layout, processes_per_unit
from cotbal.units.choices import check_strategy, make_strategy, metric_of
from cotbal.units.faults import plain_faults
from cotbal.units.generation import generation_settings, scoring_dtype
from cotbal.units.mixture import Mixture
from cotbal.units.progress import ScheduleProgress, UnitPhase
from cotbal.units.schedule import STAGES, Schedule, Unit, forced, make_schedule
from cotbal.units.scoring import check_references, score_samples
from cotbal.units.staleness import Staleness

__all__ = ["Runner"]


class Runner:
    """Makes the units of one config in this process.

    Args:
        config: what to run.
        progress: receives everything that is done.
        redo: discard what no longer fits the config instead of refusing it.

    Attributes:
        needed: bytes of memory that each process of a unit needs, of units for which that has been estimated (0 where
            it could not be).

    Raises:
        ConfigError: a metric, strategy or setting is unknown, or a file is missing; nothing has run.
    """

    def __init__(self, config: Config, progress: ScheduleProgress, *, redo: bool = False) -> None:
        self.config = config
        self.schedule: Schedule = make_schedule(config)
        self.folder = OutputFolder(config.output)
        self.progress = progress
        self.redo = redo
        self.needed: Mapping[str, int] = {}
        self.metrics = {
            task.name: metric_of(task, index) for index, task in enumerate(config.tasks) if task.metric
        }
        generation_settings(config.evaluation.generation)
        check_engine(config, self.metrics)
        self.settings = {stage: training_settings(config, stage) for stage in STAGES}
        check_adapter(config.model)
        for stage in STAGES:
            check_quantization(config.model, self.settings[stage])
            batch_layout(self.settings[stage], processes_per_unit(config))
        names = [task.name for task in config.tasks]
        for index, strategy in enumerate(config.comparison.strategies):
            check_strategy(strategy, index, names, validated=bool(config.measured_tasks))
        self.mixture = Mixture(config)
        self.staleness = Staleness(config, self.folder, self.mixture, self.metrics, self.settings)
        self._processor: Any = None
        self._references_checked: set[tuple[str, str]] = set()

    @property
    def processor(self) -> Any:
        """The processor, loaded once."""
        if self._processor is None:
            from cotbal.models.loading import load_processor

            self._processor = load_processor(self.config.model)
        return self._processor

    def run(
        self, units: Iterable[Unit], weights: TaskWeights | None = None, *, holding: bool = False
    ) -> None:
        """Do what is missing of these units, in order; one that another process is making is waited for.

        Args:
            weights: the weight of every task, for units that are tuned with the measured weights.
            holding: the caller holds their locks; see `OutputFolder.unit_locked`.

        Raises:
            UnitChangedError: finished units were made from something else; nothing has run.
        """
        chosen = list(units)
        manifests = self.check(chosen, weights)
        for unit in chosen:
            hold = nullcontext(False) if holding else self.folder.unit_locked(unit.name, self.progress.say)
            with hold as waited:
                # What was waited for has changed since the look at all of them.
                manifest = self.check([unit], weights)[unit.name] if waited else manifests[unit.name]
                self._run_unit(unit, manifest, weights)

    def check(self, units: Sequence[Unit], weights: TaskWeights | None = None) -> dict[str, Manifest]:
        """See `Staleness.check`; of several processes the first looks, and tells the others."""
        found = self.staleness.check(units, weights, redo=self.redo) if ranks.is_first() else {}
        told: dict[str, Manifest] = ranks.gathered(found)[0]
        return told

    def remaining(self, units: Iterable[Unit]) -> list[UnitPhase]:
        """Return the samples that these units still have to process, including those that wait for weights."""
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
        if self.mixture.files_read and ranks.is_first():
            self.folder.write_problems(problems, self.mixture.files_read)
        if problems and ranks.is_first():
            self.progress.say(
                f"left out {len(problems)} broken records, the first being {problems[0]}; all are listed in "
                f"{self.folder.bad_records}"
            )

    def _run_unit(self, unit: Unit, manifest: Manifest, weights: TaskWeights | None) -> None:
        folder = self.folder.unit(unit.name)
        if manifest.state == "scored":
            return
        if manifest.state == "trained" and not folder.model.is_dir():
            raise ConfigError(
                f"{folder.model}: no such folder, but the unit is marked as trained; delete {folder.path} "
                "to train it again"
            )
        with plain_faults(folder.path):
            if manifest.state == "planned":
                manifest = self._train(unit, folder, manifest, weights)
            if ranks.is_first():
                shutil.rmtree(folder.checkpoints, ignore_errors=True)
            self._score(unit, folder, manifest)
            ranks.barrier()

    def _train(
        self, unit: Unit, folder: UnitFolder, manifest: Manifest, weights: TaskWeights | None
    ) -> Manifest:
        from cotbal.units.retries import train_through
        from cotbal.units.train import Trained, release_memory, train

        manifest = manifest.advanced("planned", versions=versions(), stopped="")
        if ranks.is_first():
            folder.write_manifest(manifest)
        samples = self._training_samples(unit)
        looks = unit.strategy is not None and strategies.uses_validation(unit.strategy.name)
        validation = self.mixture.validation_set(unit) if looks else ()

        def attempt(learning_rate_scale: float) -> Trained:
            return train(
                unit,
                self.config,
                self.settings[unit.stage],
                self.mixture.training_set(unit),
                self.processor,
                self._strategy(unit, weights),
                folder,
                samples=samples,
                standing=self.folder.standing_of(unit.name),
                lengths=self._lengths(unit),
                begin=lambda done: self.progress.begin(unit.name, "train", done),
                advance=self.progress.advance,
                validation=validation,
                learning_rate_scale=learning_rate_scale,
                say=self.progress.say,
            )

        settings = self.settings[unit.stage]
        trained, manifest = train_through(attempt, manifest, folder, settings, self.progress.say)
        manifest = manifest.advanced(
            "trained",
            steps=trained.steps,
            seconds={**manifest.seconds, "train": trained.seconds},
            samples={**manifest.samples, "train": samples},
            files=trained.files,
        )
        if ranks.is_first():
            folder.write_manifest(manifest)
        ranks.barrier()
        # The other processes learn from it what the first has saved.
        manifest = manifest if ranks.is_first() else folder.manifest() or manifest
        if folder.skipped.is_file() and ranks.is_first():
            self.folder.write_problems((), read=())
            self.progress.say(
                f"{unit.name}: records were left out while training, see {self.folder.bad_records}"
            )
        release_memory()
        self.progress.end()
        return manifest

    def _lengths(self, unit: Unit) -> dict[tuple[Path, int], int] | None:
        """The tokens of every training record, where the unit's training groups by them."""
        if self.settings[unit.stage].get("train_sampling_strategy") != "group_by_length":
            return None
        from cotbal.units.data_check import record_lengths

        return record_lengths(self.config)

    def _strategy(self, unit: Unit, weights: TaskWeights | None) -> Strategy:
        if unit.strategy is None:
            return strategies.get("ew", len(unit.train_tasks))
        return make_strategy(unit.strategy, unit.train_tasks, unit.seed, weights)

    def _score(self, unit: Unit, folder: UnitFolder, manifest: Manifest) -> None:
        """Score the saved model, even if this call trained it, so that what is scored is what is kept."""
        started, read_seconds = time.monotonic(), 0.0
        scores, accuracies = folder.kept_scores(manifest)
        done, done_forced = ({score.task for score in kept} for kept in (scores, accuracies))
        if unit.scored_tasks:
            if self.config.evaluation.engine == "openai" and not ranks.is_first():
                # The first process asks the server for all; a barrier would not wait for as long as that takes.
                _wait_until_scored(folder)
                return
            self.progress.begin(unit.name, "score")
            found = folder.model_damage(manifest, deep=True) if ranks.is_first() else []
            if found:
                raise UnitDamagedError(f"{unit.name}: {'; '.join(found)}; add --redo to train it again")
            asked = [self._questions(unit, folder, task) for task in unit.scored_tasks if task not in done]
            read_off = [
                self._forced_questions(unit, folder, task)
                for task in unit.forced_tasks
                if task not in done_forced
            ]
            with self._answering(unit, folder, manifest, asked) as answering:
                for questions in asked:
                    scores += self._score_task(questions, answering.answers(questions))
                generated = time.monotonic()
                for questions in read_off:
                    accuracies += self._score_task(questions, answering.answers(questions))
                read_seconds = time.monotonic() - generated
                manifest = _with_engine(manifest, answering.engine)
            self.progress.end()
        if ranks.is_first():
            seconds = {"score": time.monotonic() - started - read_seconds}
            if accuracies:
                seconds["forced"] = read_seconds
            self._keep_scores(unit, folder, manifest, scores, accuracies, seconds)

    def _keep_scores(
        self,
        unit: Unit,
        folder: UnitFolder,
        manifest: Manifest,
        scores: Sequence[SampleScore],
        accuracies: Sequence[SampleScore],
        seconds: Mapping[str, float],
    ) -> None:
        seals = {**manifest.files, **folder.write_scores(scores)}
        if accuracies:
            seals |= folder.write_accuracies(accuracies)
        # Of a scoring that is completed, what its first part took counts too.
        spent = manifest.seconds if folder.score_files[0] in manifest.files else {}
        taken = {kind: part + spent.get(kind, 0.0) for kind, part in seconds.items()}
        counts = {"score": len(scores), **({"forced": len(accuracies)} if accuracies else {})}
        done = {score.task for score in scores} | {forced(score.task) for score in accuracies}
        self._tell_hopeless(unit, scores)
        section = self.config.preparation if unit.stage == "prepare" else self.config.comparison
        kept = section.keep_models
        if not kept:
            seals = {
                name: seal for name, seal in seals.items() if not name.startswith(f"{folder.model.name}/")
            }
        folder.write_manifest(
            manifest.advanced(
                "scored",
                finished=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
                scoring={name: made for name, made in manifest.scoring.items() if name in done},
                seconds={**manifest.seconds, **taken},
                samples={**manifest.samples, **counts},
                files=seals,
            )
        )
        shutil.rmtree(folder.predictions, ignore_errors=True)
        if not kept:
            shutil.rmtree(folder.model, ignore_errors=True)

    def _tell_hopeless(self, unit: Unit, scores: Sequence[SampleScore]) -> None:
        """Warn at once of what would stop the weighing after all units: a task of undefined difficulty."""
        for task in unit.scored_tasks if unit.stage == "prepare" else ():
            stated = self.mixture.task(task).higher_is_better
            higher = self.metrics[task].higher_is_better if stated is None else stated
            decisive = plus_model(task) if higher else MINI
            if unit.model == decisive and sum(score.score for score in scores if score.task == task) <= 0:
                self.progress.say(
                    f"warning: {unit.model} scores 0 on task '{task}', so its difficulty is undefined and "
                    "weighing will stop there. Stop now and give the task a metric with a finer scale, a longer "
                    "preparation or an explicit `weight`"
                )

    def _answering(
        self, unit: Unit, folder: UnitFolder, manifest: Manifest, asked: Sequence[Questions]
    ) -> AbstractContextManager[Answering]:
        """What answers for the unit, as `evaluation.engine` says."""
        source = seal_bytes(json.dumps(manifest.files, sort_keys=True).encode())
        dtype = scoring_dtype(self.config, self.settings[unit.stage])

        def load() -> Any:
            from cotbal.models.loading import load_for_scoring

            scored = self.config.model.model_copy(update={"dtype": dtype})
            return load_for_scoring(scored, folder.model, self._device(unit))

        if self.config.evaluation.engine == "transformers":
            return in_process(load, self.processor, self.config, source, self.progress.advance)
        from cotbal.units.endpoint.scoring import by_server

        return by_server(
            unit,
            asked,
            config=self.config,
            processor=self.processor,
            load=load,
            dtype=dtype,
            output=self.folder,
            source=source,
            progress=self.progress,
        )

    def _questions(self, unit: Unit, folder: UnitFolder, task: str) -> Questions:
        return Questions(
            task,
            self.mixture.records(task, unit.split),
            self.metrics[task],
            self.mixture.task(task).max_new_tokens,
            folder.predictions / f"{task}.jsonl",
        )

    def _forced_questions(self, unit: Unit, folder: UnitFolder, task: str) -> Questions:
        records = self.mixture.records(task, unit.split)
        return Questions(task, records, TOKEN_ACCURACY, 0, folder.predictions / "forced" / f"{task}.jsonl")

    def _score_task(self, questions: Questions, answers: Sequence[Answer]) -> list[SampleScore]:
        # Metrics may be slow, or cost money: the first process scores for all.
        if not ranks.is_first():
            return []
        images = self.mixture.task(questions.task).images
        return score_samples(questions.records, answers, questions.metric, questions.task, images)

    def _device(self, unit: Unit) -> Any:
        from cotbal.units.arguments import training_arguments

        return training_arguments(
            self.settings[unit.stage], self.folder.unit(unit.name).checkpoints, unit.seed
        ).device

    def _training_samples(self, unit: Unit) -> int:
        """Return the number of samples that a unit's whole training sees, over all epochs."""
        settings = self.settings[unit.stage]
        # Read the data even if the number of steps is given, to find a broken record now and not hours later.
        records = self.mixture.training_set(unit)
        if settings.get("max_steps", -1) > 0:
            return int(
                settings["max_steps"] * batch_layout(settings, processes_per_unit(self.config)).samples
            )
        return math.ceil(float(settings["num_train_epochs"]) * len(records))

    def _scored_samples(self, unit: Unit) -> int:
        for task in unit.scored_tasks:
            if (task, unit.split) not in self._references_checked and ranks.is_first():
                check_references(self.mixture.records(task, unit.split), self.metrics[task], task)
                self._references_checked.add((task, unit.split))
        passes = (*unit.scored_tasks, *unit.forced_tasks)
        return sum(len(self.mixture.records(task, unit.split)) for task in passes)


def _with_engine(manifest: Manifest, engine: Mapping[str, Any]) -> Manifest:
    """What has answered belongs to what a result depends on."""
    if not engine:
        return manifest
    versions = {**manifest.versions, f"server: {engine['server']}": str(engine["version"])}
    return replace(manifest, engine=dict(engine), versions=versions)


def _wait_until_scored(folder: UnitFolder) -> None:
    """Until the first process has scored; if it fails, its launcher ends this one too."""
    while True:
        manifest = folder.manifest()
        if manifest is not None and manifest.state == "scored":
            return
        time.sleep(1.0)
