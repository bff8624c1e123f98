"""The SHA-256 of whole files, each read once: what was found is kept by path, size and time of the last change."""

from __future__ import annotations

import hashlib
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from cotbal.atomic import naming

__all__ = ["file_digest", "file_digests"]

# Smaller files are read again at every start: that takes no longer than looking up what was kept.
_KEPT_FROM = 16 * 2**20
# A file that was changed a moment ago may change again within the same tick of its file system's clock.
_SETTLED_SECONDS = 2.0
_THREADS = 4


def file_digest(path: Path) -> str:
    """The SHA-256 of a file's whole content.

    That of a large file is kept in the user's cache folder (`$XDG_CACHE_HOME/cotbal/digests`) and is read from there
    while the file's size, number and time of the last change stay what they were.
    """
    status = path.stat()
    return _digest(path.absolute(), status.st_size, status.st_mtime_ns, status.st_ino)


def file_digests(paths: list[Path]) -> list[str]:
    """The digests of several files; a few are read at once."""
    with ThreadPoolExecutor(max_workers=min(_THREADS, max(1, len(paths)))) as pool:
        return list(pool.map(file_digest, paths))


@lru_cache(maxsize=4096)
def _digest(path: Path, size: int, changed: int, number: int) -> str:
    if size < _KEPT_FROM:
        return _read(path)
    state = {"path": str(path), "size": size, "changed": changed, "number": number}
    entry = _cache() / f"{hashlib.sha256(str(path).encode('utf-8', 'surrogateescape')).hexdigest()[:32]}.json"
    kept = _kept(entry, state)
    if kept is not None:
        return kept
    began = time.time()
    digest = _read(path)
    now = path.stat()
    unchanged = (now.st_size, now.st_mtime_ns, now.st_ino) == (size, changed, number)
    if unchanged and abs(began - changed / 1e9) > _SETTLED_SECONDS:
        _keep(entry, {**state, "digest": digest})
    return digest


def _read(path: Path) -> str:
    with naming(path), path.open("rb") as stream:
        return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cotbal" / "digests"


def _kept(entry: Path, state: dict[str, object]) -> str | None:
    try:
        found = json.loads(entry.read_bytes())
        digest = found.pop("digest")
    except (OSError, ValueError, RecursionError, AttributeError, KeyError):
        return None
    return digest if found == state and isinstance(digest, str) else None


def _keep(entry: Path, values: dict[str, object]) -> None:
    """Keep a digest; where nothing can be written, the file is read again next time."""
    unfinished = entry.with_name(f".{entry.name}.{os.getpid()}")
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(json.dumps(values))
        unfinished.replace(entry)
    except (OSError, UnicodeEncodeError):
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
