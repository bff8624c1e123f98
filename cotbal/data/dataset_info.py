"""LLaMA-Factory's `dataset_info.json`: a data file under a name, with the columns and tags that it uses.

`dataset_info.json#NAME` is the data set of that name. What is read of its entry: `file_name`, `formatting`, `columns`
and `tags`, with LLaMA-Factory's defaults. Hub data sets, scripts, rankings and subsets are refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAME = "dataset_info.json"
_ALPACA = {
    "prompt": "instruction",
    "query": "input",
    "response": "output",
    "history": "history",
    "system": "system",
    "images": "images",
}
_SHAREGPT = {"messages": "conversations", "system": "system", "images": "images"}
_TAGS = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "observation_tag": "observation",
    "function_tag": "function_call",
    "system_tag": "system",
}
_SAME = {"messages": "conversations", "prompt": "instruction", "query": "input", "response": "output"}
_REFUSED = (
    "hf_hub_url",
    "ms_hub_url",
    "om_hub_url",
    "script_url",
    "cloud_file_name",
    "ranking",
    "subset",
    "folder",
)
# Read from the records themselves, under these names, and refused there.
_OTHERS = ("videos", "audios", "tools", "chosen", "rejected", "kto_tag")


@dataclass(frozen=True)
class ListedFile:
    """A data file as `dataset_info.json` describes it: how its rows become records of a format we read."""

    path: Path
    sharegpt: bool
    columns: Mapping[str, str]
    tags: Mapping[str, str]

    def record(self, row: object) -> object:
        """The row with its columns and tags under their usual names."""
        if not isinstance(row, Mapping):
            return row
        renamed = dict(row)
        for usual, column in self.columns.items():
            if column != _SAME.get(usual, usual) and column in renamed:
                renamed[_SAME.get(usual, usual)] = renamed.pop(column)
        turns = renamed.get("conversations")
        if self.sharegpt and isinstance(turns, list):
            renamed["conversations"] = [self._turn(turn) for turn in turns]
        return renamed

    def _turn(self, turn: object) -> object:
        if not isinstance(turn, Mapping):
            return turn
        roles = {
            self.tags["user_tag"]: "human",
            self.tags["assistant_tag"]: "gpt",
            self.tags["system_tag"]: "system",
        }
        role, text = turn.get(self.tags["role_tag"]), turn.get(self.tags["content_tag"])
        rest = {
            key: value
            for key, value in turn.items()
            if key not in (self.tags["role_tag"], self.tags["content_tag"])
        }
        return {**rest, "from": roles.get(role, role) if isinstance(role, str) else role, "value": text}


def split_name(path: Path) -> tuple[Path, str | None]:
    """A path and, where it ends in `dataset_info.json#NAME`, the name.

    >>> split_name(Path("data/dataset_info.json#vqa"))[1]
    'vqa'
    """
    file, mark, name = path.name.partition("#")
    return (path.with_name(file), name) if mark and file == NAME else (path, None)


def data_file(path: Path) -> Path:
    """The file that records of this path have as their source.

    Raises:
        ValueError: see `listed_file`.
    """
    file, name = split_name(path)
    return file if name is None else listed_file(file, name).path


def listed_file(path: Path, name: str) -> ListedFile:
    """What the entry `name` of a `dataset_info.json` describes.

    Raises:
        ValueError: no such entry, or one that cannot be read; it says why.
    """
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not readable as JSON: {error}") from None
    if not isinstance(listed, dict) or not isinstance(listed.get(name), dict):
        names = ", ".join(listed) if isinstance(listed, dict) else "none"
        raise ValueError(f"{path}: no data set {name!r}; it has {names}")
    entry: dict[str, Any] = listed[name]
    for key in _REFUSED:
        if entry.get(key):
            raise ValueError(
                f"{path}: data set {name!r} has {key!r}, which is not supported; give a local file"
            )
    if not isinstance(entry.get("file_name"), str):
        raise ValueError(f"{path}: data set {name!r} has no 'file_name'")
    form = entry.get("formatting", "alpaca")
    if form not in ("alpaca", "sharegpt"):
        raise ValueError(
            f"{path}: data set {name!r} has the formatting {form!r}; known are alpaca and sharegpt"
        )
    usual = _SHAREGPT if form == "sharegpt" else _ALPACA
    columns = {**usual, **(entry.get("columns") or {})}
    unknown = sorted(set(columns) - set(usual) - set(_OTHERS))
    if unknown:
        raise ValueError(f"{path}: data set {name!r} has the unknown column {unknown[0]!r}")
    file = path.parent / entry["file_name"]
    if not file.exists():
        raise ValueError(f"{path}: data set {name!r} names {file}, which does not exist")
    return ListedFile(file, form == "sharegpt", columns, {**_TAGS, **(entry.get("tags") or {})})
