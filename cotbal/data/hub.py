"""Data sets that the `datasets` library loads: rows, and a digest of what they are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from cotbal.config.hub import HubSet

__all__ = ["hub_digest", "hub_rows", "undecoded"]


def hub_rows(found: HubSet) -> Iterator[dict[str, Any]]:
    """Yield the rows in order; pictures stay the bytes of their files.

    Raises:
        ValueError: the library cannot load the data set, is not installed, or a stream has fewer rows than asked.
    """
    loaded = undecoded(_loaded(found))
    if found.stream is None:
        yield from loaded
        return
    count = 0
    for row in loaded.take(found.stream):
        count += 1
        yield row
    if count < found.stream:
        raise ValueError(
            f"{found.as_path()}: the stream has {count} rows, but stream: {found.stream} asks for more"
        )


def hub_digest(found: HubSet) -> str:
    """A digest that changes when the rows do.

    Of a data set on the disk, from the library's files; of a stream, from the revision that a config must give, or
    from the folder's files.
    """
    digest = hashlib.sha256(repr(found).encode() if found.folder is None else _described(found).encode())
    if found.stream is not None and found.folder is None:
        return f"sha256:{digest.hexdigest()}"
    if found.stream is not None and found.folder is not None:
        files = sorted(path for path in found.folder.rglob("*") if path.is_file())
    else:
        files = [Path(file["filename"]) for file in _loaded(found).cache_files]
    for file in files:
        digest.update(_content(file).encode())
    return f"sha256:{digest.hexdigest()}"


def undecoded(loaded: Any) -> Any:
    """The data set with its pictures as the bytes of their files, until they are shown to the processor."""
    from datasets import Image

    for name, feature in (loaded.features or {}).items():
        if isinstance(feature, Image):
            loaded = loaded.cast_column(name, Image(decode=False))
        elif isinstance(getattr(feature, "feature", None), Image):
            loaded = loaded.cast_column(name, type(feature)(Image(decode=False)))
    return loaded


def _described(found: HubSet) -> str:
    """Without the folder's place, so that data can be moved."""
    return repr((found.split, found.config, found.stream))


def _content(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@lru_cache(maxsize=64)
def _loaded(found: HubSet) -> Any:
    try:
        from datasets import load_dataset
    except ImportError:
        raise ValueError(
            f"{found.as_path()}: loading it needs datasets; pip install 'cotbal[tables]'"
        ) from None
    try:
        return load_dataset(
            found.name,
            found.config,
            split=found.split,
            revision=found.revision,
            streaming=found.stream is not None,
        )
    except Exception as error:  # of the library, of the hub's client, of the network, of a file's reader
        said = " ".join(str(error).split())
        raise ValueError(
            f"{found.as_path()}: the datasets library cannot load it: {said or type(error).__name__}"
        ) from error
