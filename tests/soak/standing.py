"""How far an output folder is, as a kill left it: what may be done again, what must not, a name for the moment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cotbal.output.checkpoints import last_complete, step_of
from cotbal.output.store import OutputFolder

__all__ = ["Standing", "look"]


@dataclass(frozen=True)
class Standing:
    """What is done, unit by unit.

    Attributes:
        states: of each unit that has begun.
        steps: of a unit that is still planned, those that its last whole checkpoint holds.
        files: size and time of the last change of every file of a unit that is scored.
        moment: where the work was.
    """

    states: dict[str, str]
    steps: dict[str, int]
    files: dict[str, tuple[int, int]]
    moment: str


def look(output: Path, units: int) -> Standing:
    """Look at a folder in which nothing runs; `units` is how many units the schedule has."""
    folder = OutputFolder(output)
    states: dict[str, str] = {}
    steps: dict[str, int] = {}
    files: dict[str, tuple[int, int]] = {}
    moment = "checking the data" if not folder.check.is_dir() else "before the first unit"
    for unit, manifest in folder.manifests():
        states[manifest.unit] = manifest.state
        if manifest.state == "planned":
            whole = last_complete(unit.checkpoints)
            steps[manifest.unit] = 0 if whole is None else step_of(whole)
            if (unit.path / "model.unfinished").is_dir() or unit.model.is_dir():
                moment = "saving a model"
            elif any(not (path / "COMPLETE").is_file() for path in unit.checkpoints.glob("checkpoint-*")):
                moment = "saving a checkpoint"
            else:
                moment = "training" if whole is None else "training after a checkpoint"
        elif manifest.state == "trained":
            begun = any(unit.predictions.glob("*.jsonl"))
            moment = "scoring" if begun else "between training and scoring"
        elif manifest.state == "scored":
            paths = [path for path in unit.path.rglob("*") if path.is_file()]
            files |= {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in paths}
    if states and set(states.values()) == {"scored"}:
        moment = "reporting" if len(states) == units else "between units"
        if len(states) < units and folder.scores_csv.is_file():
            moment = "weighing or before tuning" if not any("seed" in unit for unit in states) else moment
    return Standing(states, steps, files, moment)
