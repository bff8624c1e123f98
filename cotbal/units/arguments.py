"""Turn the `training` sections of a config into `transformers.TrainingArguments`."""

from __future__ import annotations

import math
import typing
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, TypeAdapter, ValidationError
from transformers import TrainingArguments

from cotbal.config.borrowed import check_names
from cotbal.config.schema import Config
from cotbal.config.yaml_file import ConfigError
from cotbal.units.batches import batch_layout
from cotbal.units.ranks import world_size
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
"""Defaults that differ from transformers': the method's published schedule, a readable curve, safe checkpoints."""

_OURS = {
    "output_dir": "each unit has its own folder under `output`",
    "seed": "set `seed`, or `comparison.seeds`, at the top level",
    "data_seed": "set `seed`, or `comparison.seeds`, at the top level",
    "resume_from_checkpoint": "units resume by themselves",
    "restore_callback_states_from_checkpoint": "units resume by themselves",
    "ignore_data_skip": "a resumed unit must see the remaining data",
    "save_only_model": "a unit could not be resumed from such checkpoints",
    "remove_unused_columns": "it would drop the task of each sample",
    "label_names": "the collator names the labels",
    "load_best_model_at_end": "there is no evaluation during training",
    "auto_find_batch_size": "a resumed unit must see the same batches",
    "disable_tqdm": "progress is shown by cotbal",
    "dataloader_drop_last": "cotbal fills up the last step of an epoch itself",
    "do_train": "cotbal decides what runs",
    "do_eval": "cotbal decides what runs",
    "do_predict": "cotbal decides what runs",
    "eval_strategy": "cotbal scores each unit when it is trained",
    "eval_steps": "cotbal scores each unit when it is trained",
    "eval_on_start": "cotbal scores each unit when it is trained",
}

_COTBALS: dict[str, Any] = {
    "global_batch_size": Annotated[int, Field(ge=1)],
    "on_divergence": Literal["stop", "retry"],
}
"""Settings of cotbal's own below `training`, which transformers never sees, with their types."""

# A number below 0 means nothing; 0 does for some.
_NOT_NEGATIVE = {
    "learning_rate",
    "num_train_epochs",
    "weight_decay",
    "max_grad_norm",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "warmup_steps",
}

_RENAMED = {
    "warmup_ratio": "`warmup_steps`, where a number below 1 is a share of all steps",
    "evaluation_strategy": "nothing: cotbal scores each unit when it is trained",
}

# These change how a unit is logged or how fast it runs, not what it computes (beyond rounding).
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
    # What counts of these three is the number of samples in a step, which is recorded beside the settings.
    "global_batch_size",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "on_divergence",
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


# Where transformers' own annotation is narrower than what it takes.
_WIDER: dict[str, Any] = {"fsdp": bool | str | list[str] | None}


def check_settings(settings: Mapping[str, Any], section: str) -> None:
    """Refuse names that `TrainingArguments` lacks or cotbal sets itself, and values of a wrong type.

    Raises:
        ConfigError: with the key's path, what was found and what is accepted.
    """
    known = {field.name for field in fields(TrainingArguments) if field.init} | _COTBALS.keys()
    check_names(
        section, settings, known=known, of="transformers' TrainingArguments", ours=_OURS, renamed=_RENAMED
    )
    types = typing.get_type_hints(TrainingArguments) | _COTBALS | _WIDER
    for name, value in settings.items():
        path = f"{section}.{name}"
        if name == "train_sampling_strategy" and value == "batch_rebalance":
            raise ConfigError(
                f"{path}: 'batch_rebalance' deals the samples of a step out by their length, and a step would no "
                "longer see the same samples on every number of processes; use 'group_by_length'"
            )
        try:
            TypeAdapter(types[name], config={"arbitrary_types_allowed": True}).validate_python(value)
        except ValidationError as error:
            expected = "; ".join(detail["msg"] for detail in error.errors()[:2])
            raise ConfigError(f"{path}: found {value!r}; {expected}") from None
        _check_numbers(value, path)
        if name in _NOT_NEGATIVE and float(value) < 0:
            raise ConfigError(f"{path}: found {value!r}; expected: a number of at least 0")


def _check_numbers(value: Any, path: str) -> None:
    """Refuse NaN and infinity, at any depth."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            _check_numbers(inner, f"{path}.{name}")
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            _check_numbers(inner, f"{path}[{index}]")
    elif _is_not_finite(value):
        raise ConfigError(f"{path}: found {value!r}; expected: a finite number")


def _is_not_finite(value: Any) -> bool:
    if not isinstance(value, (float, str)):
        return False
    try:
        return not math.isfinite(float(value))  # of a text too: transformers takes some numbers as texts
    except ValueError:
        return False


def training_settings(config: Config, stage: Stage) -> dict[str, Any]:
    """Combine the defaults, the config's `training` and, for the preparation, the changes of its own section.

    Raises:
        ConfigError: see `check_settings`.
    """
    check_settings(config.training, "training")
    settings = DEFAULTS | config.training
    if stage == "prepare":
        check_settings(config.preparation.training, "preparation.training")
        settings |= config.preparation.training
    if settings.get("train_sampling_strategy") == "group_by_length" and config.check == "quick":
        raise ConfigError(
            "training.train_sampling_strategy: 'group_by_length' needs the length of every record in tokens, which a "
            "quick check does not find; set `check: full`"
        )
    return settings


def settings_that_matter(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a unit's result depends on."""
    return {name: value for name, value in settings.items() if not _is_indifferent(name)}


def _is_indifferent(name: str) -> bool:
    if name.startswith("dataloader_"):
        return name.endswith(_INDIFFERENT_TAILS)
    return name in _INDIFFERENT or name.startswith(_INDIFFERENT_STARTS)


def training_arguments(settings: Mapping[str, Any], folder: Path, seed: int) -> TrainingArguments:
    """Make the arguments of one unit's training on the processes that are here; checkpoints go to `folder`.

    Raises:
        ConfigError: transformers refuses the settings; its message is passed on.
    """
    layout = batch_layout(settings, world_size())
    stock = {name: value for name, value in settings.items() if name not in _COTBALS}
    stock |= {
        "per_device_train_batch_size": layout.per_device,
        "gradient_accumulation_steps": layout.accumulation,
    }
    # Asked for an accelerator where there is none, several processes would each take themselves to be alone.
    stock.setdefault("use_cpu", not torch.accelerator.is_available())
    if stock.get("fsdp"):
        stock["fsdp_config"] = {"state_dict_type": "SHARDED_STATE_DICT"} | (stock.get("fsdp_config") or {})
    try:
        return TrainingArguments(
            **stock,
            output_dir=str(folder),
            seed=seed,
            data_seed=seed,
            remove_unused_columns=False,
            disable_tqdm=True,
        )
    except (ValueError, TypeError, ImportError) as error:
        raise ConfigError(f"training: transformers refuses these settings: {error}") from error
