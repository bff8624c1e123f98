"""Base models in 4 or 8 bits: what `model.quantization` of a config asks for, through bitsandbytes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from cotbal.config.borrowed import check_names
from cotbal.config.model import ModelConfig
from cotbal.config.yaml_file import ConfigError
from cotbal.extras import check_extras
from cotbal.models.adapters import adapters_wanted
from cotbal.tune.quantized import is_quantized

__all__ = ["check_quantization", "check_quantized", "quantization_options"]

_OURS = {
    "load_in_4bit": "write `bits: 4`",
    "load_in_8bit": "write `bits: 8`",
    "llm_int8_enable_fp32_cpu_offload": "the whole model is on the device that trains it",
    "llm_int8_has_fp16_weight": "the base model is not trained",
}


def check_quantization(config: ModelConfig, training: Mapping[str, Any]) -> None:
    """Refuse, before anything is loaded, a quantised model that could not be trained.

    Args:
        config: the section `model`.
        training: the settings of a stage.

    Raises:
        ConfigError: with the key's path, what was found and what is accepted.
    """
    if config.quantization is None:
        return
    if not adapters_wanted(config):
        raise ConfigError(
            "model.quantization: a quantised model's own weights cannot be trained; add `model.adapter`, such as "
            "`adapter: {r: 16, lora_alpha: 32, target_modules: all-linear}`"
        )
    for engine in ("fsdp", "deepspeed"):
        if training.get(engine):
            raise ConfigError(
                f"training.{engine}: not with model.quantization, whose packed weights are not tested when sharded; "
                "leave one of the two out. Several processes without it share the data (DDP)"
            )
    check_extras("model.quantization", "quantization", "peft")
    _settings(config)


def quantization_options(config: ModelConfig, head: str | None) -> dict[str, Any]:
    """Options of `from_pretrained` that quantise the model as the config asks; none where it does not.

    Args:
        config: the section `model`.
        head: the name of the model's output head, which stays as it is.
    """
    if config.quantization is None:
        return {}
    from transformers import BitsAndBytesConfig

    settings = _settings(config)
    skipped = settings.get("llm_int8_skip_modules")
    if skipped is not None:
        # With a list of one's own, transformers leaves out what is listed and no more.
        settings["llm_int8_skip_modules"] = list(dict.fromkeys([*skipped, *([head] if head else [])]))
    # Quantised weights are made on the device where they stay.
    quantization = BitsAndBytesConfig(**settings)  # type: ignore[no-untyped-call]
    return {"quantization_config": quantization, "device_map": {"": training_device()}}


def training_device() -> Any:
    """The device of this process, as accelerate chooses it."""
    from accelerate import PartialState

    return PartialState().device


def check_quantized(model: nn.Module, config: ModelConfig) -> None:
    """Confirm by the types of the loaded layers what is quantised and what is not.

    Raises:
        ConfigError: nothing is quantised; the head is; or a name in `llm_int8_skip_modules` left nothing out, with
            what to write.
    """
    if config.quantization is None:
        return
    quantized = [name for name, module in model.named_modules() if is_quantized(module)]
    if not quantized:
        raise ConfigError(
            f"model.quantization: no layer of this {type(model).__name__} was quantised; leave `quantization` out"
        )
    names = {module: name for name, module in model.named_modules()}
    head = names.get(model.get_output_embeddings())  # type: ignore[operator]
    if head in quantized:
        raise ConfigError(
            f"model.quantization: the output head `{head}` was quantised, and the loss needs it as it is; add it: "
            f"llm_int8_skip_modules: [{head}]"
        )
    for index, name in enumerate(config.quantization.settings.get("llm_int8_skip_modules") or ()):
        within = [path for path in quantized if f".{name}." in f".{path}."]
        if within or not any(f".{name}." in f".{path}." for path in names.values()):
            raise ConfigError(
                f"model.quantization.llm_int8_skip_modules[{index}]: '{name}' "
                + _skip_fault(within, name, names.values())
            )


def _skip_fault(within: Sequence[str], name: str, paths: Any) -> str:
    if not within:
        parts = sorted({".".join(path.split(".")[:2]) for path in paths if path})
        return f"names no part of this model; its parts are {', '.join(parts)}"
    full = f".{within[0]}.".split(f".{name}.")[0].lstrip(".")
    whole = f"{full}.{name}" if full else name
    return (
        f"was ignored: {len(within)} layers within it were quantised, {within[0]} first. transformers wants the full "
        f"name; write `{whole}`"
    )


def _settings(config: ModelConfig) -> dict[str, Any]:
    """Arguments of `BitsAndBytesConfig`."""
    from transformers import BitsAndBytesConfig

    section = config.quantization
    if section is None:
        return {}
    parameters = inspect.signature(BitsAndBytesConfig.__init__).parameters
    check_names(
        "model.quantization",
        section.settings,
        known={"bits", *parameters} - {"self", "kwargs"},
        of="transformers' BitsAndBytesConfig",
        ours=_OURS,
    )
    settings: dict[str, Any] = {f"load_in_{section.bits}bit": True, **section.settings}
    if section.bits == 4 and config.dtype != "auto":
        # Its own default would compute in float32, whatever the rest of the model does.
        settings.setdefault("bnb_4bit_compute_dtype", getattr(torch, config.dtype))
    try:
        BitsAndBytesConfig(**settings)  # type: ignore[no-untyped-call]
    except (ValueError, TypeError) as error:
        raise ConfigError(f"model.quantization: transformers refuses these settings: {error}") from error
    return settings
