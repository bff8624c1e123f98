"""From the units on disk to one small file of results, which is committed and makes the page."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine import describe
from benchmarks.study.design import (
    AGAIN,
    AGAIN_SEEDS_FROM,
    CHEAPER,
    DECLARED,
    DESCRIBED,
    Size,
    mixtures,
    study_config,
)
from benchmarks.study.estimators import estimator_values
from benchmarks.study.power import declared
from benchmarks.study.running import again_config, is_scored, preparations
from cotbal.atomic import replacing
from cotbal.demo.mixtures import DemoMixture
from cotbal.method.arrays import FloatArray
from cotbal.method.formulas import improvement_and_error
from cotbal.method.scores import ScoreTable
from cotbal.method.seeds import SeedMean
from cotbal.metrics import get as get_metric
from cotbal.report.inputs import SINGLE, Comparison, StrategyScores
from cotbal.report.paired import lead
from cotbal.units.progress import NoProgress
from cotbal.units.results import report_input
from cotbal.units.runner import Runner
from cotbal.units.stages import collect_scores

__all__ = ["RESULTS", "write_results"]

RESULTS = Path(__file__).with_name("results.json")
SCHEMA = 1


def write_results(folder: Path, size: Size, path: Path = RESULTS) -> Path:
    """Write what the scored units of `folder` show; units that are missing are left out and counted."""
    found = {mixture.name: _Mixture(folder / mixture.name, mixture, size) for mixture in mixtures()}
    content = {
        "schema": SCHEMA,
        "size": size.name,
        "scenes": dict(size.scenes),
        "seeds": len(size.seeds),
        "preparations": {name: len(seeds) for name, seeds in size.preparation_seeds.items()},
        "options": {name: dict(options) for name, options in size.options.items()},
        "machine": describe(torch.device("cpu")),
        "mixtures": {name: mixture.values() for name, mixture in found.items()},
        "contrasts": _contrasts(
            {name: mixture.comparison for name, mixture in found.items()}, len(size.seeds)
        ),
    }
    with replacing(path) as stream:
        stream.write(json.dumps(content, indent=1) + "\n")
    return path


class _Mixture:
    """Everything that is kept of one mixture."""

    def __init__(self, folder: Path, mixture: DemoMixture, size: Size) -> None:
        self.mixture = mixture
        self.size = size
        self.config = study_config(folder, mixture, size, strategies=[*DECLARED, *DESCRIBED])
        self.runner = Runner(self.config, NoProgress())
        self.prepared = preparations(folder, self.runner)
        self.cheaper = _cheaper(folder, mixture, size)
        comparison = report_input(self.config).comparison
        if comparison is None:
            raise SystemExit(f"{folder}: nothing has been tuned yet; run `python -m benchmarks.study run`")
        again = report_input(again_config(folder, mixture, size)).comparison
        self.comparison = _whole(comparison, () if again is None else again.of("ew"))
        self.tokens = [json.loads(path.read_text()) for path in sorted((folder / "tokens").glob("*.json"))]

    def values(self) -> dict[str, Any]:
        comparison = self.comparison
        single = _means(comparison, SINGLE)
        return {
            "tasks": list(comparison.tasks),
            "metrics": [self.mixture.tasks[task].metric for task in comparison.tasks],
            "train": [len(self.runner.mixture.records(task, "train")) for task in comparison.tasks],
            "single": single.mean(axis=0).round(5).tolist(),
            "single_seeds": len(single),
            "constant": [self._constant(task) for task in comparison.tasks],
            "scores": {
                strategy: {str(row.seed): [round(row.scores[t], 5) for t in comparison.tasks] for row in rows}
                for strategy in comparison.strategies
                if (rows := comparison.of(strategy))
            },
            "results": {name: self._result(name, single) for name in comparison.strategies},
            "preparation": estimator_values(
                self.prepared,
                self.size.preparation_seeds[self.mixture.name],
                {label: table for label, (table, _) in self.cheaper.items()},
            ),
            "seconds": self._seconds(),
        }

    def _result(self, strategy: str, single: FloatArray) -> dict[str, Any]:
        reference = single.mean(axis=0)
        rows = _means(self.comparison, strategy)
        both = np.array([improvement_and_error(row, reference) for row in rows])
        against = lead(self.comparison, strategy, "ew", SINGLE, self.comparison.tasks)
        values: dict[str, Any] = {
            "improvement": both[:, 0].round(3).tolist(),
            "error": both[:, 1].round(3).tolist(),
        }
        if strategy != "ew" and against is not None:
            values["lead"] = _shown(against, 0.9)
        return values

    def _constant(self, task: str) -> float:
        """The score of always giving the answer that is most common in training."""
        common = Counter(r.references[0] for r in self.runner.mixture.records(task, "train")).most_common(1)
        references = [record.references for record in self.runner.mixture.records(task, "test")]
        metric = get_metric(self.mixture.tasks[task].metric)
        return round(float(np.mean(metric.score([common[0][0]] * len(references), references))), 5)

    def _seconds(self) -> dict[str, float]:
        """Medians of one unit of each kind; `tokens` is the teacher-forced pass of a preparation's unit."""
        kinds: dict[str, list[float]] = {"tokens": [row["seconds"] for row in self.tokens]}
        for unit in self.runner.schedule.units:
            manifest = self.runner.folder.unit(unit.name).manifest()
            if manifest is None or manifest.state != "scored":
                continue
            kind = "prepare" if unit.stage == "prepare" else "single" if unit.strategy is None else "tune"
            for phase, seconds in manifest.seconds.items():
                kinds.setdefault(f"{kind} {phase}", []).append(seconds)
        for label, (_, runner) in self.cheaper.items():
            for unit in runner.schedule.of("prepare"):
                manifest = runner.folder.unit(unit.name).manifest()
                for phase, seconds in manifest.seconds.items() if manifest is not None else ():
                    kinds.setdefault(f"{label} {phase}", []).append(seconds)
        return {kind: round(float(np.median(values)), 2) for kind, values in sorted(kinds.items())}


