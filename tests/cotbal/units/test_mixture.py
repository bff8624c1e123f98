"""Mixtures: which records each unit is trained on, and files that are missing or of no use."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from cotbal.config.schema import Config, load_config
from cotbal.config.yaml_file import ConfigError
from cotbal.units.mixture import Mixture, RecordDataset
from cotbal.units.schedule import make_schedule

COUNTS = {"a": 40, "b": 20, "text": 10}


def write(path: Path, task: str, count: int) -> None:
    turns = [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]
    path.write_text(json.dumps([{"id": f"{task}{index}", "conversations": turns} for index in range(count)]))


@pytest.fixture
def config(tmp_path: Path) -> Config:
    tasks: list[dict[str, Any]] = []
    for task, count in COUNTS.items():
        write(tmp_path / f"{task}1.json", task, count - 5)
        write(tmp_path / f"{task}2.json", task, 5)
        write(tmp_path / f"{task}v.json", task, 3)
        measured = {"validation": f"{task}v.json", "test": f"{task}v.json", "metric": "loss"}
        rest = {"weight": 1.0} if task == "text" else measured
        tasks.append({"name": task, "train": [f"{task}1.json", f"{task}2.json"], **rest})
    path = tmp_path / "mixture.yaml"
    values = {
        "model": "m",
        "output": "out",
        "tasks": tasks,
        "preparation": {"mini_fraction": 0.1, "plus_fraction": 0.5},
    }
    path.write_text(yaml.safe_dump({**values, "comparison": {"single_task": True}}))
    return load_config(path)


def counts(mixture: Mixture, unit: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for record in mixture.training_set(make_schedule(mixture.config).unit(unit)):
        found[record.task] = found.get(record.task, 0) + 1
    return found


def test_every_unit_gets_its_share_of_each_task(config: Config) -> None:
    mixture = Mixture(config)
    assert counts(mixture, "mini") == {"a": 4, "b": 2}
    assert counts(mixture, "plus_a") == {"a": 20, "b": 2}
    assert counts(mixture, "plus_b") == {"a": 4, "b": 10}
    assert counts(mixture, "single_b-seed0") == {"b": 20}
    assert counts(mixture, "cotbal-seed0") == COUNTS


@pytest.mark.parametrize(("vary", "differ"), [(["order"], False), (["subsets"], True)])
def test_subsets_vary_with_the_seed_where_they_are_meant_to(
    config: Config, vary: list[str], differ: bool
) -> None:
    preparation = config.preparation.model_copy(update={"seeds": (0, 1), "vary": tuple(vary)})
    mixture = Mixture(config.model_copy(update={"preparation": preparation}))
    schedule = make_schedule(mixture.config)
    ids = [{record.id for record in mixture.training_set(schedule.unit(n))} for n in ("mini", "mini-seed1")]
    assert (ids[0] != ids[1]) == differ
    assert counts(mixture, "plus_a-seed1") == {"a": 20, "b": 2}


def test_files_are_read_once(config: Config) -> None:
    mixture = Mixture(config)
    assert mixture.records("a", "train") is mixture.records("a", "train")
    assert {path.name for path in mixture.files_read} == {"a1.json", "a2.json"}


def test_datasets_hold_the_records_themselves(config: Config) -> None:
    records = Mixture(config).records("b", "validation")
    dataset = RecordDataset(records)
    assert len(dataset) == 3
    assert dataset[2] == records[2]


def test_missing_files_are_all_named(config: Config) -> None:
    folder = config.output.parent
    (folder / "a2.json").unlink()
    (folder / "bv.json").unlink()
    with pytest.raises(ConfigError) as caught:
        Mixture(config)
    message = str(caught.value)
    assert f"tasks[0].train: no such file: {folder / 'a2.json'}" in message
    assert "tasks[1].validation" in message
    assert "tasks[1].test" in message


def test_a_split_without_any_usable_record_is_refused(config: Config) -> None:
    (config.output.parent / "av.json").write_text('[{"id": "x"}]')
    mixture = Mixture(config.model_copy(update={"bad_records": "skip"}))
    with pytest.raises(ConfigError, match="task 'a': no usable record in its validation data"):
        mixture.records("a", "validation")
    assert [problem.index for problem in mixture.problems] == [0]
