"""The configuration of a mixture: one YAML file, read and checked before any work begins.

Relative paths start from the file's folder, so a config means the same wherever you call it from.
Every mistake is a `ConfigError` that gives the key's path, what was found and what is accepted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PrivateAttr, ValidationError, ValidationInfo, field_validator

from cotbal.atomic import naming
from cotbal.config.hub import HubSet
from cotbal.config.launch import LaunchConfig
from cotbal.config.model import ModelConfig
from cotbal.config.stages import ComparisonConfig, EvaluationConfig, PreparationConfig, WeighingConfig
from cotbal.config.tasks import TaskConfig
from cotbal.config.values import Section, Settings, nest_name, refuse_repeated, resolve_path
from cotbal.config.yaml_file import MAX_CHARACTERS, ConfigError, describe_errors, parse_yaml

__all__ = ["Config", "load_config"]


class Config(Section):
    """A whole mixture: model, tasks, preparation, weighing, tuning."""

    name: str | None = Field(
        None, min_length=1, description="the mixture's name, the report's title (default: the file's name)"
    )
    model: Annotated[ModelConfig, BeforeValidator(nest_name)]
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
        return resolve_path(value, info)

    @field_validator("tasks")
    @classmethod
    def _distinct_names(cls, value: tuple[TaskConfig, ...]) -> tuple[TaskConfig, ...]:
        # Case is ignored because tasks name folders, and some file systems ignore case.
        refuse_repeated([task.name.casefold() for task in value], "task name", "rename one of them")
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
                missing += [(f"tasks[{index}].{key}", path) for path in paths if not _is_there(path)]
            if task.images is not None and not task.images.is_dir():
                missing.append((f"tasks[{index}].images", task.images))
        return missing


def _is_there(path: Path) -> bool:
    """Whether a data file exists; what the hub has is known only when it is loaded."""
    named = HubSet.of_path(path)
    if named is not None:
        return named.folder is None or named.folder.is_dir()
    return _data_file(path).exists()


def _data_file(path: Path) -> Path:
    """The file on disk: a data set of LLaMA-Factory's is named behind its `dataset_info.json`."""
    file, mark, _ = path.name.partition("#")
    return path.with_name(file) if mark and file == "dataset_info.json" else path


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
        with naming(source), source.open(encoding="utf-8") as stream:
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
