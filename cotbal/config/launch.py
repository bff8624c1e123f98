"""The section `launch`: where units run."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from cotbal.config.values import Section, Settings

__all__ = ["LaunchConfig"]

# Keys that an engine of several machines takes, and `local` does not.
_OF_CLUSTERS = ("cluster", "retries", "options")


class LaunchConfig(Section):
    """Where units run: by which engine, how many processes each, and how many units at once."""

    engine: Literal["local", "ray", "slurm"] = "local"
    processes: int | None = Field(
        default=None, ge=1, description="that train a unit together; one per visible GPU"
    )
    side_by_side: int | None = Field(
        default=None, ge=1, description="units at once; as many as the GPUs allow"
    )
    command: tuple[str, ...] = Field(
        default=(), description="in place of torchrun, such as [accelerate, launch, --config_file, x.yaml]"
    )
    cluster: str | None = Field(
        default=None,
        min_length=1,
        description="address of the Ray cluster; of slurm, `local` tries submitit out without Slurm",
    )
    retries: int = Field(
        default=3, ge=0, le=1000, description="of a unit that was interrupted: a dead node, a preemption"
    )
    options: Settings = Field(
        default_factory=dict, description="handed to the engine: of Ray's tasks, or of submitit's jobs"
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

    @model_validator(mode="after")
    def _fits_the_engine(self) -> Self:
        if self.engine == "local":
            given = [name for name in _OF_CLUSTERS if name in self.model_fields_set]
            if given:
                raise PydanticCustomError(
                    "launch",
                    "`{name}` is for the engines ray and slurm, and `engine` is local; leave it out",
                    {"name": given[0]},
                )
        elif self.processes is None:
            raise PydanticCustomError(
                "launch",
                "`processes` is missing: with engine {engine}, units run on machines whose GPUs cannot be counted "
                "here; give the GPUs per unit",
                {"engine": self.engine},
            )
        if self.engine == "slurm" and self.cluster not in (None, "slurm", "local"):
            raise PydanticCustomError(
                "launch",
                "`cluster` is '{cluster}'; with engine slurm give `slurm`, or `local` to try it on this machine",
                {"cluster": self.cluster},
            )
        return self
