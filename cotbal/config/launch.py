"""The section `launch`: where units run."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cotbal.config.values import Section

__all__ = ["LaunchConfig"]


class LaunchConfig(Section):
    """Where units run: how many processes each, and how many units at once."""

    engine: Literal["local"] = "local"
    processes: int | None = Field(
        default=None, ge=1, description="that train a unit together; one per visible GPU"
    )
    side_by_side: int | None = Field(
        default=None, ge=1, description="units at once; as many as the GPUs allow"
    )
    command: tuple[str, ...] = Field(
        default=(), description="in place of torchrun, such as [accelerate, launch, --config_file, x.yaml]"
    )
    memory: float | None = Field(
        default=None,
        gt=0,
        description="GiB that each process may take, if not what this machine's device has",
    )
    fit: Literal["refuse", "warn"] = Field(
        default="refuse",
        description="what happens if a unit does not fit the memory or the disk by the estimate",
    )
