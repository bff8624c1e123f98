"""The section `tasks`: data, scoring and given weights."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from cotbal.config.values import Paths, Section, resolve_path
from cotbal.tasks import check_task_name

__all__ = ["TaskConfig"]


class TaskConfig(Section):
    """One task of the mixture: its data, how it is scored, or the weight it is given."""

    name: str
    train: Paths = Field(min_length=1)
    validation: Paths = ()
    test: Paths = ()
    images: Path | None = Field(default=None, description="folder where the image paths in the records start")
    metric: str | None = None
    higher_is_better: bool | None = Field(default=None, description="only to override what the metric says")
    max_new_tokens: int = Field(default=64, ge=1, le=2**20)
    weight: float | None = Field(default=None, ge=0.0, description="for a task that is not measured")

    @field_validator("name")
    @classmethod
    def _valid_name(cls, value: str) -> str:
        return check_task_name(value)

    @field_validator("train", "validation", "test")
    @classmethod
    def _resolved(cls, value: tuple[Path, ...], info: ValidationInfo) -> tuple[Path, ...]:
        return tuple(resolve_path(path, info) for path in value)

    @field_validator("images")
    @classmethod
    def _resolved_images(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        return None if value is None else resolve_path(value, info)

    @property
    def measured(self) -> bool:
        """Whether the task has a validation set, and so a measured weight."""
        return bool(self.validation)

    @model_validator(mode="after")
    def _measured_or_weighted(self) -> Self:
        if self.measured and self.weight is not None:
            raise PydanticCustomError(
                "task_weight",
                "task '{name}' has both `validation` and `weight`, but a task with a validation set gets a measured "
                "weight. Remove one of the two",
                {"name": self.name},
            )
        if not self.measured and self.weight is None:
            raise PydanticCustomError(
                "task_weight",
                "task '{name}' has no `validation` set, so its weight cannot be measured. Add `validation` and "
                "`metric`, or give it an explicit `weight` (1.0 is the mean of all weights)",
                {"name": self.name},
            )
        if (self.validation or self.test) and self.metric is None:
            raise PydanticCustomError(
                "task_metric",
                "task '{name}' has a {kind} set but no `metric`. Name one, such as exact_match, anls, cider, "
                "iou, iou@0.5, loss, or your own as module:function",
                {"name": self.name, "kind": "validation" if self.validation else "test"},
            )
        return self
