"""Ways in which a file on a disk is no longer what was written."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

__all__ = ["DAMAGES", "Damage"]

Damage = Callable[[Path, Path], None]
"""Damages the first file; the second is the same file of another run."""


def _cut(path: Path, other: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _empty(path: Path, other: Path) -> None:
    os.truncate(path, 0)


def _zero(path: Path, other: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def _flip(path: Path, other: Path) -> None:
    """At a place that depends on the file's name and content alone, so that a table can be made again."""
    content = bytearray(path.read_bytes())
    if not content:
        return
    draw = random.Random(f"{path.name}:{len(content)}")
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def _change_digit(path: Path, other: Path) -> None:
    """The last digit of a text becomes another: still well-formed, and no longer what was written."""
    content = bytearray(path.read_bytes())
    places = [place for place, byte in enumerate(content) if 48 <= byte <= 57]
    if places:
        content[places[-1]] ^= 1
    path.write_bytes(content)


def _swap(path: Path, other: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    for place in range(len(lines) - 1):
        if lines[place] != lines[place + 1]:
            lines[place : place + 2] = lines[place + 1], lines[place]
            break
    path.write_bytes(b"".join(lines))


def _replace(path: Path, other: Path) -> None:
    if other.is_file():
        shutil.copyfile(other, path)


DAMAGES: dict[str, Damage] = {
    "cut in half": _cut,
    "emptied": _empty,
    "zeroed": _zero,
    "one bit flipped": _flip,
    "one digit changed": _change_digit,
    "two lines swapped": _swap,
    "another run's": _replace,
}