def _cheaper(folder: Path, mixture: DemoMixture, size: Size) -> dict[str, tuple[ScoreTable, Runner]]:
    """The scores of the cheaper preparations that are whole, by label, and what made them."""
    found: dict[str, tuple[ScoreTable, Runner]] = {}
    for label in CHEAPER:
        config = study_config(folder, mixture, size, strategies=["ew"], preparation=label)
        runner = Runner(config, NoProgress())
        if all(is_scored(runner, unit) for unit in runner.schedule.of("prepare")):
            found[label] = collect_scores(runner), runner
    return found


def _whole(comparison: Comparison, again: Sequence[StrategyScores]) -> Comparison:
    """Without what an interrupted study has only in part, seeds that lack a task; with `again` as a strategy."""
    renamed = [
        dataclasses.replace(row, strategy=AGAIN, seed=row.seed - AGAIN_SEEDS_FROM)
        for row in again
        if row.seed >= AGAIN_SEEDS_FROM
    ]
    kept = [row for row in (*comparison.scores, *renamed) if set(row.scores) == set(comparison.tasks)]
    return Comparison(
        comparison.tasks,
        comparison.higher_is_better,
        tuple(kept),
        comparison.samples,
        comparison.groups,
    )


def _means(comparison: Comparison, strategy: str) -> FloatArray:
    return np.array([[row.scores[task] for task in comparison.tasks] for row in comparison.of(strategy)])


def _shown(found: SeedMean, confidence: float) -> dict[str, Any]:
    seed, samples = float(found.seed_variance[0]), float(found.sample_variance[0])
    return {
        "mean": round(float(found.values[0]), 3),
        "interval": found.interval(confidence)[0].round(3).tolist(),
        "seeds": found.seeds,
        "seed_deviation": round(seed**0.5, 3),
        "sample_error": round(samples**0.5, 3),
    }


def _contrasts(comparisons: Mapping[str, Comparison], seeds: int) -> list[dict[str, Any]]:
    """The declared ones: means over mixtures, and their intervals from draws of all mixtures together.

    A mixture counts when all of its seeds are there; each that does is shown alone too.
    """
    plan = declared()
    rows = []
    for contrast in plan.contrasts:
        parts = {
            name: found
            for name, c in comparisons.items()
            if (found := lead(c, contrast.ahead, contrast.behind, SINGLE, c.tasks)) is not None
            and found.seeds == seeds
        }
        row: dict[str, Any] = {
            "name": contrast.name,
            "mixtures": len(parts),
            "alone": {name: _shown(part, plan.confidence) for name, part in parts.items()},
        }
        if len(parts) == len(comparisons):
            draws = np.mean([part.replicates[:, 0] for part in parts.values()], axis=0)
            tail = (1 - plan.confidence) / 2
            variance = np.mean([part.seed_variance[0] + part.mixed_variance[0] for part in parts.values()])
            row |= {
                "mean": round(float(np.mean([part.values[0] for part in parts.values()])), 3),
                "interval": np.quantile(draws, [tail, 1 - tail]).round(3).tolist(),
                "seeds": seeds,
                "deviation": round(float(variance) ** 0.5, 3),
            }
        rows.append(row)
    return rows
