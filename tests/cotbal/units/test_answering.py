"""What a server cannot answer is refused before anything is trained."""

from pathlib import Path

import pytest
import yaml

from cotbal import metrics
from cotbal.config.schema import Config, load_config
from cotbal.config.yaml_file import ConfigError
from cotbal.units.answering import check_engine


def config(folder: Path, **model: object) -> Config:
    (folder / "mixture.yaml").write_text(
        yaml.safe_dump(
            {
                "model": {"name": "some/model", **model},
                "output": "run",
                "tasks": [{"name": "a", "train": "t.json", "validation": "v.json", "metric": "exact_match"}],
                "evaluation": {"engine": "openai", "server": {"base_url": "http://localhost:1/v1"}},
            }
        )
    )
    return load_config(folder / "mixture.yaml")


def test_whole_models_and_generated_answers_are_accepted(tmp_path: Path) -> None:
    check_engine(config(tmp_path), {"a": metrics.get("exact_match")})  # raises nothing


def test_units_of_adapters_alone_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a server cannot load an adapter alone; set evaluation\.engine"):
        check_engine(config(tmp_path, adapter={"r": 4}), {"a": metrics.get("exact_match")})


def test_losses_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="task 'a': metric loss needs the losses of given answers"):
        check_engine(config(tmp_path), {"a": metrics.get("loss")})
