"""Units: what is done is kept, what no longer fits is refused with its reason, and redone when asked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from support.models import tiny_mixture, tiny_models
from support.units.prepared import Told, change, times

from cotbal.config.schema import load_config
from cotbal.config.yaml_file import ConfigError
from cotbal.method.measurement import measure
from cotbal.method.scores import ScoreTable
from cotbal.method.weighing import weigh
from cotbal.output.store import OutputFolder
from cotbal.units import stages
from cotbal.units.runner import Runner
from cotbal.units.staleness import UnitChangedError


def test_a_task_that_cannot_be_weighed_is_told_when_its_run_ends(tmp_path: Path) -> None:
    """An untrained model answers nothing right: that is known before the other units have cost anything."""
    path = tiny_mixture.write_mixture(
        tmp_path / "m",
        samples=8,
        text_only=False,
        metrics=("exact_match", "loss"),
        training={"max_steps": 1, "learning_rate": 0.0, "per_device_train_batch_size": 2, "use_cpu": True},
        preparation={"mini_fraction": 0.25},
    )
    config = load_config(path)
    told = Told()
    runner = Runner(config, told)
    for unit in runner.schedule.of("prepare"):
        with told.follow(runner.remaining([unit])):
            runner.run([unit])
        if unit.model == "mini":
            assert "warning" not in told.text
        if unit.model == "plus_colour":
            break
    assert "plus_colour scores 0 on task 'colour'" in told.text
    assert "plus_count" not in told.text


def test_what_is_done_is_not_done_again(mixture: Path) -> None:
    config = load_config(mixture)
    before = times(config, "*")
    told = Told()
    stages.prepare(config, told)
    assert told.text == ""
    changed = {name for name, time in times(config, "*").items() if before.get(name) != time}
    assert not any(name.startswith("units/") for name in changed)


def test_results_follow_from_the_seed_alone(mixture: Path) -> None:
    again = load_config(mixture, output=mixture.parent / "again")
    stages.prepare(again, Told())
    first = load_config(mixture)
    for name in ("mini", "plus_colour", "plus_count"):
        one, other = (OutputFolder(config.output).unit(name) for config in (first, again))
        assert one.scores() == other.scores()
        weights = [(folder.model / "model.safetensors").read_bytes() for folder in (one, other)]
        assert weights[0] == weights[1]


def test_more_seeds_are_added_to_a_finished_preparation(mixture: Path) -> None:
    """What is there stays; the scores of every seed go into one file, and the weights are means over them."""
    first = load_config(mixture)
    models = times(first, "model.safetensors")
    alone = ScoreTable.from_csv(first.output / "scores.csv")
    config = change(mixture, preparation={"seeds": [0, 1]})
    table = stages.prepare(config, Told())
    assert models.items() <= times(config, "model.safetensors").items()
    assert table.seeds == (0, 1)
    assert table.of_seed(0).sha256 == alone.sha256
    assert table.of_seed(1).sha256 != alone.sha256
    assert ScoreTable.from_csv(config.output / "scores.csv").sha256 == table.sha256
    weights = stages.weigh(config)
    assert weights.provenance.seeds == (0, 1)
    by_seed = [weigh(measure(table.of_seed(s), plain=True, replicates=0)).values for s in (0, 1)]
    np.testing.assert_allclose(weights.values, np.mean(by_seed, axis=0))
    # The subsets alone: other samples in the same order.
    subsets = change(mixture, preparation={"seeds": [1], "vary": ["subsets"]}, output="subsets")
    stages.prepare(subsets, Told())
    manifest = json.loads((subsets.output / "units" / "mini-seed1" / "manifest.json").read_text())
    assert (manifest["training"]["seed"], manifest["training"]["fractions"]["seed"]) == (0, 1)


def test_models_are_thrown_away_when_asked(mixture: Path) -> None:
    config = load_config(mixture, output=mixture.parent / "small")
    config = config.model_copy(
        update={"preparation": config.preparation.model_copy(update={"keep_models": False})}
    )
    stages.prepare(config, Told())
    assert not times(config, "model.safetensors")
    stages.prepare(config, told := Told())
    assert told.text == ""


def test_tuned_models_are_thrown_away_when_asked(mixture: Path) -> None:
    config = change(mixture, comparison={"strategies": ["ew"], "keep_models": False})
    before = times(config, "model.safetensors")
    stages.tune(config, Told())
    folder = OutputFolder(config.output).unit("ew-seed0")
    manifest = folder.manifest()
    assert manifest is not None
    assert manifest.state == "scored"
    assert not folder.model.exists()
    assert times(config, "model.safetensors") == before, "those of the preparation stay"
    stages.tune(config, told := Told())
    assert told.text == ""


def test_a_lost_model_is_named(mixture: Path) -> None:
    config = load_config(mixture)
    folder = OutputFolder(config.output).unit("mini")
    shutil.rmtree(folder.model)
    manifest = folder.manifest()
    assert manifest is not None
    folder.write_manifest(manifest.advanced("trained"))
    with pytest.raises(ConfigError, match=r"mini:\s.*model is gone"):
        stages.prepare(config, Told())


def test_tuning_waits_for_weights_and_follows_them(mixture: Path) -> None:
    config = load_config(mixture)
    with pytest.raises(ConfigError, match="run `cotbal weigh` first"):
        stages.tune(config, Told())
    weights = stages.weigh(config)
    stages.tune(config, Told())
    assert {manifest.unit for _, manifest in OutputFolder(config.output).manifests()} >= {
        "ew-seed0",
        "cotbal-seed0",
    }
    hotter = change(mixture, weighing={"temperature": 5.0})
    stages.weigh(hotter)
    with pytest.raises(UnitChangedError) as caught:
        stages.tune(hotter, Told())
    assert "cotbal-seed0" in str(caught.value)
    assert "weights.colour" in str(caught.value)
    assert "ew-seed0" not in str(caught.value)
    stages.tune(hotter, told := Told(), weights=weights)
    assert told.text == "", "the weights it was tuned with can be handed in"


def test_one_unit_can_be_run_by_itself(mixture: Path) -> None:
    config = load_config(mixture, output=mixture.parent / "one")
    stages.run_unit(config, "plus_count", Told())
    assert [manifest.unit for _, manifest in OutputFolder(config.output).manifests()] == ["plus_count"]
    with pytest.raises(ConfigError, match="no unit 'plus_shape'"):
        stages.run_unit(config, "plus_shape", Told())


def test_broken_records_are_refused_or_listed(mixture: Path) -> None:
    path = mixture.parent / "colour_train.json"
    records = json.loads(path.read_text())
    records[3]["image"] = "gone.png"
    path.write_text(json.dumps(records))
    elsewhere = mixture.parent / "skipping"
    with pytest.raises(ValueError, match=r"colour_train\.json, record 3: missing image"):
        Runner(load_config(mixture, output=elsewhere), Told()).remaining(
            Runner(load_config(mixture, output=elsewhere), Told()).schedule.units
        )
    config = change(mixture, bad_records="skip", output=str(elsewhere))
    told = Told()
    runner = Runner(config, told)
    runner.remaining(runner.schedule.units)
    assert "left out 1 broken records" in told.text
    assert [(problem.file.name, problem.index) for problem in OutputFolder(elsewhere).problems()] == [
        ("colour_train.json", 3)
    ]


def test_a_text_model_goes_the_same_way(tmp_path: Path) -> None:
    model, tokenizer = tiny_models.tiny_llama()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    turns = [{"from": "human", "value": "What number?"}, {"from": "gpt", "value": "seven"}]
    (tmp_path / "a.json").write_text(json.dumps([{"id": str(i), "conversations": turns} for i in range(4)]))
    files = {"train": "a.json", "validation": "a.json"}
    tasks = [
        {"name": "loss", **files, "metric": "loss"},
        {"name": "text", **files, "metric": "exact_match", "max_new_tokens": 2},
    ]
    path = tmp_path / "mixture.yaml"
    training = {"max_steps": 1, "use_cpu": True, "per_device_train_batch_size": 4}
    values = {"model": "model", "output": "out", "tasks": tasks, "training": training}
    path.write_text(yaml.safe_dump({**values, "preparation": {"mini_fraction": 0.5}}))
    config = load_config(path)
    stages.run_unit(config, "mini", Told())
    scores = OutputFolder(config.output).unit("mini").scores()
    assert [score.task for score in scores] == ["loss"] * 4 + ["text"] * 4
    assert all(isinstance(score.prediction, str) == (score.task == "text") for score in scores)
