"""The hybrid estimator: what is generated, what is read off, and what a change of estimator does again."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from support.models import tiny_mixture
from support.units.prepared import Told

from cotbal.config.schema import Config, load_config
from cotbal.config.yaml_file import ConfigError
from cotbal.data.collate import TaskCollator
from cotbal.estimates.schedule import estimate_schedule
from cotbal.method.scores import ScoreTable
from cotbal.models.loading import load_model
from cotbal.report.sections.measurement import measurement_section
from cotbal.units import answering, stages, train
from cotbal.units.results import report_input
from cotbal.units.runner import Runner
from cotbal.units.staleness import UnitChangedError

TASKS = 2
# Trained for seconds, some task gets no better; what is counted here does not depend on it.
pytestmark = pytest.mark.filterwarnings("ignore::cotbal.method.undefined.UndefinedContributionsWarning")


# Never 0, as a model that has hardly been trained answers nothing right.
LIKENESS = """
from difflib import SequenceMatcher


def likeness(predictions, references):
    return [0.1 + SequenceMatcher(None, p, r[0]).ratio() for p, r in zip(predictions, references, strict=True)]
"""


@pytest.fixture
def mixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "likenesses.py").write_text(LIKENESS)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tiny_mixture.write_mixture(
        tmp_path / "m",
        samples=6,
        text_only=False,
        metrics=("likenesses:likeness", "likenesses:likeness"),
        training={"max_steps": 6, "learning_rate": 1e-2, "per_device_train_batch_size": 2, "use_cpu": True},
        weighing={"plain": True},
        preparation={"mini_fraction": 0.25, "estimator": "hybrid"},
        comparison={"strategies": ["ew"]},
    )


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often a model has answered one task's samples, by kind, and how many trainings there were."""
    counts: Counter[str] = Counter()
    answer, trained = answering.answer, train.train

    def counted_answer(*args: Any, metric: Any, **options: Any) -> Any:
        counts[metric.kind] += 1
        return answer(*args, metric=metric, **options)

    def counted_train(*args: Any, **options: Any) -> Any:
        counts["train"] += 1
        return trained(*args, **options)

    monkeypatch.setattr(answering, "answer", counted_answer)
    monkeypatch.setattr(train, "train", counted_train)
    return counts


def changed(path: Path, estimator: str, **more: Any) -> Config:
    values = yaml.safe_load(path.read_text())
    values["preparation"] |= {"estimator": estimator, **more}
    path.write_text(yaml.safe_dump(values))
    return load_config(path)


def test_a_change_of_estimator_makes_what_is_missing_and_no_more(mixture: Path, passes: Counter[str]) -> None:
    config = load_config(mixture)
    needed = stages.prepare(config, Told())
    assert passes == {"generation": 2 * TASKS, "token_accuracy": TASKS * (TASKS + 1), "train": TASKS + 1}
    shares = ScoreTable.from_csv(config.output / "token_accuracies.csv")
    _assert_shares_are_the_models(config, shares)

    _assert_the_plan_has_counted_them(config, shares)

    passes.clear()
    full = changed(mixture, "full")
    with pytest.raises(ConfigError, match=r"is of `estimator: hybrid`.*run `cotbal prepare`"):
        stages.weigh(full)
    whole = stages.prepare(full, Told())
    # N (N - 1) passes of generation that the hybrid estimator did without.
    assert passes == {"generation": TASKS * (TASKS - 1)}
    for model, row in needed.entries.items():
        for task, scores in row.items():
            np.testing.assert_array_equal(whole.entries[model][task], scores)
    stages.weigh(full)

    passes.clear()
    again = stages.prepare(changed(mixture, "hybrid"), Told())
    assert not passes
    assert again.sha256 == needed.sha256
    assert ScoreTable.from_csv(config.output / "token_accuracies.csv").sha256 == shares.sha256


def _assert_the_plan_has_counted_them(config: Config, shares: ScoreTable) -> None:
    """What `cotbal plan` counts is what the units have then recorded, with the time of each kind."""
    runner = Runner(config, Told())
    planned = {
        item.unit.name: item
        for item in estimate_schedule(
            config,
            runner.mixture,
            runner.settings,
            lambda: runner.processor,
            units=runner.schedule.of("prepare"),
        ).units
    }
    for name, item in planned.items():
        manifest = runner.folder.unit(name).manifest()
        assert manifest is not None
        assert manifest.samples["score"] == item.work.scored
        assert (
            manifest.samples["forced"]
            == item.work.forced
            == sum(len(shares.entries[item.unit.model][task]) for task in shares.tasks)
        )
        assert manifest.seconds["forced"] > 0
    # N + 1 models answer N tasks, 2 N of these pairs in words.
    assert {name: item.work.forced // item.work.scored for name, item in planned.items()} == {
        name: 1 if name == "mini" else TASKS for name in planned
    }


def _assert_shares_are_the_models(config: Config, shares: ScoreTable) -> None:
    """Each sample alone through the stock model, against what was taken in batches."""
    runner = Runner(config, Told())
    found = []
    for unit in runner.schedule.of("prepare"):
        model = load_model(config.model, runner.folder.unit(unit.name).model).eval()
        for task in shares.tasks:
            for index, record in enumerate(runner.mixture.records(task, "validation")):
                batch = TaskCollator(runner.processor, [task])([record])
                labels = batch.pop("labels")[0, 1:]
                inputs = {name: value for name, value in batch.items() if not name.startswith("loss_")}
                with torch.no_grad():
                    ranked = model(**inputs).logits[0, :-1].argmax(dim=-1)
                there = labels != -100
                share = float((ranked[there] == labels[there]).float().mean())
                samples = shares.samples(unit.model, task)
                assert samples is not None
                assert samples[index] == pytest.approx(share)
                found.append(share)
    assert 0 < np.mean(found) < 1


def test_without_kept_models_more_scores_need_a_redo(mixture: Path, passes: Counter[str]) -> None:
    stages.prepare(changed(mixture, "hybrid", keep_models=False), Told())
    with pytest.raises(UnitChangedError, match="its model was not kept, and there are no scores of"):
        stages.prepare(changed(mixture, "full"), Told())
    passes.clear()
    stages.prepare(changed(mixture, "full"), Told(), redo=True)
    # Mini has all that it needs.
    assert passes == {"generation": TASKS * TASKS, "train": TASKS}


def test_the_report_names_the_estimator(mixture: Path) -> None:
    config = load_config(mixture)
    stages.prepare(config, Told())
    stages.weigh(config)
    report = report_input(config)
    assert report.measurement is not None
    assert report.measurement.estimator == "hybrid"
    section = measurement_section(report)
    assert section is not None
    assert "It spares 2 of 6 passes of generation" in str(section)


def test_a_server_cannot_give_token_accuracies(mixture: Path) -> None:
    values = yaml.safe_load(mixture.read_text())
    values["evaluation"] = {
        "engine": "openai",
        "server": {"base_url": "http://localhost:1/v1", "model": "{unit}"},
    }
    mixture.write_text(yaml.safe_dump(values))
    config = load_config(mixture)
    with pytest.raises(ConfigError, match="estimator: hybrid needs the token accuracies"):
        answering.check_engine(config, {})
