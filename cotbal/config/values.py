"""What the sections of a config are made of: their base class, types of values and checks that several share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo
from pydantic_core import PydanticCustomError

from cotbal.config.hub import HubSet, hub_path

__all__ = ["Fraction", "Paths", "Section", "Seed", "Settings", "nest_name", "refuse_repeated", "resolve_path"]


def resolve_path(path: Path, info: ValidationInfo) -> Path:
    """Return the path, relative to the config's folder; `~` is the user's home."""
    base = _base(info)
    if HubSet.of_path(path) is not None:
        return path
    expanded = path.expanduser()
    return expanded if base is None or expanded.is_absolute() else base / expanded


def _base(info: ValidationInfo) -> Path | None:
    return info.context.get("base") if isinstance(info.context, Mapping) else None


def _one_or_many(value: object, info: ValidationInfo) -> object:
    if value is None:
        return value
    listed = value if isinstance(value, (list, tuple)) else [value]
    return [hub_path(item, _base(info)) for item in listed]


def nest_name(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


def _settings(value: object) -> object:
    return {} if value is None else value


Paths = Annotated[tuple[Path, ...], BeforeValidator(_one_or_many)]
"""One path or a list of paths, or of data sets: see `cotbal.config.hub`."""
Settings = Annotated[dict[str, Any], BeforeValidator(_settings)]
"""Fields of `transformers.TrainingArguments` or `GenerationConfig`, checked when the units are set up."""
Fraction = Annotated[float, Field(gt=0.0, le=1.0)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, allow_inf_nan=False)


def refuse_repeated(names: list[str], what: str, remedy: str) -> None:
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    if repeated:
        raise PydanticCustomError(
            "repeated",
            "{what} {names} appears more than once; {remedy}",
            {"what": what, "names": ", ".join(map(repr, repeated[:10])), "remedy": remedy},
        )
