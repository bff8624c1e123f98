"""The plainest records, which make up nearly all of large files, read without making objects of their turns.

A record of this shape has `conversations` of people and model in turn in ASCII, at most one `image` below the images'
folder, and no field or mark that asks for a closer look. `cotbal.data.formats.record_of` gives the same record of it;
whatever is not of this shape, or is wrong, is left to that.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from cotbal.data.records import IMAGE_PLACEHOLDER

__all__ = ["PlainRecord", "path_prefix", "plain_record"]

_FIELDS = frozenset({"id", "image", "conversations", "task", "channel", "dataset", "source", "model"})

PlainTurn = tuple[str, str, float]


class PlainRecord(NamedTuple):
    """A record as `cotbal.data.packed` packs it; images are paths as texts."""

    id: str
    task: str
    images: tuple[str | bytes, ...]
    turns: tuple[PlainTurn, ...]
    references: tuple[str, ...]


def path_prefix(root: Path) -> str:
    """What stands before an image's name below `root` in its path's text."""
    text = str(root)
    return "" if text == "." else text if text.endswith(os.sep) else f"{text}{os.sep}"


def plain_record(raw: Any, index: int, prefix: str, task: str, *, check_images: bool) -> PlainRecord | None:
    """The record that a value of JSON describes, or None where it is not of the plainest shape.

    Args:
        index: of the record, its id where it has none.
        prefix: see `path_prefix`.
        task: of the record.
        check_images: leave a record whose image file does not exist to others.
    """
    if type(raw) is not dict or not raw.keys() <= _FIELDS:
        return None
    name = raw.get("id")
    if name is None:
        name = str(index)
    elif type(name) is int:
        name = str(name)
    elif type(name) is not str or not name.isascii():
        return None
    turns = _plain_turns(raw.get("conversations"))
    if turns is None:
        return None
    images: tuple[str, ...] = ()
    if "image" in raw:
        path = _plain_path(raw["image"], prefix)
        if path is None or (check_images and not os.path.isfile(path)):
            return None
        images = (path,)
    placeholders = 0
    for _, text, _ in turns[::2]:
        if "<" in text:
            count = text.count(IMAGE_PLACEHOLDER)
            if text.count("<") != count:
                return None
            placeholders += count
    if placeholders != len(images):
        return None
    return PlainRecord(name, task, images, turns, (turns[-1][1],))


def _plain_turns(conversation: Any) -> tuple[PlainTurn, ...] | None:
    if type(conversation) is not list or not conversation or len(conversation) % 2:
        return None
    turns: list[PlainTurn] = []
    asks = True
    for turn in conversation:
        if type(turn) is not dict or len(turn) != 2:
            return None
        text = turn.get("value")
        if type(text) is not str or not text.isascii():
            return None
        speaker = turn.get("from")
        if asks:
            if speaker != "human":
                return None
            turns.append(("user", text, 1.0))
        else:
            if speaker != "gpt" or "<" in text or not text or text.isspace():
                return None
            turns.append(("assistant", text, 1.0))
        asks = not asks
    return tuple(turns)


def _plain_path(image: Any, prefix: str) -> str | None:
    """A path that pathlib would leave as it is, below the images' folder."""
    if type(image) is not str or not image or not image.isascii() or image[0] in "./" or image[-1] == "/":
        return None
    if "//" in image or "/." in image or "\0" in image or ":" in image or "\\" in image:
        return None
    return prefix + image
