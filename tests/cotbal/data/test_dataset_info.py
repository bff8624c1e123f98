"""LLaMA-Factory's list of data sets: its columns and tags give the same records as the usual names."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cotbal.data import read_records

TURNS = [{"from": "human", "value": "<image>What?"}, {"from": "gpt", "value": "A seven."}]
RENAMED = [{"role": "person", "content": "<image>What?"}, {"role": "model", "content": "A seven."}]
TAGS = {"role_tag": "role", "content_tag": "content", "user_tag": "person", "assistant_tag": "model"}

# An entry, a record of its file, and the same record under the usual names.
ENTRIES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "sharegpt": (
        {"formatting": "sharegpt"},
        {"conversations": TURNS, "images": ["a.png"], "system": "s"},
        {"conversations": TURNS, "images": ["a.png"], "system": "s"},
    ),
    "tags and columns": (
        {
            "formatting": "sharegpt",
            "columns": {"messages": "talk", "images": "pictures", "system": "rule"},
            "tags": TAGS,
        },
        {"talk": RENAMED, "pictures": ["a.png"], "rule": "s"},
        {"conversations": TURNS, "images": ["a.png"], "system": "s"},
    ),
    "alpaca is the default": (
        {},
        {"instruction": "q", "input": "i", "output": "x"},
        {"instruction": "q", "input": "i", "output": "x"},
    ),
    "columns of alpaca": (
        {"columns": {"prompt": "question", "query": "context", "response": "answer", "images": "pictures"}},
        {"question": "<image>q", "context": "", "answer": "x", "pictures": ["a.png"]},
        {"instruction": "<image>q", "output": "x", "images": ["a.png"]},
    ),
}


def write(folder: Path, entry: dict[str, Any], *rows: dict[str, Any]) -> Path:
    (folder / "sub").mkdir(exist_ok=True)
    (folder / "a.png").touch()
    (folder / "sub" / "rows.json").write_text(json.dumps(rows))
    (folder / "dataset_info.json").write_text(json.dumps({"mine": {"file_name": "sub/rows.json", **entry}}))
    return folder / "dataset_info.json#mine"


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_says_how_its_file_is_read(tmp_path: Path, name: str) -> None:
    entry, row, usual = ENTRIES[name]
    plain = tmp_path / "plain.json"
    plain.write_text(json.dumps([usual]))
    found = read_records(write(tmp_path, entry, row), task="t")
    expected = read_records(plain, task="t")
    assert [replace(record, source=tmp_path / "sub" / "rows.json") for record in expected] == list(found)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"hf_hub_url": "x/y"}, "has 'hf_hub_url', which is not supported; give a local file"),
        ({"ranking": True}, "has 'ranking', which is not supported"),
        ({"file_name": "gone.json"}, "which does not exist"),
        ({"file_name": 7}, "has no 'file_name'"),
        ({"formatting": "openai"}, "has the formatting 'openai'; known are alpaca and sharegpt"),
        ({"columns": {"speech": "s"}}, "has the unknown column 'speech'"),
    ],
)
def test_entries_that_cannot_be_read_are_refused(tmp_path: Path, entry: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError) as caught:
        read_records(write(tmp_path, entry), task="t")
    assert reason in str(caught.value)
    assert "data set 'mine'" in str(caught.value)


def test_a_name_that_is_not_listed(tmp_path: Path) -> None:
    path = write(tmp_path, {})
    with pytest.raises(ValueError, match="no data set 'other'; it has mine"):
        read_records(path.with_name("dataset_info.json#other"), task="t")


def test_roles_that_no_tag_names_are_refused(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        {"formatting": "sharegpt", "tags": TAGS},
        {"conversations": [{"role": "tool", "content": "x"}]},
    )
    (problem,) = read_records(path, task="t", on_bad="skip").problems
    assert "turn 0 has the unknown role 'tool'" in problem.reason
