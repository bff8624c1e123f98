"""The configuration of a mixture: one YAML file, read and checked before any work begins.

Relative paths start from the file's folder, so a config means the same wherever you call it from.
Every mistake is a `ConfigError` that gives the key's path, what was found and what is accepted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from cotbal.config.yaml_file import MAX_CHARACTERS, ConfigError, describe_errors, parse_yaml
from cotbal.tasks import check_task_name

__all__ = [
    "ComparisonConfig",
    "Config",
    "ConfigError",
    "EvaluationConfig",
    "LaunchConfig",
    "ModelConfig",
    "PreparationConfig",
    "StrategyConfig",
    "TaskConfig",
    "WeighingConfig",
    "load_config",
]


def _resolve(path: Path, info: ValidationInfo) -> Path:
    """Return the path, relative to the config's folder; `~` is the user's home."""
    base = info.context.get("base") if isinstance(info.context, Mapping) else None
    expanded = path.expanduser()
    return expanded if base is None or expanded.is_absolute() else base / expanded


def _one_or_many(value: object) -> object:
    return value if value is None or isinstance(value, (list, tuple)) else [value]


def _nest_name(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


def _settings(value: object) -> object:
    return {} if value is None else value


Paths = Annotated[tuple[Path, ...], BeforeValidator(_one_or_many)]
"""One path or a list of paths."""
Settings = Annotated[dict[str, Any], BeforeValidator(_settings)]
"""Fields of `transformers.TrainingArguments` or `GenerationConfig`, checked when the units are set up."""
Fraction = Annotated[float, Field(gt=0.0, le=1.0)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, allow_inf_nan=False)


class ModelConfig(_Section):
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

    @field_validator("name", "processor")
    @classmethod
    def _local_folder(cls, value: str | None, info: ValidationInfo) -> str | None:
        """Resolve a name that is a folder beside the config, and leave anything else to transformers."""
        if value is None:
            return None
        folder = _resolve(Path(value), info)
        if folder.is_dir():
            return str(folder)
        if value.startswith((".", "/", "~")):
            raise PydanticCustomError("folder", "no such folder: {folder}", {"folder": str(folder)})
        return value


class TaskConfig(_Section):
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
        return tuple(_resolve(path, info) for path in value)

    @field_validator("images")
    @classmethod
    def _resolved_images(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        return None if value is None else _resolve(value, info)

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


class PreparationConfig(_Section):
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
    keep_models: bool = Field(
        default=True, description="keep the models of these units after their validation"
    )
    training: Settings = Field(default_factory=dict, description="what differs from the top-level `training`")

    @field_validator("seeds")
    @classmethod
    def _distinct_seeds(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        _refuse_repeated([str(seed) for seed in value or ()], "seed", "list each seed once")
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


class WeighingConfig(_Section):
    """How measurements become weights."""

    temperature: float = Field(default=0.5, gt=0.0)
    shrink: bool = Field(default=False, description="pull uncertain terms toward 1")
    plain: bool = Field(default=False, description="the paper's formula unchanged, whatever the noise")
    confidence: float = Field(default=0.9, gt=0.0, lt=1.0)
    replicates: int = Field(default=1000, ge=100, le=10**6, description="of the bootstrap")


class EvaluationConfig(_Section):
    """Validation and test: one answer per sample, by plain greedy generation unless `generation` asks otherwise."""

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


class StrategyConfig(_Section):
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


class ComparisonConfig(_Section):
    """The tuned units: which strategies, which seeds, and whether each task is also tuned alone."""

    strategies: tuple[Annotated[StrategyConfig, BeforeValidator(_nest_name)], ...] = Field(
        default=(StrategyConfig(name="cotbal", label=None),), min_length=1, max_length=1000
    )
    single_task: bool = False
    seeds: tuple[Seed, ...] | None = Field(default=None, min_length=1, max_length=1000)

    @field_validator("strategies")
    @classmethod
    def _distinct_models(cls, value: tuple[StrategyConfig, ...]) -> tuple[StrategyConfig, ...]:
        _refuse_repeated([strategy.model for strategy in value], "strategy", "give one of them a `label`")
        return value

    @field_validator("seeds")
    @classmethod
    def _distinct_seeds(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        _refuse_repeated([str(seed) for seed in value or ()], "seed", "list each seed once")
        return value


class LaunchConfig(_Section):
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


class Config(_Section):
    """A whole mixture: model, tasks, preparation, weighing, tuning."""

    name: str | None = Field(
        None, min_length=1, description="the mixture's name, the report's title (default: the file's name)"
    )
    model: Annotated[ModelConfig, BeforeValidator(_nest_name)]
    output: Path
    seed: int = Field(default=0, ge=0, lt=2**31)
    bad_records: Literal["refuse", "skip"] = "refuse"
    max_bad_share: float = Field(
        0.2, ge=0.0, le=1.0, description="of a task's records that may be skipped; with more, nothing is run"
    )
    check: Literal["full", "quick"] = Field(
        "full", description="quick looks at the headers of all pictures and at a sample of records only"
    )
    max_length: int | None = Field(
        None, ge=1, lt=2**31, description="longest sequence in tokens, image tokens included"
    )
    tasks: tuple[TaskConfig, ...] = Field(min_length=1, max_length=1000)
    preparation: PreparationConfig = PreparationConfig()
    weighing: WeighingConfig = WeighingConfig()
    training: Settings = Field(default_factory=dict)
    evaluation: EvaluationConfig = EvaluationConfig()
    comparison: ComparisonConfig = ComparisonConfig()
    launch: LaunchConfig = LaunchConfig()
    _source: Path | None = PrivateAttr(None)
    _text: str = PrivateAttr("")
    _stem: str = PrivateAttr("")

    @property
    def text(self) -> str:
        """The file's text, for the records; empty for a config made in code."""
        return self._text

    @property
    def title(self) -> str:
        """The mixture's name: `name`, else the file's name without its ending, else (without a file) the output's."""
        return self.name or self._stem or self.output.name

    @property
    def source(self) -> Path | None:
        """The file it was read from; None for a config made in code."""
        return self._source

    @field_validator("output")
    @classmethod
    def _resolved_output(cls, value: Path, info: ValidationInfo) -> Path:
        return _resolve(value, info)

    @field_validator("tasks")
    @classmethod
    def _distinct_names(cls, value: tuple[TaskConfig, ...]) -> tuple[TaskConfig, ...]:
        # Case is ignored because tasks name folders, and some file systems ignore case.
        _refuse_repeated([task.name.casefold() for task in value], "task name", "rename one of them")
        return value

    @property
    def measured_tasks(self) -> tuple[TaskConfig, ...]:
        """The tasks with a validation set, in the config's order."""
        return tuple(task for task in self.tasks if task.measured)

    @property
    def preparation_seeds(self) -> tuple[int, ...]:
        """The seeds of the preparations; `seed` where none are listed."""
        return self.preparation.seeds or (self.seed,)

    @property
    def comparison_seeds(self) -> tuple[int, ...]:
        """The seeds of the tuned units; `seed` if none are listed."""
        return self.comparison.seeds or (self.seed,)

    def missing_paths(self) -> list[tuple[str, Path]]:
        """Return every data file and image folder that does not exist, with the path of its key."""
        missing: list[tuple[str, Path]] = []
        for index, task in enumerate(self.tasks):
            for key in ("train", "validation", "test"):
                paths: tuple[Path, ...] = getattr(task, key)
                missing += [
                    (f"tasks[{index}].{key}", path) for path in paths if not _data_file(path).exists()
                ]
            if task.images is not None and not task.images.is_dir():
                missing.append((f"tasks[{index}].images", task.images))
        return missing


