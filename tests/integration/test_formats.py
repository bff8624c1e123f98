"""The example file of every format through a whole run, from reading to the report."""

import json
import shutil
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml
from support.models import tiny_models

from cotbal import cli

EXAMPLES = Path(__file__).parents[2] / "examples" / "data"
LISTED = ("dataset_info.json#pictures", "dataset_info.json#instructions")
FILES = sorted(
    path.name
    for path in EXAMPLES.iterdir()
    if path.suffix in (".json", ".jsonl") and path.name != "dataset_info.json"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    for part in tiny_models.tiny_llava():
        part.save_pretrained(folder)
    return folder


def table_of(name: str, folder: Path) -> str:
    """A table with the pictures' bytes in it, as the hub has them."""
    rows = [json.loads(line) for line in (EXAMPLES / "prompt_completion.jsonl").read_text().splitlines()]
    values: list[dict[str, Any]] = [
        {
            "prompt": row["prompt"] if isinstance(row["prompt"], str) else row["prompt"][0]["content"],
            "completion": "Two." if isinstance(row["prompt"], list) else row["completion"],
            "images": [{"bytes": (EXAMPLES / image).read_bytes(), "path": None} for image in row["images"]],
        }
        for row in rows
    ]
    made = datasets.Dataset.from_list(values).cast_column("images", datasets.List(datasets.Image()))
    if name == "table.parquet":
        made.to_parquet(folder / name)
    elif name == "hub":
        (folder / name).mkdir()
        made.to_parquet(folder / name / "train.parquet")
    else:
        made.save_to_disk(folder / name)
    return name


@pytest.mark.parametrize("name", [*FILES, *LISTED, "table.parquet", "saved", "hub"])
def test_a_file_of_the_format_goes_through_a_whole_run(
    tmp_path: Path,
    model: Path,
    name: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if name in FILES or name in LISTED:
        shutil.copytree(EXAMPLES, tmp_path, dirs_exist_ok=True)
    else:
        table_of(name, tmp_path)
    file: object = name
    if name == "hub":
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
        file = {"dataset": "./hub", "split": "train"}
    config = {
        "model": str(model),
        "output": "run",
        "tasks": [{"name": "only", "train": file, "test": file, "metric": "loss", "weight": 1}],
        "training": {"max_steps": 1, "per_device_train_batch_size": 2, "use_cpu": True},
        "comparison": {"strategies": ["ew"]},
    }
    path = tmp_path / "mixture.yaml"
    path.write_text(yaml.safe_dump(config))
    assert cli.main(["run", str(path)]) == 0, capsys.readouterr().err
    assert (tmp_path / "run" / "report" / "report.md").is_file()
    assert not (tmp_path / "run" / "bad_records.jsonl").exists()
    (check,) = (tmp_path / "run" / "check").glob("check.json")
    sets = json.loads(check.read_text())["sets"]
    assert [item["split"] for item in sets] == ["train", "test"]
    assert all(item["records"] >= 2 and item["pictures"] >= 1 and item["answer_tokens"] > 4 for item in sets)
    (scores,) = (tmp_path / "run" / "units").glob("*/scores.jsonl")
    assert len(scores.read_text().splitlines()) == sets[1]["records"]


def test_there_is_a_file_for_every_format() -> None:
    assert len(FILES) == 8
