"""How fast units go, from those that are done and those that are being made."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cotbal.units.checkpoints import step_of
from cotbal.units.store import Manifest, OutputFolder

__all__ = ["Pace", "pace_of"]


@dataclass(frozen=True)
class Pace:
    """Seconds per sample; None where nothing has been timed.

    Attributes:
        train: of training.
        score: of scoring.
        units: how many units were timed.
    """

    train: float | None
    score: float | None
    units: int


def pace_of(folder: OutputFolder, steps: Mapping[str, tuple[int, int]]) -> Pace:
    """Of the units in a folder: those that ended a phase, and those that train now.

    Args:
        steps: of each unit, how many steps it has and how many samples it sees.
    """
    train: list[tuple[float, float]] = []
    score: list[tuple[float, float]] = []
    named: set[str] = set()
    for place, manifest in folder.manifests():
        train += _phase(manifest, "train")
        score += _phase(manifest, "score")
        running = _running(folder, manifest.unit)
        if manifest.state == "planned" and running is None and manifest.unit in steps:
            running = _between_checkpoints(place.checkpoints, steps[manifest.unit])
        if running is not None:
            (train if manifest.state == "planned" else score).append(running)
        named |= {manifest.unit} if manifest.seconds or running else set()
    return Pace(_rate(train), _rate(score), len(named))


def _phase(manifest: Manifest, phase: str) -> list[tuple[float, float]]:
    seconds, samples = manifest.seconds.get(phase), manifest.samples.get(phase)
    return [(float(seconds), float(samples))] if seconds and samples else []


def _running(folder: OutputFolder, unit: str) -> tuple[float, float] | None:
    """From a unit's progress file: the time since its phase began, and the samples done in it."""
    path = folder.progress_of(unit)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        seconds = path.stat().st_mtime - float(values["began"])
        done = float(values["done"]) - float(values["from"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return (seconds, done) if seconds > 0 and done > 0 else None


def _between_checkpoints(folder: Path, steps: tuple[int, int]) -> tuple[float, float] | None:
    """From the times of the first and the last checkpoint that are there."""
    found = sorted(
        (step_of(path.parent), path.stat().st_mtime) for path in folder.glob("checkpoint-*/COMPLETE")
    )
    if len(found) < 2 or not steps[0]:
        return None
    (first, earlier), (last, later) = found[0], found[-1]
    return (later - earlier, (last - first) * steps[1] / steps[0]) if later > earlier else None


def _rate(timed: Sequence[tuple[float, float]]) -> float | None:
    seconds, samples = sum(entry[0] for entry in timed), sum(entry[1] for entry in timed)
    return seconds / samples if samples else None
