"""The section `model`: what all units start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from cotbal.config.values import Section, resolve_path

__all__ = ["ModelConfig", "QuantizationConfig"]


def _bits(value: object) -> object:
    return {"bits": value} if isinstance(value, int) and not isinstance(value, bool) else value


class QuantizationConfig(Section):
    """The base model in fewer bits, for adapters. In the YAML, a bare number is its bits."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    bits: Literal[4, 8]

    @property
    def settings(self) -> dict[str, Any]:
        """Every other key, handed to `transformers.BitsAndBytesConfig`."""
        return dict(self.model_extra or {})


class ModelConfig(Section):
    """The model that all units start from. In the YAML, a bare string is its name."""

    name: str = Field(min_length=1, description="folder with a saved model, or a hub id")
    processor: str | None = Field(
        default=None, description="folder or hub id of the processor, if not the model's"
    )
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    attention: str | None = Field(default=None, description="transformers' attn_implementation, such as sdpa")
    freeze: tuple[str, ...] = Field(
        default=(), description="modules or parameters that are not trained, by name"
    )
    allow_missing: tuple[str, ...] = Field(
        default=(),
        description="tensors or modules in which the saved model and its class may differ; they start at random",
    )
    trust_remote_code: bool = False
    adapter: dict[str, Any] | None = Field(
        default=None, description="fields of peft's LoraConfig; adapters are trained in place of the model"
    )
    quantization: Annotated[QuantizationConfig | None, BeforeValidator(_bits)] = Field(
        default=None, description="bits of the base model below adapters, and fields of BitsAndBytesConfig"
    )

    @field_validator("name", "processor")
    @classmethod
    def _local_folder(cls, value: str | None, info: ValidationInfo) -> str | None:
        """Resolve a name that is a folder beside the config, and leave anything else to transformers."""
        if value is None:
            return None
        folder = resolve_path(Path(value), info)
        if folder.is_dir():
            return str(folder)
        if value.startswith((".", "/", "~")):
            raise PydanticCustomError("folder", "no such folder: {folder}", {"folder": str(folder)})
        return value
