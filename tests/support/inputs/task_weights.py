"""Files of task weights: each with part of the error."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import cotbal

_GOOD = cotbal.combine_terms([0.1, 0.2], [0.2, 0.1], [0.5, 0.8], tasks=["a", "b"])


def _text() -> str:
    with tempfile.TemporaryDirectory() as folder:
        _GOOD.save(Path(folder) / "weights.json")
        return (Path(folder) / "weights.json").read_text()


_TEXT = _text()


def _changed(**changes: object) -> str:
    return json.dumps({**json.loads(_TEXT), **changes})


def _one(**changes: object) -> str:
    first, second = json.loads(_TEXT)["tasks"]
    return _changed(tasks=[{**first, **changes}, second])


TASK_WEIGHTS: dict[str, tuple[str, str | None]] = {
    "as saved": (_TEXT, None),
    "empty": ("", "weights.json"),
    "cut in half": (_TEXT[: len(_TEXT) // 2], "weights.json"),
    "a list": ("[1, 2]", "weights.json"),
    "a number": ("1", "weights.json"),
    "another file's content": ('{"scores": []}', "weights.json"),
    "levels without end": ("[" * 100_000, "weights.json"),
    "a number of 5000 digits": ('{"weights": ' + "9" * 5000 + "}", "weights.json"),
    "a weight that is a text": (_one(weight="1"), "weight"),
    "a weight that is no number": (_one(weight=float("nan")), "weight"),
    "a weight below 0": (_one(weight=-1.0), "weight"),
    "weights that do not add up": (_one(weight=5.0), "weights.json"),
    "a task twice": (_one(task="b"), "'b'"),
    "a field too many": (_changed(extra=1), "the file has the unknown field 'extra'"),
    "a version of the future": (_changed(version=999), "version is 999; this cotbal reads version 1"),
}
