"""Data sets by name: what `datasets` loads holds the records of the same files, streamed or not."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets.packaged_modules.json.json import Json
from hypothesis import given
from hypothesis import strategies as st

from cotbal.config.hub import HubSet, hub_path
from cotbal.config.schema import Config, load_config
from cotbal.config.yaml_file import ConfigError
from cotbal.data import read_records
from cotbal.data.hub import hub_digest
from cotbal.data.pictures import load_picture
from cotbal.output.fingerprint import data_digest

EXAMPLES = Path(__file__).parents[3] / "examples" / "data"


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(params=["parquet", "jsonl"])
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    made = tmp_path / "data"
    made.mkdir()
    text = (EXAMPLES / "swift.jsonl").read_text()
    shutil.copytree(EXAMPLES / "images", made / "images")
    for split, lines in (("train", text.splitlines()), ("validation", text.splitlines()[:1])):
        rows = list(map(json.loads, lines))
        if request.param == "parquet":
            datasets.Dataset.from_list(rows).to_parquet(made / f"{split}.parquet")
        else:
            (made / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    card = "".join(
        f"    - split: {split}\n      path: {split}.{request.param}\n" for split in ("train", "validation")
    )
    (made / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files:\n{card}---\n")
    return made


def read(path: Path | str, source: Path) -> list[Any]:
    return [replace(record, source=source) for record in read_records(path, task="t")]


@pytest.mark.parametrize("stream", [False, True])
def test_a_data_set_holds_the_records_of_its_files(folder: Path, stream: bool) -> None:
    source = Path("x")
    expected = [
        replace(record, source=source)
        for record in read_records(EXAMPLES / "swift.jsonl", task="t", image_root=folder)
    ]
    count = len(expected)
    options = f"?stream={count}" if stream else ""
    assert read(f"hf://{folder}#train{options}", source) == expected
    one = hub_path({"dataset": str(folder), "split": "validation", "stream": 1 if stream else None}, None)
    assert read(Path(str(one)), source) == expected[:1]


def test_a_stream_that_is_too_short_is_said(folder: Path) -> None:
    (problem,) = read_records(f"hf://{folder}#train?stream=99", task="t", on_bad="skip").problems
    assert "the stream has 2 rows, but stream: 99 asks for more" in problem.reason


@pytest.mark.parametrize("stream", [None, 2])
def test_the_digest_is_the_contents(folder: Path, stream: int | None) -> None:
    named = HubSet(str(folder), "train", stream=stream)
    before = data_digest(named.as_path())
    assert before == hub_digest(named)
    assert before != hub_digest(replace(named, split="validation"))
    moved = Path(shutil.copytree(folder, folder.with_name("moved")))
    if stream:
        assert hub_digest(replace(named, name=str(moved))) == before
    rows = list(map(json.loads, (EXAMPLES / "swift.jsonl").read_text().splitlines()))
    rows[0]["messages"][-1]["content"] += "!"
    (path,) = moved.glob("train.*")
    if path.suffix == ".parquet":
        datasets.Dataset.from_list(rows).to_parquet(path)
    else:
        path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    assert hub_digest(replace(named, name=str(moved))) != before


def test_pictures_stay_the_bytes_of_their_files(tmp_path: Path) -> None:
    rows = [{"query": "<image>q", "response": "x", "image": str(EXAMPLES / "images" / "chart.png")}] * 2
    made = datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())
    (tmp_path / "d").mkdir()
    made.to_parquet(tmp_path / "d" / "train.parquet")
    for options in ("", "?stream=2"):
        found = read_records(f"hf://{tmp_path / 'd'}#train{options}", task="t")
        expected = load_picture(EXAMPLES / "images" / "chart.png").tobytes()
        seen = [load_picture(image).tobytes() for record in found for image in record.images]
        assert seen == [expected] * 2


def test_a_name_on_the_hub_is_read_from_the_librarys_cache_without_a_network(tmp_path: Path) -> None:
    text = (EXAMPLES / "query_response.jsonl").read_text()
    rows = [{**json.loads(line), "images": []} for line in text.splitlines()]
    rows = [{"query": row["query"].replace("<image>", ""), "response": row["response"]} for row in rows]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)) + "\n")
    made = Json(
        cache_dir=str(tmp_path / "made"), dataset_name="name", hash="abc", data_files={"train": [str(file)]}
    )
    made.download_and_prepare()
    # As a download leaves it.
    shutil.copytree(made._cache_dir, tmp_path / "cache" / "org___name" / "default" / "0.0.0" / "abc")
    source = Path("x")
    expected = [replace(record, source=source) for record in read_records(file, task="t")]
    assert read("hf://org/name#train", source) == expected
    assert read("hf://org/name#train[:1]", source) == expected[:1]
    assert hub_digest(HubSet("org/name", "train")) != hub_digest(HubSet("org/name", "train[:1]"))


def test_what_the_hub_does_not_give_is_said() -> None:
    (problem,) = read_records("hf://org/nowhere#train", task="t", on_bad="skip").problems
    assert "hf:/org/nowhere#train: the datasets library cannot load it: " in problem.reason


def test_a_split_that_is_not_there_is_said(folder: Path) -> None:
    (problem,) = read_records(f"hf://{folder}#test", task="t", on_bad="skip").problems
    assert "cannot load it" in problem.reason
    assert "test" in problem.reason


def config(tmp_path: Path, train: object) -> Config:
    path = tmp_path / "c.yaml"
    tasks = [{"name": "a", "train": train, "weight": 1}]
    path.write_text(json.dumps({"model": "m", "output": "o", "tasks": tasks}))
    return load_config(path)


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        ("hf://org/name#train", HubSet("org/name", "train")),
        ({"dataset": "org/name", "split": "train[:10%]"}, HubSet("org/name", "train[:10%]")),
        (
            {"dataset": "org/name", "split": "t", "config": "en", "revision": "main", "stream": 9},
            HubSet("org/name", "t", "en", "main", 9),
        ),
        ({"dataset": "org/name", "split": "t", "stream": False}, HubSet("org/name", "t")),
    ],
)
def test_a_config_names_a_data_set(tmp_path: Path, train: object, expected: HubSet) -> None:
    made = config(tmp_path, train)
    assert [HubSet.of_path(path) for path in made.tasks[0].train] == [expected]
    assert made.missing_paths() == []


def test_a_folder_starts_from_the_configs_place(tmp_path: Path) -> None:
    (tmp_path / "d#1").mkdir()
    for train in ({"dataset": "./d#1", "split": "train"}, [{"dataset": f"{tmp_path}/d#1", "split": "train"}]):
        made = config(tmp_path, train)
        (found,) = made.tasks[0].train
        named = HubSet.of_path(found)
        assert named is not None
        assert named.folder == tmp_path / "d#1"
        assert made.missing_paths() == []
    assert config(tmp_path, {"dataset": "./gone", "split": "train"}).missing_paths()[0][0] == "tasks[0].train"


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("hf://org/name", "names no split; write hf://org/name#train"),
        ({"dataset": "org/name"}, "`dataset` and `split` are needed"),
        ({"dataset": "org/name", "split": "t", "name": "x"}, "found the key 'name'; expected dataset, split"),
        ({"dataset": "a/b/c", "split": "t"}, "'a/b/c' is no name on the hub"),
        (
            {"dataset": "org/name", "split": "t", "stream": True},
            "`stream` needs the number of rows to read: steps and subsets are counted before training",
        ),
        ({"dataset": "org/name", "split": "t", "stream": "many"}, "stream is 'many'"),
        ({"dataset": "org/name", "split": "t", "stream": -1}, "stream is -1"),
        ({"dataset": "org/name", "split": "t", "stream": 5}, "needs a `revision`"),
        ("hf://org/name#t?stream=all", "stream is 'all'; expected the number"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, train: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(tmp_path, train)
    assert message in str(caught.value)
    assert "tasks[0].train" in str(caught.value)


_words = st.text("abcXYZ09-_.", min_size=1, max_size=8).filter(lambda word: not word.startswith("."))


@given(
    name=st.builds("{}/{}".format, _words, _words) | st.builds("/{}/{} #?%".format, _words, _words),
    split=_words,
    more=st.fixed_dictionaries(
        {
            "config": st.none() | _words,
            "revision": st.none() | _words,
            "stream": st.none() | st.integers(1, 99),
        }
    ),
)
def test_a_path_stands_for_one_data_set(name: str, split: str, more: dict[str, Any]) -> None:
    made = HubSet(name, split, **more)
    assert HubSet.of_path(made.as_path()) == made
    assert HubSet.of_path(Path(str(made.as_path()))) == made
