"""What no longer fits the config is refused with what changed, and redone when asked; nothing else is touched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.units.prepared import Told, change, change_task, times

from cotbal.config.schema import load_config
from cotbal.units import stages
from cotbal.units.staleness import UnitChangedError


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"training": {"learning_rate": 1e-3}}, ["training.learning_rate: was 0.005, is 0.001"]),
        ({"seed": 1}, ["seed: was 0, is 1"]),
        ({"preparation": {"mini_fraction": 0.5}}, ["fractions.mini: was 0.25, is 0.5"]),
        ({"preparation": {"training": {"max_grad_norm": 0.5}}}, ["training.max_grad_norm: is new: 0.5"]),
        ({"max_length": 64}, ["max_length: was None, is 64"]),
    ],
)
def test_a_change_of_the_training_is_refused_with_what_changed(
    mixture: Path, changes: dict[str, Any], parts: list[str]
) -> None:
    config = change(mixture, **changes)
    before = times(config, "model.safetensors")
    with pytest.raises(UnitChangedError) as caught:
        stages.prepare(config, Told())
    for part in ["mini would have to be trained again", "--redo", *parts]:
        assert part in str(caught.value)
    assert times(config, "model.safetensors") == before


@pytest.mark.parametrize(
    "changes",
    [
        {"training": {"save_steps": 1, "logging_steps": 1}},
        {"evaluation": {"batch_size": 3}},
        {"weighing": {"temperature": 2.0}},
        {"comparison": {"seeds": [4]}},
    ],
)
def test_a_change_that_does_not_matter_is_no_change(mixture: Path, changes: dict[str, Any]) -> None:
    stages.prepare(change(mixture, **changes), told := Told())
    assert told.text == ""


def test_changed_content_is_seen_and_moved_files_are_not(mixture: Path) -> None:
    folder = mixture.parent
    (folder / "moved").mkdir()
    (folder / "colour_train.json").rename(folder / "moved" / "train.json")
    stages.prepare(change_task(mixture, train="moved/train.json"), Told())
    records = json.loads((folder / "moved" / "train.json").read_text())
    (folder / "moved" / "train.json").write_text(json.dumps(records[:-1]))
    with pytest.raises(UnitChangedError, match=r"data\.colour\[0\]: its content has changed"):
        stages.prepare(load_config(mixture), Told())


def test_another_model_is_another_result(mixture: Path) -> None:
    described = mixture.parent / "model" / "config.json"
    described.write_text(described.read_text() + "\n")
    with pytest.raises(UnitChangedError, match=r"model\.content: its content has changed"):
        stages.prepare(load_config(mixture), Told())


def test_a_change_of_the_validation_asks_for_scoring_only(mixture: Path) -> None:
    config = change_task(mixture, metric="exact_match")
    with pytest.raises(UnitChangedError) as caught:
        stages.prepare(config, Told())
    assert "mini would have to be scored again" in str(caught.value)
    assert "colour.metric: was 'loss', is 'exact_match'" in str(caught.value)
    models = times(config, "model.safetensors")
    told = Told()
    table = stages.prepare(config, told, redo=True)
    assert times(config, "model.safetensors") == models
    assert told.text.count("scored in") == 3
    assert "trained in" not in told.text
    assert table.higher_is_better == (True, False)


def test_redo_trains_again_what_no_longer_fits_and_nothing_else(mixture: Path) -> None:
    config = change(mixture, training={"learning_rate": 1e-3})
    told = Told()
    stages.prepare(config, told, redo=True)
    assert told.text.count("trained in") == 3
    stages.prepare(config, told := Told())
    assert told.text == ""
