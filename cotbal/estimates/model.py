"""The model of a config from its description alone: real modules, tensors without data."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from cotbal.config.model import ModelConfig
from cotbal.config.yaml_file import ConfigError
from cotbal.models.adapters import adapters_wanted, add_adapter, check_trains
from cotbal.models.loading import freeze
from cotbal.models.model_source import model_source
from cotbal.models.quantization import quantization_options

__all__ = ["count_parameters", "described_model", "materialise", "own_tables", "packed_statistics", "quiet"]


def described_model(config: ModelConfig) -> Any:
    """The model that `load_model` would load, frozen, quantised and with its adapters, on the meta device.

    No weights are read: only the model's `config.json`.

    Raises:
        ConfigError: transformers does not know the model, or its adapters or frozen parts do not fit it.
    """
    with torch.device("meta"):
        model = _base_model(config)
        if config.quantization is not None:
            _quantize(model, config)
        if adapters_wanted(config):
            model = add_adapter(model, _adapter_settings(config), 0)
    freeze(model, config.freeze)
    if adapters_wanted(config):
        check_trains(model)
    return model


def materialise(model: Any) -> None:
    """Give a model on the meta device tensors, in place; in a `FakeTensorMode` they have no data."""
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    for path, module in list(model.named_modules()):
        if type(module).__module__.startswith("bitsandbytes."):
            parent, _, leaf = path.rpartition(".")
            setattr(model.get_submodule(parent), leaf, _Quantized(module, dtype))
    made: dict[Tensor, Any] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.device.type == "meta":
                if parameter not in made:
                    made[parameter] = nn.Parameter(_empty(parameter), parameter.requires_grad)
                module._parameters[name] = made[parameter]
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.device.type == "meta":
                if buffer not in made:
                    made[buffer] = _empty(buffer)
                module._buffers[name] = made[buffer]


def _empty(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype)


def _base_model(config: ModelConfig) -> Any:
    source = model_source(config)
    options: dict[str, Any] = {"trust_remote_code": config.trust_remote_code}
    try:
        described = AutoConfig.from_pretrained(source.base, revision=source.revision or "main", **options)
        if config.attention is not None:
            options["attn_implementation"] = config.attention
        own = getattr(described, "dtype", None) or torch.float32
        dtype = own if config.dtype == "auto" else getattr(torch, config.dtype)
        multimodal = described.model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
        loader = AutoModelForImageTextToText if multimodal else AutoModelForCausalLM
        return loader.from_config(described, dtype=dtype, **options)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"model: transformers cannot describe '{source.base}': {error}") from error


def _adapter_settings(config: ModelConfig) -> dict[str, Any]:
    """The settings of a new adapter, or those of the adapter that `model` names."""
    if config.adapter is not None:
        return config.adapter
    from peft import LoraConfig

    saved = LoraConfig.from_pretrained(str(model_source(config).adapter)).to_dict()
    names = ("r", "target_modules", "exclude_modules", "modules_to_save", "bias", "use_dora", "rank_pattern")
    return {name: saved[name] for name in names if saved.get(name)}


class _Quantized(nn.Linear):
    """A linear layer of bitsandbytes, made of its own operators, in a form that needs no data."""

    def __init__(self, layer: Any, dtype: torch.dtype) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.bias = layer.bias
        self.bits = 4 if hasattr(layer.weight, "quant_type") else 8
        shape = (layer.out_features, layer.in_features)
        if self.bits == 4:
            self.compute_dtype = layer.compute_dtype
            packed = self._pack(torch.empty(shape, dtype=dtype), layer.weight)
        else:
            packed = torch.empty(shape, dtype=torch.int8)
            self.scale = torch.empty(layer.out_features, dtype=torch.float32)
        self.weight = nn.Parameter(packed, requires_grad=False)

    def _pack(self, weight: Tensor, settings: Any) -> Tensor:
        from bitsandbytes.functional import quantize_4bit

        packed: Tensor
        packed, self.state = quantize_4bit(
            weight,
            blocksize=settings.blocksize,
            compress_statistics=settings.compress_statistics,
            quant_type=settings.quant_type,
            quant_storage=settings.quant_storage,
        )
        return packed

    @property
    def statistics(self) -> list[Tensor]:
        """What is kept beside the packed weight."""
        if self.bits == 8:
            return [self.scale]
        state, nested = self.state, self.state.state2
        found = [state.absmax, state.code, state.offset]
        found += [nested.absmax, nested.code] if nested is not None else []
        return [tensor for tensor in found if isinstance(tensor, Tensor)]

    def forward(self, hidden: Tensor) -> Tensor:
        from bitsandbytes.autograd._functions import MatMul4Bit, MatMul8bitFp, MatmulLtState

        if self.bits == 8:
            state = MatmulLtState()
            state.CB, state.SCB, state.is_training = self.weight.data, self.scale, False
            eight: Tensor = MatMul8bitFp.apply(hidden, self.weight, None, self.bias, state)  # type: ignore[no-untyped-call]
            return eight
        given = hidden.dtype
        if self.compute_dtype is not None:
            hidden = hidden.to(self.compute_dtype)
        bias = None if self.bias is None else self.bias.to(hidden.dtype)
        four: Tensor = MatMul4Bit.apply(hidden, self.weight.t(), None, bias, self.state)  # type: ignore[no-untyped-call]
        return four.to(given)


def _quantize(model: Any, config: ModelConfig) -> None:
    """Put quantised layers, still empty, in the places where transformers puts them."""
    from transformers.quantizers.auto import AutoHfQuantizer

    head = model.get_output_embeddings()
    name = next((name for name, module in model.named_modules() if module is head), None)
    dtypes = {name: parameter.dtype for name, parameter in model.named_parameters()}
    quantizer = AutoHfQuantizer.from_config(quantization_options(config, name)["quantization_config"])
    quantizer.preprocess_model(model=model, device_map=None)
    for name, parameter in list(model.named_parameters()):
        parameter.requires_grad_(False)
        path, _, leaf = name.rpartition(".")
        if leaf == "bias" and parameter.dtype != dtypes[name]:
            # New layers have biases in float32; loading puts those of the model there.
            bias = nn.Parameter(torch.empty_like(parameter, dtype=dtypes[name]), requires_grad=False)
            setattr(model.get_submodule(path), leaf, bias)


def quiet() -> AbstractContextManager[Any]:
    """Without warnings: the training itself will say them."""
    return warnings.catch_warnings(action="ignore")


@contextmanager
def own_tables() -> Iterator[None]:
    """In the block, bitsandbytes' tables of values are new ones; it keeps them for all later calls, data or not."""
    functional = sys.modules.get("bitsandbytes.functional")
    tables: dict[str, Any] = getattr(functional, "name2qmap", {})
    kept = dict(tables)
    tables.clear()
    try:
        yield
    finally:
        tables.clear()
        tables.update(kept)


def packed_statistics(model: Any) -> list[Tensor]:
    """What quantised layers keep beside their packed weights."""
    layers = [module for module in model.modules() if isinstance(module, _Quantized)]
    return [tensor for layer in layers for tensor in layer.statistics]


def count_parameters(model: Any) -> tuple[int, int]:
    """How many numbers a model has, packed ones counted one by one, and how many of them are trained."""
    packed = {id(module.weight): module for module in model.modules() if isinstance(module, _Quantized)}
    total = trained = 0
    for parameter in model.parameters():
        layer = packed.get(id(parameter))
        total += parameter.numel() if layer is None else layer.in_features * layer.out_features
        trained += parameter.numel() if parameter.requires_grad else 0
    return total, trained
