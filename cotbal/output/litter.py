"""What killed processes of ours leave behind: known by its names, and looked for only where we write."""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Iterable
from pathlib import Path

__all__ = ["bury", "is_litter", "remove_graves", "remove_litter"]

_NAMES = (
    "manifest.json",
    "scores.jsonl",
    "log.jsonl",
    "scores.csv",
    "weights.json",
    "bad_records.jsonl",
    "seals.json",
    "COMPLETE",
    ".lock.holder",
    "report.html",
    "report.md",
    "report.json",
    "weights_in_use.json",
    "plan.json",
    "check.json",
    "index.html",
)
# As `replacing` names what it has not finished.
_LITTER = re.compile(rf"\.({'|'.join(map(re.escape, _NAMES))})\.\d+-[0-9a-f]{{8}}\.tmp")
_GRAVE = re.compile(r"\.discarded-.+-[0-9a-f]{8}")


def is_litter(name: str) -> bool:
    """Whether a file of that name is an unfinished one of ours."""
    return _LITTER.fullmatch(name) is not None


def remove_litter(places: Iterable[Path]) -> None:
    """Delete the unfinished files that lie directly in these folders."""
    for place in places:
        for path in place.iterdir() if place.is_dir() else ():
            if is_litter(path.name) and path.is_file():
                path.unlink(missing_ok=True)


def bury(folder: Path) -> None:
    """Delete a folder in one step: one that a kill left half deleted must not look like a whole one."""
    grave = folder.with_name(f".discarded-{folder.name}-{secrets.token_hex(4)}")
    folder.rename(grave)
    shutil.rmtree(grave)


def remove_graves(parent: Path) -> None:
    """Finish what `bury` could not."""
    for path in parent.iterdir() if parent.is_dir() else ():
        if _GRAVE.fullmatch(path.name) and path.is_dir():
            # Another process may be at it as well.
            shutil.rmtree(path, ignore_errors=True)
