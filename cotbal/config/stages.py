"""The sections of the stages: `preparation`, `weighing`, `evaluation` and `comparison`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from cotbal.config.server import ServerConfig
from cotbal.config.values import Fraction, Section, Seed, Settings, nest_name, refuse_repeated

__all__ = ["ComparisonConfig", "EvaluationConfig", "PreparationConfig", "StrategyConfig", "WeighingConfig"]


class PreparationConfig(Section):
    """The N + 1 units whose validation scores the weights come from."""

    mini_fraction: Fraction = 1 / 32
    plus_fraction: Fraction = 1.0
    seeds: tuple[Seed, ...] | None = Field(
        default=None, min_length=1, description="one preparation for each; the weights are means over them"
    )
    vary: tuple[Literal["order", "subsets"], ...] = Field(
        default=("order", "subsets"),
        min_length=1,
        description="what a seed changes: order and dropout of the training, or which samples the subsets hold",
    )
    estimator: Literal["full", "hybrid"] = Field(
        default="full",
        description="what contributions are of: the tasks' metrics, or teacher-forced token accuracies",
    )
    keep_models: bool = Field(
        default=True, description="keep the models of these units after their validation"
    )
    training: Settings = Field(default_factory=dict, description="what differs from the top-level `training`")

    @field_validator("seeds")
    @classmethod
    def _distinct_seeds(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        refuse_repeated([str(seed) for seed in value or ()], "seed", "list each seed once")
        return value

    @model_validator(mode="after")
    def _mini_is_smaller(self) -> Self:
        if self.plus_fraction <= self.mini_fraction:
            raise PydanticCustomError(
                "fractions",
                "`plus_fraction` is {plus} and `mini_fraction` {mini}: a plus unit must see more of its task than "
                "mini does. Raise plus_fraction or lower mini_fraction",
                {"plus": self.plus_fraction, "mini": self.mini_fraction},
            )
        return self


class WeighingConfig(Section):
    """How measurements become weights."""

    temperature: float = Field(default=0.5, gt=0.0)
    shrink: bool = Field(default=False, description="pull uncertain terms toward 1")
    plain: bool = Field(default=False, description="the paper's formula unchanged, whatever the noise")
    confidence: float = Field(default=0.9, gt=0.0, lt=1.0)
    replicates: int = Field(default=1000, ge=100, le=10**6, description="of the bootstrap")


class EvaluationConfig(Section):
    """Validation and test: one answer per sample, by plain greedy generation unless `generation` asks otherwise."""

    engine: Literal["transformers", "openai"] = Field(
        default="transformers", description="what answers: this process, or an OpenAI-compatible `server`"
    )
    server: ServerConfig | None = None
    batch_size: int = Field(default=8, ge=1, le=2**16)
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        default=None, description="of the scored model, if not what its training computes in"
    )
    generation: Settings = Field(
        default_factory=dict, description="fields of transformers.GenerationConfig that are to act"
    )
    workers: int | None = Field(
        default=None, ge=0, le=256, description="processes that prepare pictures while the model answers"
    )

    @model_validator(mode="after")
    def _engine_and_server(self) -> Self:
        if (self.engine == "openai") != (self.server is not None):
            raise PydanticCustomError(
                "engine",
                "`engine` is {engine}, and there is {found}; `openai` needs one, and no other engine takes one",
                {"engine": self.engine, "found": "no `server`" if self.server is None else "a `server`"},
            )
        if self.engine == "openai" and self.generation:
            raise PydanticCustomError(
                "generation",
                "`generation` is for `engine: transformers`; with `engine: openai` answers are greedy, and what the "
                "server understands beyond that goes into `server.request`",
            )
        return self


class StrategyConfig(Section):
    """A way of weighting tasks in tuning, and its options. In the YAML, a bare string is its name."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    name: str = Field(min_length=1)
    label: str | None = Field(
        None, pattern=r"^[A-Za-z0-9_-]+$", description="names the units instead of `name`"
    )

    @property
    def model(self) -> str:
        """The name under which its units and results appear."""
        return self.label or self.name

    @property
    def options(self) -> dict[str, Any]:
        """Every other key, handed to the strategy."""
        return dict(self.model_extra or {})


class ComparisonConfig(Section):
    """The tuned units: which strategies, which seeds, and whether each task is also tuned alone."""

    strategies: tuple[Annotated[StrategyConfig, BeforeValidator(nest_name)], ...] = Field(
        default=(StrategyConfig(name="cotbal", label=None),), min_length=1, max_length=1000
    )
    single_task: bool = False
    seeds: tuple[Seed, ...] | None = Field(default=None, min_length=1, max_length=1000)
    keep_models: bool = Field(default=True, description="keep the models of these units after their test")

    @field_validator("strategies")
    @classmethod
    def _distinct_models(cls, value: tuple[StrategyConfig, ...]) -> tuple[StrategyConfig, ...]:
        refuse_repeated([strategy.model for strategy in value], "strategy", "give one of them a `label`")
        return value

    @field_validator("seeds")
    @classmethod
    def _distinct_seeds(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        refuse_repeated([str(seed) for seed in value or ()], "seed", "list each seed once")
        return value
