"""Checkpoints that are known to be whole.

The trainer writes a checkpoint file by file, so a kill can leave one that looks usable and is not. Once all of it
is written, a ``COMPLETE`` file with the size of every file is added; whatever lacks it, or disagrees with it,
is thrown away before a unit resumes.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from cotbal.units.store import write_text

__all__ = ["discard_incomplete", "last_complete", "mark_complete"]

MARK = "COMPLETE"


def mark_complete(checkpoint: Path) -> None:
    """Record that every file of a checkpoint is written."""
    write_text(checkpoint / MARK, json.dumps(_sizes(checkpoint), indent=1) + "\n")


def is_complete(checkpoint: Path) -> bool:
    """Whether every file that was there when the checkpoint was finished is still there, at its size."""
    try:
        recorded = json.loads((checkpoint / MARK).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    return isinstance(recorded, dict) and recorded == _sizes(checkpoint)


def discard_incomplete(folder: Path) -> list[Path]:
    """Delete the checkpoints that are not whole; returns what was deleted."""
    broken = [path for _, path in _checkpoints(folder) if not is_complete(path)]
    for path in broken:
        shutil.rmtree(path)
    return broken


def last_complete(folder: Path) -> Path | None:
    """The whole checkpoint with the most steps, or None."""
    whole = [(step, path) for step, path in _checkpoints(folder) if is_complete(path)]
    return max(whole)[1] if whole else None


def step_of(checkpoint: Path) -> int:
    """Optimizer steps done at a checkpoint."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


def _checkpoints(folder: Path) -> list[tuple[int, Path]]:
    if not folder.is_dir():
        return []
    found = (path for path in folder.glob("checkpoint-*") if path.is_dir())
    return [(step_of(path), path) for path in found if path.name.removeprefix("checkpoint-").isdigit()]


def _sizes(checkpoint: Path) -> dict[str, int]:
    files = (path for path in sorted(checkpoint.rglob("*")) if path.is_file() and path.name != MARK)
    return {str(path.relative_to(checkpoint)): path.stat().st_size for path in files}
