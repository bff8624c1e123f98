"""Where the model of a config comes from: a model alone, or an adapter and the model that it was made for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cotbal.config.model import ModelConfig
from cotbal.config.yaml_file import ConfigError
from cotbal.output.fingerprint import folder_digest

__all__ = [
    "ADAPTER_CONFIG",
    "ModelSource",
    "model_content",
    "model_settings",
    "model_source",
    "processor_source",
]

ADAPTER_CONFIG = "adapter_config.json"
_LATER = ("adapter", "quantization")
_PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json")


@dataclass(frozen=True)
class ModelSource:
    """What a unit's first weights are read from.

    Attributes:
        base: folder or hub id of the model itself.
        revision: of the base on the hub.
        adapter: folder of the adapter that `model` names; None where it names a model.
    """

    base: str
    revision: str | None
    adapter: Path | None = None


def model_source(config: ModelConfig) -> ModelSource:
    """The model that a config names; where that is an adapter's folder, the base is read from its config.

    Raises:
        ConfigError: the adapter's config cannot be read, names no base or one that is gone, or is no LoRA.
    """
    folder = Path(config.name)
    path = folder / ADAPTER_CONFIG
    if not path.is_file():
        return ModelSource(config.name, config.revision)
    try:
        values = json.loads(path.read_bytes())
        base, kind, revision = (
            values.get(key) for key in ("base_model_name_or_path", "peft_type", "revision")
        )
    except (ValueError, RecursionError, AttributeError):
        raise ConfigError(f"model: {path}: not the config of an adapter") from None
    if kind != "LORA":
        raise ConfigError(f"model: {path}: peft_type is {kind!r}; only adapters of LoRA can be trained on")
    if not (isinstance(base, str) and base):
        raise ConfigError(
            f"model: {path}: base_model_name_or_path is {base!r}; write the folder or hub id of the model that the "
            "adapter was made for"
        )
    if base.startswith((".", "/", "~")) and not Path(base).expanduser().is_dir():
        raise ConfigError(
            f"model: {path}: base_model_name_or_path is {base}, and there is no such folder; write where the model "
            "is now"
        )
    if config.revision is not None:
        raise ConfigError(
            f"model.revision: not for an adapter's folder; {path} has the revision of the base model"
        )
    return ModelSource(base, revision, folder)


def model_content(config: ModelConfig) -> str:
    """What a model's weights are, for comparison: digests of folders; of the hub the id and the commit.

    Raises:
        ConfigError: a model on the hub cannot be reached, and no copy of it is here.
    """
    source = model_source(config)
    base = _digest(source.base, source.revision)
    return base if source.adapter is None else f"{folder_digest(source.adapter)}, an adapter of {base}"


def model_settings(config: ModelConfig) -> dict[str, Any]:
    """The settings of a model that a unit's result depends on, as values to compare; its content is apart."""
    settings = config.model_dump(mode="json", exclude={"name"})
    # Results from before there were these keys are as good as without them.
    return {name: value for name, value in settings.items() if value is not None or name not in _LATER}


def processor_source(config: ModelConfig) -> str:
    """Where the processor is read from: the config's own, the adapter's, or the model's."""
    if config.processor is not None:
        return config.processor
    source = model_source(config)
    if source.adapter is not None and any((source.adapter / name).is_file() for name in _PROCESSOR_FILES):
        return str(source.adapter)
    return source.base


def _digest(name: str, revision: str | None) -> str:
    if Path(name).is_dir():
        return folder_digest(Path(name))
    from transformers.utils.hub import cached_file, extract_commit_hash

    try:
        path = cached_file(name, "config.json", revision=revision or "main")
    except (OSError, ValueError) as error:
        raise ConfigError(f"model: transformers cannot load '{name}': {error}") from error
    commit = extract_commit_hash(path, None)
    return f"{name} (hub)" if commit is None else f"{name} at {commit} (hub)"
