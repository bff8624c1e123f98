"""Refuse or discard stale results: units made from something else than the config now says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from cotbal import strategies
from cotbal.config.schema import Config
from cotbal.config.yaml_file import ConfigError
from cotbal.method.weights import TaskWeights
from cotbal.metrics.metric import Metric
from cotbal.models.model_source import model_content, model_settings
from cotbal.output.fingerprint import differences
from cotbal.output.integrity import Damage, UnitDamagedError, unit_damage
from cotbal.output.manifest import Manifest
from cotbal.output.store import OutputFolder, UnitFolder
from cotbal.units.arguments import settings_that_matter
from cotbal.units.batches import batch_layout, processes_per_unit
from cotbal.units.generation import generation_settings, scoring_dtype
from cotbal.units.mixture import Mixture
from cotbal.units.schedule import Stage, Unit, forced

__all__ = ["Staleness", "UnitChangedError"]


class UnitChangedError(ConfigError):
    """Finished units were made from something else than the config now says."""


class Staleness:
    """Compares what a folder's units were made from with what the config now says.

    Args:
        config: the config.
        folder: the folder of its units.
        mixture: its data.
        metrics: the metric of every task that has one.
        settings: training settings by stage.
    """

    def __init__(
        self,
        config: Config,
        folder: OutputFolder,
        mixture: Mixture,
        metrics: Mapping[str, Metric],
        settings: Mapping[Stage, Mapping[str, Any]],
    ) -> None:
        self.config = config
        self.folder = folder
        self.mixture = mixture
        self.metrics = metrics
        self.settings = settings
        self._model_digest: str | None = None

    def check(
        self, units: Sequence[Unit], weights: TaskWeights | None = None, *, redo: bool = False
    ) -> dict[str, Manifest]:
        """Return the present or future manifest of each unit; refuse stale results, or discard them with `redo`.

        Raises:
            UnitChangedError: what changed, unit by unit, and what to do.
            UnitDamagedError: which files of finished units are not as they were written, and what to do.
        """
        manifests: dict[str, Manifest] = {}
        stale: list[str] = []
        damaged: list[str] = []
        for unit in units:
            folder = self.folder.unit(unit.name)
            fresh = self.describe(unit, weights)
            stored = folder.manifest()
            maker = self.folder.maker_of(unit.name)
            if stored is None:
                if maker is None:
                    folder.discard()
                manifests[unit.name] = fresh
                continue
            retrain = differences(stored.training, fresh.training)
            rescore = differences(stored.scoring, fresh.scoring)
            missing: list[str] = []
            if unit.stage == "prepare" and not retrain:
                # Another estimator needs other scores of the same models: what is there still holds.
                missing = sorted(fresh.scoring.keys() - stored.scoring.keys())
                known = fresh.scoring.keys() & stored.scoring.keys()
                rescore = differences(
                    {name: stored.scoring[name] for name in known},
                    {name: fresh.scoring[name] for name in known},
                )
                if missing and not rescore and stored.state != "planned" and not folder.model.is_dir():
                    retrain = [f"its model was not kept, and there are no scores of {', '.join(missing)}"]
            if not (retrain or rescore):
                # What another process is writing is not damaged.
                found = Damage() if maker is not None else unit_damage(folder, stored, deep=redo)
                if found and not redo:
                    damaged.append(f"{unit.name}:\n    {found}")
                    continue
                manifests[unit.name] = (
                    self._discard_stale(folder, stored, fresh, bool(found.model))
                    if found
                    else _extended(folder, stored, fresh)
                    if missing and maker is None
                    else stored
                )
            elif redo:
                if maker is not None:
                    raise ConfigError(
                        f"{unit.name} no longer fits the config and is being made by {maker}; stop that process, "
                        "then use --redo again"
                    )
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
        if damaged:
            raise UnitDamagedError(
                f"{self.folder.path}: these results are not as they were written\n  "
                + "\n  ".join(damaged)
                + "\nPut the files back, or add --redo to do these units again."
            )
        return manifests

    def describe(self, unit: Unit, weights: TaskWeights | None = None) -> Manifest:
        """Return the manifest of a unit that has not begun: everything that its result depends on.

        Raises:
            ConfigError: the unit needs measured weights, and there are none.
        """
        config = self.config
        if unit.needs_weights and weights is None:
            raise ConfigError(
                f"{unit.name} is tuned with measured weights, and there are none yet; run `cotbal weigh` first"
            )
        training: dict[str, Any] = {
            "model": model_settings(config.model) | {"content": self._model_content()},
            "seed": unit.seed,
            "data": self.mixture.training_files(unit),
            "max_length": config.max_length,
            "bad_records": config.bad_records,
            "samples_per_step": batch_layout(self.settings[unit.stage], processes_per_unit(config)).samples,
            "training": settings_that_matter(self.settings[unit.stage]),
        }
        if unit.stage == "prepare":
            training["fractions"] = {
                "mini": config.preparation.mini_fraction,
                "plus": config.preparation.plus_fraction,
            }
            if self.mixture.subset_seed(unit) != unit.seed:
                training["fractions"]["seed"] = self.mixture.subset_seed(unit)
        if unit.strategy is not None:
            training["strategy"] = {"name": unit.strategy.name, "options": unit.strategy.options}
            if strategies.uses_validation(unit.strategy.name):
                training["validation"] = self.mixture.validation_files(unit)
        if unit.needs_weights and weights is not None:
            training["weights"] = weights.as_dict()
        scoring: dict[str, Any] = {task: self._scoring(unit, task) for task in unit.scored_tasks}
        for task in unit.forced_tasks:
            scoring[forced(task)] = {
                "data": self.mixture.scoring_files(unit, task),
                "dtype": scoring_dtype(config, self.settings[unit.stage]),
            }
        return Manifest(unit.name, unit.model, unit.stage, unit.seed, training, scoring)

    def _scoring(self, unit: Unit, task: str) -> dict[str, Any]:
        settings = self.mixture.task(task)
        metric = self.metrics[task]
        scoring: dict[str, Any] = {
            "data": self.mixture.scoring_files(unit, task),
            "metric": settings.metric,
            "dtype": scoring_dtype(self.config, self.settings[unit.stage]),
        }
        if ":" in metric.name:
            # What a report needs to know of it without importing it.
            scoring["higher_is_better"] = metric.higher_is_better
        server = self.config.evaluation.server
        if server is not None:
            scoring["engine"] = "openai"
            scoring["server"] = {"command": list(server.command), "request": server.request}
        if metric.kind == "generation":
            scoring["max_new_tokens"] = settings.max_new_tokens
            scoring["generation"] = generation_settings(self.config.evaluation.generation)
        return scoring

    def _model_content(self) -> str:
        if self._model_digest is None:
            self._model_digest = model_content(self.config.model)
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
            divergences=stored.divergences,
            files={name: seal for name, seal in stored.files.items() if name not in folder.score_files},
        )
        folder.write_manifest(manifest)
        folder.discard_scores()
        return manifest


def _extended(folder: UnitFolder, stored: Manifest, fresh: Manifest) -> Manifest:
    """A unit that is to be scored for more than it was; the scores that it has are kept."""
    if stored.state == "planned":
        manifest = replace(stored, scoring=fresh.scoring)
    else:
        manifest = stored.advanced("trained", scoring={**stored.scoring, **fresh.scoring})
    folder.write_manifest(manifest)
    return manifest
