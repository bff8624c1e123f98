"""Results: what a output folder holds becomes what a report is made from."""

from pathlib import Path

import pytest
import yaml

from cotbal.config.schema import Config, load_config
from cotbal.config.yaml_file import ConfigError
from cotbal.data.records import Problem
from cotbal.output.manifest import Manifest
from cotbal.output.score_file import SampleScore
from cotbal.output.store import OutputFolder
from cotbal.report.inputs import SINGLE
from cotbal.units.results import report_input, task_values
from cotbal.units.schedule import make_schedule


@pytest.fixture
def config(tmp_path: Path) -> Config:
    tasks = [
        {"name": "a", "train": "t", "validation": "v", "test": "e", "metric": "loss"},
        {"name": "b", "train": "t", "validation": "v", "test": "e", "metric": "exact_match"},
        {"name": "text", "train": "t", "weight": 1.0},
    ]
    comparison = {
        "strategies": ["ew", {"name": "dwa", "label": "slow"}],
        "single_task": True,
        "seeds": [3, 5],
    }
    path = tmp_path / "mixture.yaml"
    path.write_text(yaml.safe_dump({"model": "m", "output": "out", "tasks": tasks, "comparison": comparison}))
    return load_config(path)


def finish(config: Config, name: str, scores: dict[str, list[float]], state: str = "scored") -> None:
    unit = make_schedule(config).unit(name)
    folder = OutputFolder(config.output).unit(name)
    folder.write_manifest(
        Manifest(unit.name, unit.model, unit.stage, unit.seed, {}, {}).advanced(
            state,  # type: ignore[arg-type]
            steps=4,
            samples={"train": 9},
            seconds={"train": 1.0, "score": 0.5},
            versions={"torch": "2"},
            finished="2026-01-02 03:04 UTC",
        )
    )
    rows = [
        SampleScore(task, index, str(index), "g", None, ("r",), score)
        for task, values in scores.items()
        for index, score in enumerate(values)
    ]
    folder.write_scores(rows)
    folder.write_log(
        [
            {"step": 2, "loss": 2.0, "loss/a": 1.5},
            {"step": 4, "loss": 1.0, "loss/a": 0.5, "loss/b": 0.25},
            {"step": 4},
        ]
    )


def test_nothing_done_is_nothing_reported(config: Config) -> None:
    found = report_input(config)
    assert (found.scores, found.measurement, found.weights, found.comparison, found.curves) == (None,) * 4 + (
        (),
    )
    assert [task.name for task in found.tasks] == ["a", "b", "text"]
    assert found.title == "mixture"
    assert {unit.state for unit in found.provenance.units} == {"planned"}
    assert "strategies" in found.provenance.config


def test_directions_and_weights_of_tasks_are_known(config: Config) -> None:
    assert [(task.higher_is_better, task.weight) for task in task_values(config)] == [
        (False, None),
        (True, None),
        (True, 1.0),
    ]


def test_tuned_units_are_gathered_by_strategy_and_seed(config: Config) -> None:
    finish(config, "single_a-seed3", {"a": [1.0, 2.0]})
    finish(config, "single_b-seed3", {"b": [1.0]})
    finish(config, "single_a-seed5", {"a": [3.0, 5.0]})
    finish(config, "ew-seed3", {"a": [0.0, 1.0], "b": [0.5]})
    finish(config, "slow-seed5", {"a": [0.25, 0.25], "b": [0.0]})
    finish(config, "ew-seed5", {}, state="trained")
    comparison = report_input(config).comparison
    assert comparison is not None
    assert comparison.tasks == ("a", "b")
    assert comparison.higher_is_better == (False, True)
    assert dict(comparison.samples) == {"a": 2, "b": 1}
    assert {(row.strategy, row.seed): dict(row.scores) for row in comparison.scores} == {
        (SINGLE, 3): {"a": 1.5, "b": 1.0},
        (SINGLE, 5): {"a": 4.0},
        ("ew", 3): {"a": 0.5, "b": 0.5},
        ("slow", 5): {"a": 0.25, "b": 0.0},
    }


def test_another_runs_list_of_bad_records_is_refused(config: Config) -> None:
    OutputFolder(config.output).write_problems([Problem(Path("/elsewhere/t"), 7, "no answer")], set())
    with pytest.raises(
        ConfigError, match=r"bad_records\.jsonl: it lists records of /elsewhere/t, which is no file of"
    ):
        report_input(config)


def test_curves_versions_and_problems_are_told(config: Config) -> None:
    finish(config, "ew-seed3", {"a": [0.0], "b": [0.5]})
    problem = Problem(config.output.parent / "t", 7, "no answer")
    OutputFolder(config.output).write_problems([problem], set())
    found = report_input(config)
    assert [(curve.unit, curve.task, curve.steps, curve.losses) for curve in found.curves] == [
        ("ew-seed3", "a", (2, 4), (1.5, 0.5)),
        ("ew-seed3", "b", (4,), (0.25,)),
    ]
    assert found.problems == (problem,)
    assert found.provenance.date == "2026-01-02 03:04 UTC"
    assert dict(found.provenance.versions) == {"torch": "2"}
    unit = next(unit for unit in found.provenance.units if unit.name == "ew-seed3")
    assert (unit.state, unit.steps, unit.samples, unit.total_seconds) == ("scored", 4, 9, 1.5)
