"""A small mixture that was prepared, what is told of it, and ways to change its config."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from cotbal.config.schema import Config, load_config
from cotbal.units.display import LineProgress


class Told(LineProgress):
    """Progress whose lines can be looked at."""

    def __init__(self) -> None:
        self.stream = io.StringIO()
        super().__init__(Console(file=self.stream, width=200))

    @property
    def text(self) -> str:
        return self.stream.getvalue()


def change(path: Path, **changes: Any) -> Config:
    values = yaml.safe_load(path.read_text())
    for key, value in changes.items():
        values[key] = {**values.get(key, {}), **value} if isinstance(value, dict) else value
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return load_config(path)


def change_task(path: Path, **changes: Any) -> Config:
    tasks = yaml.safe_load(path.read_text())["tasks"]
    return change(path, tasks=[{**tasks[0], **changes}, *tasks[1:]])


def times(config: Config, name: str) -> dict[str, int]:
    return {
        str(path.relative_to(config.output)): path.stat().st_mtime_ns
        for path in sorted(config.output.rglob(name))
    }
