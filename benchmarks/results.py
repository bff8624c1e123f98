"""Result files: one JSON per machine kind and group, and what changed between two of them."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import describe, machine_kind

FOLDER = Path(__file__).parent / "results"
SCHEMA = 1


def write(group: str, entries: list[dict[str, Any]], device: torch.device, folder: Path = FOLDER) -> Path:
    """``results/<machine>/<group>.json``, written whole or not at all."""
    path = folder / machine_kind(device) / f"{group}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "schema": SCHEMA,
        "group": group,
        "measured": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": describe(device),
        "entries": entries,
    }
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    temporary.replace(path)
    return path


def read(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text())
    if content.get("schema") != SCHEMA:
        raise ValueError(f"{path}: schema {content.get('schema')!r} found, {SCHEMA} expected; measure again")
    loaded: dict[str, Any] = content
    return loaded


@dataclass(frozen=True)
class Change:
    """One contender of one case in two files, compared by its ratio to the floor of its own run."""

    case: str
    contender: str
    before: float
    after: float
    noise: float

    @property
    def beyond_noise(self) -> bool:
        return abs(self.after / self.before - 1) > self.noise


def compare(old: dict[str, Any], new: dict[str, Any]) -> Iterator[Change]:
    """Cases and contenders both files have. The noise of a pair is the sum of its relative half quartile ranges.

    Files of two machine kinds are compared too: ratios to the floor are what travels.
    """
    before = {entry["name"]: entry["contenders"] for entry in old["entries"]}
    for entry in new["entries"]:
        for name, after in entry["contenders"].items():
            earlier = before.get(entry["name"], {}).get(name)
            if earlier is None or "ratio_to_floor" not in after or name == "floor":
                continue
            spread = sum((t["upper"] - t["lower"]) / (2 * t["median"]) for t in (earlier, after))
            yield Change(
                entry["name"], name, earlier["ratio_to_floor"], after["ratio_to_floor"], max(0.02, spread)
            )
