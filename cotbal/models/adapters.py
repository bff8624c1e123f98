"""Adapters on a model that is otherwise kept as it is: what `model.adapter` of a config asks for, through peft."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cotbal.config.borrowed import check_names
from cotbal.config.model import ModelConfig
from cotbal.config.yaml_file import ConfigError
from cotbal.extras import check_extras
from cotbal.models.model_source import ADAPTER_CONFIG, model_source
from cotbal.tune.whole_model import IncompleteModelError, check_saved_adapters

__all__ = [
    "adapter_config",
    "adapters_wanted",
    "add_adapter",
    "check_adapter",
    "check_trains",
    "load_adapter",
    "without_peft",
]

_OURS = {
    "alpha": "peft calls it `lora_alpha`",
    "task_type": "every model here is a causal language model",
    "inference_mode": "cotbal trains the adapter and scores with it",
    "base_model_name_or_path": "it is `model.name`",
    "revision": "it is `model.revision`",
    "peft_type": "the adapter is LoRA; set `use_dora` or `use_rslora` for its variants",
    "peft_version": "it is that of the installed peft",
    "auto_mapping": "the model's class is that of `model.name`",
    "alora_invocation_tokens": "scoring and merging need an adapter that always acts",
    "arrow_config": "it routes between adapters, and a unit has one",
    "layer_replication": "the adapter could not be merged into its base model",
    "megatron_config": "the model is transformers' own",
    "megatron_core": "the model is transformers' own",
    "loftq_config": "it changes the base model, which adapters of all units share",
    "eva_config": "it needs a pass over data before training",
    "corda_config": "it needs a pass over data before training",
    "lora_ga_config": "it needs a pass over data before training",
}
_INITIALISATIONS = (True, False, "gaussian", "orthogonal")


def adapters_wanted(config: ModelConfig) -> bool:
    """Whether units train adapters: new ones, or that of the folder that `model` names."""
    return config.adapter is not None or model_source(config).adapter is not None


def check_adapter(config: ModelConfig) -> None:
    """Refuse settings that peft's `LoraConfig` lacks or that cotbal sets, before anything is loaded.

    Raises:
        ConfigError: with the key's path, what was found and what is accepted.
    """
    if not adapters_wanted(config):
        return
    check_extras("model.adapter", "peft")
    if config.adapter is None:
        return
    if model_source(config).adapter is not None:
        raise ConfigError(
            f"model.adapter: {config.name} is an adapter already, and it is this one that is trained on; leave "
            "`adapter` out. For a new adapter on top of it, merge it first: peft's merge_and_unload, or "
            "`cotbal export` for a unit"
        )
    adapter_config(config.adapter)


def adapter_config(settings: Mapping[str, Any]) -> Any:
    """The `LoraConfig` of a config's `model.adapter`.

    Raises:
        ConfigError: see `check_adapter`.
    """
    from peft import LoraConfig

    known = [field.name for field in fields(LoraConfig) if field.init]
    check_names("model.adapter", settings, known=known, of="peft's LoraConfig", ours=_OURS)
    start = settings.get("init_lora_weights", True)
    if start not in _INITIALISATIONS:
        raise ConfigError(
            f"model.adapter.init_lora_weights: found {start!r}; accepted: true, false, gaussian, orthogonal. The "
            "others change the base model or need data first"
        )
    try:
        return LoraConfig(**settings, task_type="CAUSAL_LM")
    except (ValueError, TypeError, ImportError) as error:
        raise ConfigError(f"model.adapter: peft refuses these settings: {error}") from error


def add_adapter(model: nn.Module, settings: Mapping[str, Any], seed: int) -> Any:
    """Put a new adapter on a model, whose own parameters are fixed from then on.

    Args:
        seed: of the adapter's first weights; the random state outside is untouched.

    Raises:
        ConfigError: peft finds nothing to adapt; or the adapter would part weights that the model ties.
    """
    from peft import get_peft_model

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:
            adapted = get_peft_model(model, adapter_config(settings))
        except (ValueError, TypeError) as error:
            raise ConfigError(f"model.adapter: peft refuses these settings: {error}") from error
    _check_ties(adapted)
    return adapted


def load_adapter(model: nn.Module, folder: Path, *, trainable: bool = True) -> Any:
    """Put the adapter saved in `folder` on its base model, refused unless all of its tensors are there and no other.

    Raises:
        ConfigError: the folder holds no adapter, or not a whole one; the tensors are named.
    """
    from peft import PeftModel

    if not (folder / ADAPTER_CONFIG).is_file():
        raise ConfigError(
            f"model: {folder} holds no adapter (no {ADAPTER_CONFIG}), but this config trains adapters; was it made "
            "with another config?"
        )
    try:
        with warnings.catch_warnings():
            # What it warns of, missing tensors, is an error below.
            warnings.filterwarnings("ignore", message="Found missing adapter keys")
            adapted = PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)
        check_saved_adapters(adapted, folder)
    except IncompleteModelError as error:
        raise ConfigError(f"model: {error}") from error
    except (OSError, ValueError, TypeError, ImportError, RuntimeError) as error:
        raise ConfigError(f"model: peft cannot load the adapter in {folder}: {error}") from error
    except Exception as error:
        # safetensors has an error of its own for a file that is cut.
        raise ConfigError(f"model: {folder}: its adapter cannot be read: {error}") from error
    _check_ties(adapted)
    return adapted


def check_trains(model: nn.Module) -> None:
    """Refuse adapters of which nothing is left to train.

    Raises:
        ConfigError: with what to change.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(
            "model.freeze: no parameter is left to train; the base model is fixed by `adapter` already, and names "
            "here fix adapters within them"
        )


def without_peft(model: Any) -> Any:
    """The transformers model inside a peft model, its adapters in their places; any other model as it is.

    Scoring calls this one: what is set on a peft model (a generation config) does not reach the model inside.
    """
    return (
        model.get_base_model()
        if hasattr(model, "peft_config") and hasattr(model, "get_base_model")
        else model
    )


def _check_ties(adapted: Any) -> None:
    """Refuse adapters on one of two parts that share a weight: merged, both would change, or the saved model lie."""
    model = adapted.get_base_model()
    parts = {"embeddings": model.get_input_embeddings(), "head": model.get_output_embeddings()}
    if not getattr(model.config.get_text_config(), "tie_word_embeddings", False):
        return
    touched = [
        name for name, part in parts.items() if part is not None and type(part).__module__.startswith("peft.")
    ]
    if touched:
        raise ConfigError(
            f"model.adapter: it adapts the {' and '.join(touched)} of a {type(model).__name__}, which ties "
            "embeddings and head to one weight; merged into the model, the adapter of one would act on both. Leave "
            "them out of target_modules and modules_to_save"
        )