def _data_file(path: Path) -> Path:
    """The file on disk: a data set of LLaMA-Factory's is named behind its `dataset_info.json`."""
    file, mark, _ = path.name.partition("#")
    return path.with_name(file) if mark and file == "dataset_info.json" else path


def _refuse_repeated(names: list[str], what: str, remedy: str) -> None:
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    if repeated:
        raise PydanticCustomError(
            "repeated",
            "{what} {names} appears more than once; {remedy}",
            {"what": what, "names": ", ".join(map(repr, repeated[:10])), "remedy": remedy},
        )


def load_config(path: str | Path, *, output: Path | None = None) -> Config:
    """Read and check a config file.

    Args:
        path: the YAML file; relative paths in it start from its folder.
        output: replaces the file's `output`.

    Raises:
        ConfigError: the file is missing, is not YAML, or contains mistakes; all of them are listed.
    """
    source = Path(path)
    try:
        # Longer than any config: read no more of it than is needed to say so.
        with source.open(encoding="utf-8") as stream:
            text = stream.read(MAX_CHARACTERS + 1)
    except FileNotFoundError:
        raise ConfigError(f"{source}: no such file; give the path of a config (YAML)") from None
    except IsADirectoryError:
        raise ConfigError(f"{source}: this is a folder; give the path of a config file (YAML)") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{source}: not readable as UTF-8 text (byte {error.start})") from None
    values = parse_yaml(text, source)
    if output is not None:
        values["output"] = str(output.absolute())
    try:
        config = Config.model_validate(values, context={"base": source.absolute().parent})
    except ValidationError as error:
        raise ConfigError(describe_errors(error, Config, source)) from None
    config._text, config._stem = text, source.stem
    config._source = source.absolute()
    return config
