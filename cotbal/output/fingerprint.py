"""Reduce what a unit's result depends on to values that can be stored and compared."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from cotbal import __version__
from cotbal.config.hub import HubSet
from cotbal.data.dataset_info import listed_file, split_name
from cotbal.data.hub import hub_digest
from cotbal.output.digests import file_digest, file_digests

__all__ = ["data_digest", "differences", "folder_digest", "versions"]

_PACKAGES = ("torch", "transformers", "accelerate", "numpy", "pillow")


def folder_digest(folder: Path) -> str:
    """Return one digest of the names and contents of all files directly in a folder."""
    digest = hashlib.sha256()
    paths = sorted(path for path in folder.iterdir() if path.is_file())
    for path, found in zip(paths, file_digests(paths), strict=True):
        digest.update(f"{path.name}={found}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def data_digest(path: Path) -> str:
    """The digest of a data file, or of a folder that is read as one."""
    named = HubSet.of_path(path)
    if named is not None:
        return hub_digest(named)
    file, name = split_name(path)
    if name is not None:
        # The list says how the file is read.
        listed = listed_file(file, name)
        described = repr((listed.sharegpt, sorted(listed.columns.items()), sorted(listed.tags.items())))
        return f"{data_digest(listed.path)}, {hashlib.sha256(described.encode()).hexdigest()[:16]}"
    if not path.is_dir():
        return file_digest(path)
    digest = hashlib.sha256()
    parts = sorted(part for part in path.rglob("*") if part.is_file())
    for part, found in zip(parts, file_digests(parts), strict=True):
        digest.update(f"{part.relative_to(path)}={found}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def versions() -> dict[str, str]:
    """Return the versions of the packages that results can depend on."""
    found = {"cotbal": __version__}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed as a package"
    return found


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """List what changed between two nested values, one line per change, named by its path."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        lines: list[str] = []
        for key in sorted({*old, *new}):
            inner = f"{path}.{key}" if path else str(key)
            if key not in new:
                lines.append(f"{inner}: was {_show(old[key])}, is gone")
            elif key not in old:
                lines.append(f"{inner}: is new: {_show(new[key])}")
            else:
                lines += differences(old[key], new[key], inner)
        return lines
    if _is_list(old) and _is_list(new) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [line for index, (a, b) in pairs for line in differences(a, b, f"{path}[{index}]")]
    if old == new:
        return []
    if any(str(value).startswith("sha256") for value in (old, new)):
        return [f"{path}: its content has changed"]
    return [f"{path}: was {_show(old)}, is {_show(new)}"]


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
