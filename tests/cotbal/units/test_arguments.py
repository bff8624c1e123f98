"""Training settings: TrainingArguments by their own names, checked before anything runs."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainingArguments

from cotbal.config.schema import Config
from cotbal.config.yaml_file import ConfigError
from cotbal.units import arguments
from cotbal.units.arguments import (
    check_settings,
    settings_that_matter,
    training_arguments,
    training_settings,
)


def config(**changes: Any) -> Config:
    tasks = [{"name": "a", "train": "t", "weight": 1}]
    return Config.model_validate({"model": "m", "output": "o", "tasks": tasks, **changes})


@pytest.mark.parametrize(
    ("name", "value", "parts"),
    [
        ("learning_rat", 1, ["did you mean `learning_rate`?"]),
        ("warmup_ratio", 0.03, ["`warmup_steps`"]),
        ("train_sampling_strategy", "batch_rebalance", ["no longer see the same", "group_by_length"]),
        ("output_dir", "x", ["its own folder"]),
        ("seed", 1, ["top level"]),
        ("remove_unused_columns", True, ["task of each sample"]),
        ("learning_rate", "fast", ["found 'fast'", "number"]),
        ("bf16", "maybe", ["found 'maybe'", "boolean"]),
        ("per_device_train_batch_size", 1.5, ["found 1.5", "integer"]),
        ("learning_rate", math.nan, ["found nan", "a finite number"]),
        ("learning_rate", math.inf, ["found inf", "a finite number"]),
        ("learning_rate", "nan", ["found 'nan'", "a finite number"]),
        ("learning_rate", -1e-5, ["found -1e-05", "at least 0"]),
        ("learning_rate", "1e999", ["found '1e999'", "a finite number"]),
        ("weight_decay", -math.inf, ["found -inf", "a finite number"]),
        ("num_train_epochs", -1, ["found -1", "at least 0"]),
        ("max_grad_norm", math.nan, ["found nan", "a finite number"]),
        ("on_divergence", "ignore", ["found 'ignore'", "'stop' or 'retry'"]),
    ],
)
def test_mistakes_name_the_setting(name: str, value: object, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        check_settings({name: value}, "preparation.training")
    for part in [f"preparation.training.{name}: ", *parts]:
        assert part in str(caught.value)


def test_numbers_inside_of_settings_are_looked_at_too() -> None:
    settings = {"lr_scheduler_kwargs": {"min_lr": math.nan}}
    with pytest.raises(ConfigError, match=r"training\.lr_scheduler_kwargs\.min_lr: found nan"):
        check_settings(settings, "training")


def test_what_to_do_on_divergence_is_cotbals_own(tmp_path: Path) -> None:
    settings = training_settings(config(training={"on_divergence": "retry"}), "tune")
    assert settings["on_divergence"] == "retry"
    assert "on_divergence" not in settings_that_matter(settings)
    training_arguments({**settings, "use_cpu": True}, tmp_path, 0)


def test_every_name_the_tables_speak_of_exists() -> None:
    known = {field.name for field in dataclasses.fields(TrainingArguments)}
    assert set(arguments.DEFAULTS) | set(arguments._OURS) | arguments._INDIFFERENT <= known | set(
        arguments._COTBALS
    )
    assert not set(arguments._RENAMED) & known


def test_every_default_of_transformers_passes_the_check(tmp_path: Path) -> None:
    defaults = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    settings = {
        field.name: getattr(defaults, field.name)
        for field in dataclasses.fields(TrainingArguments)
        if field.init and field.name not in arguments._OURS and field.name != "accelerator_config"
    }
    check_settings(settings, "training")


def test_the_preparation_changes_only_what_it_names() -> None:
    settings = config(
        training={"learning_rate": 1e-3, "max_steps": 5}, preparation={"training": {"max_steps": 2}}
    )
    common = {**arguments.DEFAULTS, "learning_rate": 1e-3}
    assert training_settings(settings, "tune") == {**common, "max_steps": 5}
    assert training_settings(settings, "prepare") == {**common, "max_steps": 2}


def test_what_only_concerns_watching_and_speed_does_not_matter() -> None:
    watching = {
        "logging_steps": 1,
        "save_steps": 2,
        "report_to": "none",
        "dataloader_num_workers": 2,
        "run_name": "x",
    }
    assert settings_that_matter(watching) == {}
    result = {"learning_rate": 1e-3, "dataloader_drop_last": True, "bf16": True, "max_grad_norm": 1.0}
    assert settings_that_matter(result | watching) == result


def test_arguments_are_ours_where_they_have_to_be(tmp_path: Path) -> None:
    made = training_arguments({"use_cpu": True, "learning_rate": 1e-3}, tmp_path, 7)
    assert (made.seed, made.data_seed, made.remove_unused_columns) == (7, 7, False)
    assert made.output_dir == str(tmp_path)
    assert made.learning_rate == 1e-3


def test_what_transformers_refuses_is_passed_on(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="transformers refuses"):
        training_arguments({"use_cpu": True, "lr_scheduler_type": "zigzag"}, tmp_path, 0)


def test_groups_by_length_need_a_full_check() -> None:
    grouped = {"train_sampling_strategy": "group_by_length"}
    assert training_settings(config(training=grouped), "tune")["train_sampling_strategy"] == "group_by_length"
    with pytest.raises(ConfigError, match=r"train_sampling_strategy: .*set `check: full`"):
        training_settings(config(preparation={"training": grouped}, check="quick"), "prepare")
