"""Load the model and processor that a config names, as transformers does."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from cotbal.config.model import ModelConfig
from cotbal.config.yaml_file import ConfigError
from cotbal.tune.whole_model import IncompleteModelError, load_whole

__all__ = ["freeze", "load_model", "load_processor", "quieten"]

_REMEDY = (
    "Mend the files, or insist with `allow_missing: [names]` below `model`, which takes modules' names too"
)

# Where transformers says what a file lacks or has too much.
_LOAD_REPORTS = ("transformers.modeling_utils", "transformers.utils.loading_report")


def load_model(config: ModelConfig, folder: Path | None = None) -> PreTrainedModel:
    """The model of a config, or one of its kind saved in `folder`; frozen parts are frozen.

    Raises:
        ConfigError: transformers cannot load it; it is not whole (see `cotbal.tune.whole_model.load_whole`); or
            `freeze` names something it does not have.
    """
    source = str(folder or config.name)
    options: dict[str, Any] = {"trust_remote_code": config.trust_remote_code}
    if folder is None and config.revision is not None:
        options["revision"] = config.revision
    try:
        described = AutoConfig.from_pretrained(source, **options)
        multimodal = described.model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
        loader = AutoModelForImageTextToText if multimodal else AutoModelForCausalLM
        dtype = config.dtype if config.dtype == "auto" else getattr(torch, config.dtype)
        if config.attention is not None:
            options["attn_implementation"] = config.attention
        # What a unit saves is whole, whatever its base model was allowed to lack.
        allowed = config.allow_missing if folder is None else ()
        model: PreTrainedModel = load_whole(
            loader, source, allow_missing=allowed, remedy=_REMEDY, dtype=dtype, **options
        )
    except IncompleteModelError as error:
        raise ConfigError(f"model: {error}") from error
    except (
        Exception
    ) as error:  # of transformers and all below it: KeyError, RecursionError, StrictDataclassError
        raise ConfigError(f"model: transformers cannot load '{source}': {error}") from error
    freeze(model, config.freeze)
    return model


def load_processor(config: ModelConfig) -> Any:
    """Load a config's processor: the one it names, else the model's own; a tokenizer for text-only models.

    Raises:
        ConfigError: transformers cannot load it.
    """
    source = config.processor or config.name
    options: dict[str, Any] = {"trust_remote_code": config.trust_remote_code}
    if config.processor is None and config.revision is not None:
        options["revision"] = config.revision
    try:
        described = AutoConfig.from_pretrained(
            config.name, trust_remote_code=config.trust_remote_code, revision=config.revision or "main"
        )
        multimodal = described.model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
        return (AutoProcessor if multimodal else AutoTokenizer).from_pretrained(source, **options)
    except (
        Exception
    ) as error:  # of transformers and all below it: KeyError, RecursionError, StrictDataclassError
        raise ConfigError(f"model.processor: transformers cannot load '{source}': {error}") from error


def freeze(model: torch.nn.Module, names: tuple[str, ...]) -> None:
    """Keep parts of a model fixed. Each name is a module or parameter, in full or by its last parts.

    `vision_tower` freezes everything below `model.vision_tower`.

    Raises:
        ConfigError: a name matches no parameter; the model's parts are listed.
    """
    for index, name in enumerate(names):
        inside = f".{name}."
        found = [p for path, p in model.named_parameters() if inside in f".{path}."]
        if not found:
            parts = sorted({".".join(path.split(".")[:2]) for path, _ in model.named_parameters()})
            raise ConfigError(
                f"model.freeze[{index}]: found '{name}', which names no part of this model; "
                f"its parts are {', '.join(parts)}"
            )
        for parameter in found:
            parameter.requires_grad_(False)


def quieten() -> None:
    """Turn off progress bars and notes of transformers; errors and reports of loading still come through."""
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    for name in _LOAD_REPORTS:
        logging.getLogger(name).setLevel(logging.WARNING)
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
