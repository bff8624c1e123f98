"""Tables: the rows of Parquet files and of saved data sets are the records of the same JSON Lines."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest

from cotbal.data import read_records
from cotbal.data.pictures import load_picture

EXAMPLES = Path(__file__).parents[3] / "examples" / "data"
FORMS = ("file.parquet", "folder of parquet", "saved")


def rows(name: str) -> list[dict[str, Any]]:
    text = (EXAMPLES / name).read_text()
    found: list[dict[str, Any]] = (
        json.loads(text) if name.endswith(".json") else list(map(json.loads, text.splitlines()))
    )
    return found


def write(made: datasets.Dataset, path: Path, form: str) -> Path:
    if form == "saved":
        made.save_to_disk(path)
    elif form == "file.parquet":
        made.to_parquet(path := path.with_suffix(".parquet"))
    else:
        path.mkdir()
        half = len(made) // 2
        made.select(range(half)).to_parquet(path / "0.parquet")
        made.select(range(half, len(made))).to_parquet(path / "1.parquet")
    return path


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["llava.json", "sharegpt.json", "swift.jsonl", "llama_factory_v1.jsonl"])
def test_a_table_holds_the_records_that_json_holds(tmp_path: Path, name: str, form: str) -> None:
    path = write(datasets.Dataset.from_list(rows(name)), tmp_path / "table", form)
    expected = read_records(EXAMPLES / name, task="t")
    found = read_records(path, task="t", image_root=EXAMPLES)
    assert [replace(record, source=path) for record in expected] == list(found)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("several", [True, False])
def test_pictures_within_a_table(tmp_path: Path, form: str, several: bool) -> None:
    raw = [row for row in rows("query_response.jsonl") if len(row["images"]) == 1]
    for row in raw:
        row["images"] = [str(EXAMPLES / image) for image in row["images"]]
        if not several:
            (row["image"],) = row.pop("images")
    made = datasets.Dataset.from_list(raw)
    feature = datasets.List(datasets.Image()) if several else datasets.Image()
    made = made.cast_column("images" if several else "image", feature)
    found = read_records(write(made, tmp_path / "table", form), task="t")
    expected = load_picture(EXAMPLES / "images" / "chart.png")
    assert len(found) == 2
    for record in found:
        (image,) = record.images
        assert load_picture(image).tobytes() == expected.tobytes()


def test_what_is_no_table_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"no parquet")
    (tmp_path / "b").mkdir()
    splits = datasets.DatasetDict({"train": datasets.Dataset.from_list(rows("alpaca.json")[:1])})
    splits.save_to_disk(tmp_path / "c")
    for name, reason in (
        ("a.parquet", "not readable as Parquet"),
        ("b", "neither a folder with .parquet files nor one that save_to_disk"),
        ("c", "holds several splits (train); give the folder of one of them"),
    ):
        (problem,) = read_records(tmp_path / name, task="t", on_bad="skip").problems
        assert reason in problem.reason
        assert problem.file == tmp_path / name
