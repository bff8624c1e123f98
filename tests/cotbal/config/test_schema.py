"""Configs: what is read, and what each mistake is answered with."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cotbal.config.launch import LaunchConfig
from cotbal.config.model import ModelConfig
from cotbal.config.schema import Config, load_config
from cotbal.config.server import ServerConfig
from cotbal.config.stages import ComparisonConfig, EvaluationConfig, PreparationConfig, WeighingConfig
from cotbal.config.tasks import TaskConfig
from cotbal.config.yaml_file import ConfigError

ROOT = Path(__file__).parents[3]


def minimal(**changes: Any) -> dict[str, Any]:
    task = {"name": "vqa", "train": "a.json", "validation": "v.json", "metric": "exact_match"}
    return {"model": "some/model", "output": "out", "tasks": [task], **changes}


def load(folder: Path, values: dict[str, Any] | str) -> Config:
    path = folder / "mixture.yaml"
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values))
    return load_config(path)


def mistake(folder: Path, values: dict[str, Any] | str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(folder, values)
    return str(caught.value)


def test_relative_paths_start_from_the_configs_folder(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    task = {"name": "a", "train": ["x.json", "/data/y.json"], "weight": 1, "images": "pictures"}
    config = load(tmp_path, minimal(model={"name": "weights"}, tasks=[task]))
    assert config.output == tmp_path / "out"
    assert config.tasks[0].train == (tmp_path / "x.json", Path("/data/y.json"))
    assert config.tasks[0].images == tmp_path / "pictures"
    assert config.model.name == str(tmp_path / "weights")


def test_a_name_that_is_no_folder_is_left_to_transformers(tmp_path: Path) -> None:
    assert load(tmp_path, minimal()).model.name == "some/model"


def test_the_title_is_the_mixtures_name_and_by_default_the_files(tmp_path: Path) -> None:
    assert load(tmp_path, minimal()).title == "mixture"
    assert load(tmp_path, minimal(name="Charts and pages")).title == "Charts and pages"
    assert Config.model_validate(minimal(output="results/first")).title == "first"
    assert "name: found ''" in mistake(tmp_path, minimal(name=""))


def test_defaults(tmp_path: Path) -> None:
    config = load(tmp_path, minimal(seed=3))
    assert config.preparation.mini_fraction == 1 / 32
    assert config.weighing.temperature == 0.5
    assert config.comparison_seeds == (3,)
    assert [strategy.model for strategy in config.comparison.strategies] == ["cotbal"]


def test_text_is_kept_for_the_record(tmp_path: Path) -> None:
    assert "some/model" in load(tmp_path, minimal()).text


@pytest.mark.parametrize(("written", "value"), [("2e-5", 2e-5), ("1E3", 1e3), ("-1e-2", -1e-2), (".5", 0.5)])
def test_numbers_without_a_point_are_numbers(tmp_path: Path, written: str, value: float) -> None:
    text = yaml.safe_dump(minimal()) + f"training: {{learning_rate: {written}}}\n"
    found = load(tmp_path, text).training["learning_rate"]
    assert isinstance(found, float)
    assert found == value


@pytest.mark.parametrize("word", ["no", "on", "off", "yes", "12:30", "2024-01-01"])
def test_words_stay_words(tmp_path: Path, word: str) -> None:
    text = yaml.safe_dump(minimal()) + f"training: {{run_name: {word}}}\n"
    assert load(tmp_path, text).training["run_name"] == word


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_survives(value: float) -> None:
    from cotbal.config.yaml_file import parse_yaml

    assert parse_yaml(f"x: {value!r}", Path("f"))["x"] == value


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"sed": 1}, ["sed: unknown key", "did you mean `seed`?"]),
        ({"model": {"name": "x", "freze": []}}, ["model.freze: unknown key", "`freeze`"]),
        ({"output": None}, ["output", "None"]),
        ({"seed": -1}, ["seed: found -1", "greater than or equal to 0"]),
        ({"seed": "a"}, ["seed: found 'a'", "integer"]),
        ({"bad_records": "ignore"}, ["bad_records: found 'ignore'", "'refuse' or 'skip'"]),
        ({"tasks": []}, ["tasks: found nothing", "at least one"]),
        ({"weighing": {"temperature": 0}}, ["weighing.temperature: found 0", "greater than 0"]),
        ({"preparation": {"mini_fraction": 0.5, "plus_fraction": 0.5}}, ["plus_fraction", "0.5"]),
        ({"training": ["x"]}, ["training: found ['x']", "keys and values"]),
        ({"comparison": {"seeds": [0, 0]}}, ["comparison.seeds", "'0'", "once"]),
        ({"comparison": {"strategies": ["ew", "ew"]}}, ["comparison.strategies", "'ew'", "label"]),
        ({"model": "./nowhere"}, ["model.name", "no such folder"]),
    ],
)
def test_mistakes_name_key_finding_and_remedy(
    tmp_path: Path, changes: dict[str, Any], parts: list[str]
) -> None:
    message = mistake(tmp_path, minimal(**changes))
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("task", "parts"),
    [
        ({"name": "a", "train": "x"}, ["tasks[0]", "no `validation`", "weight"]),
        ({"name": "a", "train": "x", "validation": "v"}, ["tasks[0]", "no `metric`"]),
        ({"name": "a", "train": "x", "weight": 1, "test": "v"}, ["tasks[0]", "test set", "no `metric`"]),
        ({"name": "a", "train": "x", "validation": "v", "metric": "m", "weight": 1}, ["both", "Remove one"]),
        ({"name": "a", "train": "x", "weight": -1}, ["tasks[0].weight: found -1"]),
        ({"name": "a/b", "train": "x", "weight": 1}, ["tasks[0].name", "a/b"]),
        ({"train": "x", "weight": 1}, ["tasks[0].name: missing"]),
        ({"name": "a", "train": [], "weight": 1}, ["tasks[0].train: found nothing"]),
    ],
)
def test_mistakes_in_tasks(tmp_path: Path, task: dict[str, Any], parts: list[str]) -> None:
    message = mistake(tmp_path, minimal(tasks=[task]))
    assert message.count("\n") == 1, "one mistake, one line"
    for part in parts:
        assert part in message


def test_all_mistakes_are_listed_at_once(tmp_path: Path) -> None:
    message = mistake(tmp_path, minimal(sed=1, seed=-1, weighing={"temperature": -1}))
    assert "3 mistakes" in message


def test_task_names_that_share_a_folder_are_refused(tmp_path: Path) -> None:
    tasks = [{"name": name, "train": "x", "weight": 1} for name in ("VQA", "vqa")]
    assert "'vqa' appears more than once" in mistake(tmp_path, minimal(tasks=tasks))


def test_a_repeated_key_is_refused_with_both_lines(tmp_path: Path) -> None:
    message = mistake(tmp_path, "model: a\noutput: b\nmodel: c\n")
    assert "mixture.yaml:3:1" in message
    assert "first in line 1" in message


def test_broken_yaml_names_line_and_column(tmp_path: Path) -> None:
    assert "mixture.yaml:2:9" in mistake(tmp_path, "model: a\noutput: ]\n")


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words"])
def test_a_file_without_keys_is_refused(tmp_path: Path, text: str) -> None:
    assert "expected keys and values" in mistake(tmp_path, text)


def test_missing_file_folder_and_encoding(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="is a folder"):
        load_config(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"model: \xe9\n")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_config(tmp_path / "latin.yaml")


def test_strategies_take_options_and_labels(tmp_path: Path) -> None:
    strategies = ["ew", {"name": "dwa", "window": 2}, {"name": "dwa", "label": "dwa-slow", "window": 9}]
    config = load(tmp_path, minimal(comparison={"strategies": strategies}))
    assert [strategy.model for strategy in config.comparison.strategies] == ["ew", "dwa", "dwa-slow"]
    assert config.comparison.strategies[1].options == {"window": 2}


def test_missing_paths_are_named_with_their_keys(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[]")
    assert load(tmp_path, minimal()).missing_paths() == [("tasks[0].validation", tmp_path / "v.json")]


def test_output_can_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "mixture.yaml"
    path.write_text(yaml.safe_dump(minimal()))
    assert load_config(path, output=tmp_path / "elsewhere").output == tmp_path / "elsewhere"


SECTIONS = {
    "": Config,
    "`model`:": ModelConfig,
    "Each of `tasks`:": TaskConfig,
    "`preparation`:": PreparationConfig,
    "`weighing`:": WeighingConfig,
    "`evaluation`:": EvaluationConfig,
    "`evaluation.server`:": ServerConfig,
    "`comparison`:": ComparisonConfig,
    "`launch`:": LaunchConfig,
}


@pytest.mark.parametrize("heading", SECTIONS)
def test_the_documented_keys_and_defaults_are_those_of_the_code(heading: str) -> None:
    text = (ROOT / "docs" / "config.md").read_text().split("## Training settings")[0]
    table = text.split(heading or "## Keys", 1)[1].split("\n\n")[1]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    fields = SECTIONS[heading].model_fields
    assert [row[0].strip("`") for row in rows] == list(fields)
    for (key, default, _), field in zip(rows, fields.values(), strict=True):
        if default == "required":
            assert field.is_required(), key
        elif isinstance(field.default, (bool, int, float, str)):
            assert (
                float(Fraction(default)) == field.default
                if default[0].isdigit()
                else (default.strip("`") == str(field.default).lower())
            ), key
        else:
            assert not field.is_required(), key
