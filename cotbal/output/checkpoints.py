"""Checkpoints that are known to be complete.

The trainer writes a checkpoint file by file, so a kill can leave one that looks usable and is not. Once all of it
is on the disk, a ``COMPLETE`` file with the seal of every file is added; whatever lacks it is thrown away before a
unit resumes, and whatever disagrees with it too, with a word: the checkpoint before it takes its place.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from cotbal.atomic import read_file
from cotbal.output.seals import damage, seal_folder, sync_folder
from cotbal.output.store import write_text

__all__ = ["discard_incomplete", "last_complete", "mark_complete", "step_of", "usable_checkpoint"]

MARK = "COMPLETE"


def mark_complete(checkpoint: Path) -> None:
    """Record that every file of a checkpoint is written, once all of them are on the disk.

    Each is read once more for its digest: about a second per gigabyte and file, four files at a time.
    """
    sync_folder(checkpoint)
    write_text(checkpoint / MARK, json.dumps(seal_folder(checkpoint, leave_out=[MARK]), indent=1) + "\n")


def checkpoint_damage(checkpoint: Path, *, deep: bool) -> list[str] | None:
    """What is not as it was when the checkpoint was finished, in sentences; None where it was never finished.

    Args:
        deep: compare the files' digests too, not only their names and sizes.
    """
    mark = checkpoint / MARK
    try:
        seals = json.loads(read_file(mark).decode())
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):
        return [f"{mark} is not readable"]
    if not (isinstance(seals, dict) and all(isinstance(seal, str) for seal in seals.values())):
        return [f"{mark} is not readable"]
    return damage(checkpoint, seals, deep=deep, leave_out=[MARK])


def is_complete(checkpoint: Path, *, deep: bool = False) -> bool:
    """Whether every file that was there when the checkpoint was finished is still there, at its size."""
    return checkpoint_damage(checkpoint, deep=deep) == []


def discard_incomplete(folder: Path) -> list[Path]:
    """Delete the incomplete checkpoints and return their paths."""
    broken = [path for _, path in _checkpoints(folder) if not is_complete(path)]
    for path in broken:
        shutil.rmtree(path)
    return broken


def last_complete(folder: Path) -> Path | None:
    """The whole checkpoint with the most steps, or None; goes by names and sizes."""
    whole = [(step, path) for step, path in _checkpoints(folder) if is_complete(path)]
    return max(whole)[1] if whole else None


def usable_checkpoint(folder: Path, say: Callable[[str], None]) -> Path | None:
    """The checkpoint to resume from: the last one whose every file is what was written; None if there is none.

    Deleted on the way: what a kill left unfinished, in silence, and what is damaged, with a word.

    Args:
        say: told of each damaged checkpoint.
    """
    for _, path in sorted(_checkpoints(folder), reverse=True):
        found = checkpoint_damage(path, deep=True)
        if found == []:
            discard_incomplete(folder)
            return path
        if found:
            say(f"warning: {path} is damaged ({found[0]}); the checkpoint before it takes its place")
        shutil.rmtree(path)
    return None


def step_of(checkpoint: Path) -> int:
    """Return the number of optimizer steps at a checkpoint."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


def _checkpoints(folder: Path) -> list[tuple[int, Path]]:
    if not folder.is_dir():
        return []
    found = (path for path in folder.glob("checkpoint-*") if path.is_dir())
    return [(step_of(path), path) for path in found if path.name.removeprefix("checkpoint-").isdigit()]
