"""Seals: the size and SHA-256 of files, written after them, so that what is read can be held to what was written.

A seal is only worth something if what it vouches for is on the disk before it: `sync_folder` comes first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

from cotbal.atomic import naming, sync
from cotbal.output.litter import is_litter

__all__ = [
    "Seals",
    "bytes_damage",
    "damage",
    "seal_bytes",
    "seal_files",
    "seal_folder",
    "seal_values",
    "sync_folder",
]

Seals = Mapping[str, str]
"""Names of files, relative to a folder and with ``/``, and their seals, ``<bytes>:<sha256>``."""

_BLOCK = 4 * 2**20


def sync_folder(folder: Path) -> None:
    """Wait until everything below a folder, names of files included, is on the disk."""
    below = sorted(folder.rglob("*"))
    for path in (
        *(p for p in below if p.is_file()),
        *(p for p in below if p.is_dir()),
        folder,
        folder.parent,
    ):
        sync(path)


def seal_bytes(content: bytes) -> str:
    """The seal of a file with this content."""
    return f"{len(content)}:{hashlib.sha256(content).hexdigest()}"


def seal_values(values: Mapping[str, Any]) -> str:
    """A digest of nested values, for a JSON file that carries its own seal."""
    return hashlib.sha256(json.dumps(dict(values), sort_keys=True).encode()).hexdigest()


def seal_files(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """The seals of some files of a folder; several are read at once, each is read whole."""
    chosen = sorted(names)
    with ThreadPoolExecutor(max_workers=min(4, max(1, len(chosen)))) as pool:
        return dict(zip(chosen, pool.map(lambda name: _seal(folder / name), chosen), strict=True))


def seal_folder(folder: Path, *, leave_out: Iterable[str] = ()) -> dict[str, str]:
    """The seals of all files below a folder but those named in `leave_out`.

    Hidden ones are sealed too: torch keeps the index of a checkpoint of several processes in such a file.
    """
    return seal_files(folder, _names(folder) - set(leave_out))


def damage(
    folder: Path,
    seals: Seals,
    *,
    deep: bool,
    leave_out: Iterable[str] = (),
    extra: Callable[[str], bool] = lambda name: True,
) -> list[str]:
    """What is not as it was sealed, one sentence per file; nothing if all is.

    Args:
        deep: read the files and compare their digests; otherwise names and sizes are compared.
        leave_out: names that are not looked at.
        extra: of a name that was not sealed: whether its being there is damage.
    """
    present = _names(folder) - set(leave_out)
    found: list[str] = []
    whole: list[str] = []
    for name, seal in seals.items():
        wanted = seal.partition(":")[0]
        if name not in present:
            found.append(f"{folder / name} is gone")
        elif wanted != str(size := (folder / name).stat().st_size):
            found.append(f"{folder / name} has {size} bytes; {wanted} were written")
        else:
            whole.append(name)
    found += [
        f"{folder / name} was not written by cotbal"
        for name in sorted(present - set(seals))
        # Systems leave hidden files of their own behind.
        if extra(name) and not Path(name).name.startswith(".")
    ]
    if deep:
        now = seal_files(folder, whole)
        found += [f"the content of {folder / name} has changed" for name in whole if now[name] != seals[name]]
    return found


def bytes_damage(path: Path, content: bytes, seal: str) -> str | None:
    """What is not as it was sealed of a file that has been read; None if all is."""
    if seal_bytes(content) == seal:
        return None
    wanted = seal.partition(":")[0]
    if wanted != str(len(content)):
        return f"{path} has {len(content)} bytes; {wanted} were written"
    return f"the content of {path} has changed"


def _names(folder: Path) -> set[str]:
    if not folder.is_dir():
        return set()
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path.as_posix() for path in files if not is_litter(path.name)}


def _seal(path: Path) -> str:
    status = path.stat()
    return _digest(path, status.st_size, status.st_mtime_ns, status.st_ino)


@lru_cache(maxsize=4096)
def _digest(path: Path, size: int, changed: int, number: int) -> str:
    """A file that this process has read and that nothing has touched since is not read again."""
    digest, count = hashlib.sha256(), 0
    with naming(path), path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
            count += len(block)
    return f"{count}:{digest.hexdigest()}"
