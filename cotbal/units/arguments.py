"""`training` sections of a config, made into `transformers.TrainingArguments`."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from transformers import TrainingArguments

from cotbal.config.schema import Config
from cotbal.config.yaml_file import ConfigError, suggest
from cotbal.units.schedule import Stage

__all__ = ["check_settings", "settings_that_matter", "training_arguments", "training_settings"]

DEFAULTS: dict[str, Any] = {
    "num_train_epochs": 1.0,
    "learning_rate": 2e-5,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.03,
    "logging_steps": 0.02,
    "save_total_limit": 2,
    "report_to": "none",
}
"""Where they differ from transformers': the method's published schedule, a readable curve, safe checkpoints."""

_OURS = {
    "output_dir": "each unit has its own folder under `output`",
    "seed": "set `seed`, or `comparison.seeds`, at the top level",
    "data_seed": "set `seed`, or `comparison.seeds`, at the top level",
    "resume_from_checkpoint": "units resume by themselves",
    "restore_callback_states_from_checkpoint": "units resume by themselves",
    "ignore_data_skip": "a resumed unit has to see the data that was left",
    "save_only_model": "a unit could not be resumed from such checkpoints",
    "remove_unused_columns": "it would drop the task of each sample",
    "label_names": "the collator names the labels",
    "load_best_model_at_end": "there is no evaluation during training",
    "auto_find_batch_size": "a unit's batches have to be the same when it is resumed",
    "disable_tqdm": "progress is shown by cotbal",
    "do_train": "cotbal decides what runs",
    "do_eval": "cotbal decides what runs",
    "do_predict": "cotbal decides what runs",
    "eval_strategy": "cotbal scores each unit when it is trained",
    "eval_steps": "cotbal scores each unit when it is trained",
    "eval_on_start": "cotbal scores each unit when it is trained",
}

_GROUPED = ("group_by_length", "batch_rebalance")

_RENAMED = {
    "warmup_ratio": "`warmup_steps`, where a number below 1 is a share of all steps",
    "evaluation_strategy": "nothing: cotbal scores each unit when it is trained",
}

# These change how a unit is watched or how fast it goes, not what it computes (beyond rounding).
_INDIFFERENT_STARTS = ("logging_", "log_", "save_", "hub_", "push_to_hub", "trackio_", "eval_")
_INDIFFERENT_TAILS = (
    "num_workers",
    "pin_memory",
    "persistent_workers",
    "prefetch_factor",
    "context",
    "in_order",
)
_INDIFFERENT = {
    "report_to",
    "run_name",
    "project",
    "skip_memory_metrics",
    "include_num_input_tokens_seen",
    "torch_empty_cache_steps",
    "gradient_checkpointing",
    "gradient_checkpointing_kwargs",
    "activation_checkpointing",
    "activation_checkpointing_kwargs",
    "enable_jit_checkpoint",
    "per_device_eval_batch_size",
    "ddp_timeout",
    "debug",
}


def check_settings(settings: Mapping[str, Any], section: str) -> None:
    """Refuse names that `TrainingArguments` lacks or cotbal sets itself, and values of another type.

    Raises:
        ConfigError: the key's path, what was found and what is accepted.
    """
    known = {field.name for field in fields(TrainingArguments) if field.init}
    types = typing.get_type_hints(TrainingArguments)
    for name, value in settings.items():
        path = f"{section}.{name}"
        if name in _OURS:
            raise ConfigError(f"{path}: not to be set here; {_OURS[name]}")
        if name == "train_sampling_strategy" and value in _GROUPED:
            raise ConfigError(
                f"{path}: {value!r} needs the length of every record in tokens, which is known only after the "
                "processor has seen its images; leave it out, or use 'random' or 'sequential'"
            )
        if name not in known:
            renamed = f"it is now {_RENAMED[name]}" if name in _RENAMED else suggest(name, sorted(known))
            raise ConfigError(f"{path}: TrainingArguments of transformers has no such setting; {renamed}")
        try:
            TypeAdapter(types[name], config={"arbitrary_types_allowed": True}).validate_python(value)
        except ValidationError as error:
            expected = "; ".join(detail["msg"] for detail in error.errors()[:2])
            raise ConfigError(f"{path}: found {value!r}; {expected}") from None


def training_settings(config: Config, stage: Stage) -> dict[str, Any]:
    """Defaults, the config's `training`, and for the preparation what its own section changes.

    Raises:
        ConfigError: see `check_settings`.
    """
    check_settings(config.training, "training")
    settings = DEFAULTS | config.training
    if stage == "prepare":
        check_settings(config.preparation.training, "preparation.training")
        settings |= config.preparation.training
    return settings


def settings_that_matter(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a unit's result depends on."""
    return {name: value for name, value in settings.items() if not _is_indifferent(name)}


def _is_indifferent(name: str) -> bool:
    if name.startswith("dataloader_"):
        return name.endswith(_INDIFFERENT_TAILS)
    return name in _INDIFFERENT or name.startswith(_INDIFFERENT_STARTS)


def training_arguments(settings: Mapping[str, Any], folder: Path, seed: int) -> TrainingArguments:
    """The arguments of one unit's training, whose checkpoints go to `folder`.

    Raises:
        ConfigError: transformers refuses the settings; its message is passed on.
    """
    try:
        return TrainingArguments(
            **settings,
            output_dir=str(folder),
            seed=seed,
            data_seed=seed,
            remove_unused_columns=False,
            disable_tqdm=True,
        )
    except (ValueError, TypeError, ImportError) as error:
        raise ConfigError(f"training: transformers refuses these settings: {error}") from error
