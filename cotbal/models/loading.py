"""Load the model and processor that a config names, as transformers does."""

from __future__ import annotations

import logging
from collections.abc import Sequence
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
from cotbal.models.adapters import adapters_wanted, add_adapter, check_trains, load_adapter, without_peft
from cotbal.models.model_source import ModelSource, model_source, processor_source
from cotbal.models.quantization import check_quantized, quantization_options
from cotbal.tune.quantized import keep_packing
from cotbal.tune.whole_model import IncompleteModelError, load_whole

__all__ = ["freeze", "load_for_scoring", "load_model", "load_processor", "quieten", "save_processor"]

_REMEDY = (
    "Mend the files, or insist with `allow_missing: [names]` below `model`, which takes modules' names too"
)

# Where transformers says what a file lacks or has too much.
_LOAD_REPORTS = ("transformers.modeling_utils", "transformers.utils.loading_report")


def load_model(config: ModelConfig, folder: Path | None = None, *, seed: int = 0) -> Any:
    """The model of a config, or one of its kind saved in `folder`; frozen parts are frozen.

    Where the config trains adapters, a peft model: its base as the config names it, with a new adapter, that of the
    folder that `model` names, or that in `folder`.

    Args:
        config: the section `model`.
        folder: a unit's model or checkpoint.
        seed: of a new adapter's first weights.

    Raises:
        ConfigError: transformers or peft cannot load it; it is not whole (see `cotbal.tune.whole_model.load_whole`);
            it is not quantised as the config asks; or `freeze` names something it does not have.
    """
    source = model_source(config)
    if not adapters_wanted(config):
        # What a unit saves is whole, whatever its base model was allowed to lack.
        model = (
            _load_base(config, source, config.allow_missing)
            if folder is None
            else _load_base(config, ModelSource(str(folder), None))
        )
        freeze(model, config.freeze)
        return model
    model = _load_base(config, source, config.allow_missing)
    saved = folder or source.adapter
    adapted = add_adapter(model, config.adapter or {}, seed) if saved is None else load_adapter(model, saved)
    freeze(adapted, config.freeze)
    check_trains(adapted)
    return adapted


def load_for_scoring(config: ModelConfig, folder: Path, device: torch.device) -> Any:
    """The transformers model of a unit on a device, with its adapter if it has one; see `load_model`."""
    model = without_peft(load_model(config, folder))
    # A quantised model is made where it stays.
    return model if config.quantization is not None else model.to(device)


def _load_base(
    config: ModelConfig, source: ModelSource, allow_missing: Sequence[str] = ()
) -> PreTrainedModel:
    options: dict[str, Any] = {"trust_remote_code": config.trust_remote_code}
    if source.revision is not None:
        options["revision"] = source.revision
    try:
        described = AutoConfig.from_pretrained(source.base, **options)
        multimodal = described.model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
        loader = AutoModelForImageTextToText if multimodal else AutoModelForCausalLM
        if config.quantization is not None:
            head = _head_name(loader, described, config.trust_remote_code)
            options |= quantization_options(config, head)
        dtype = config.dtype if config.dtype == "auto" else getattr(torch, config.dtype)
        if config.attention is not None:
            options["attn_implementation"] = config.attention
        model: PreTrainedModel = load_whole(
            loader,
            source.base,
            allow_missing=allow_missing,
            remedy=_REMEDY,
            dtype=dtype,
            **options,
        )
    except IncompleteModelError as error:
        raise ConfigError(f"model: {error}") from error
    except Exception as error:
        # Of transformers and all below it: KeyError, RecursionError, StrictDataclassError.
        raise ConfigError(f"model: transformers cannot load '{source.base}': {error}") from error
    check_quantized(model, config)
    keep_packing(model)
    _forget_unused_names(model)
    return model


def _forget_unused_names(model: Any) -> None:
    """Let the model be saved by the names it was loaded by.

    transformers' loader for ZeRO-3 keeps renamings for all files of the family there have ever been, and saving would
    revert them one upon another (`language_model.model.model` for LLaVA), which servers do not know.
    """
    renamings = getattr(model, "_weight_conversions", None)
    if renamings:
        model._weight_conversions = [each for each in renamings if getattr(each, "was_used", lambda: True)()]


def _head_name(loader: Any, described: Any, trust_remote_code: bool) -> str | None:
    """The name of the output head, from the model without its weights."""
    with torch.device("meta"):
        model = loader.from_config(described, trust_remote_code=trust_remote_code)
    head = model.get_output_embeddings()
    return next((name for name, module in model.named_modules() if module is head), None)


def load_processor(config: ModelConfig) -> Any:
    """Load a config's processor: the one it names, else the model's own; a tokenizer for text-only models.

    Raises:
        ConfigError: transformers cannot load it.
    """
    model = model_source(config)
    source = processor_source(config)
    options: dict[str, Any] = {"trust_remote_code": config.trust_remote_code}
    if source == model.base and model.revision is not None:
        options["revision"] = model.revision
    try:
        described = AutoConfig.from_pretrained(
            model.base, trust_remote_code=config.trust_remote_code, revision=model.revision or "main"
        )
        multimodal = described.model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
        return (AutoProcessor if multimodal else AutoTokenizer).from_pretrained(source, **options)
    except Exception as error:
        # Of transformers and all below it: KeyError, RecursionError, StrictDataclassError.
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


def save_processor(processor: Any, folder: Path) -> None:
    """Save a processor as it was loaded, whatever it was used for since.

    A fast tokenizer saves how its last call padded and cut, which a resumed process may not have made.
    """
    backend = getattr(getattr(processor, "tokenizer", processor), "backend_tokenizer", None)
    if backend is not None:
        backend.no_padding()
        backend.no_truncation()
    processor.save_pretrained(folder)
