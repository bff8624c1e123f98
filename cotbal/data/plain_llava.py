"""The plainest records, which make up nearly all of large files, read without making objects of their turns.

A record of this shape has `conversations` of people and model in turn, at most one `image` below the images' folder,
and no field or mark that asks for a closer look. `cotbal.data.formats.record_of` gives the same record of it;
whatever is not of this shape, or is wrong, is left to that.

Its packed form is its id, task, image (or nothing) and texts, each after a null character, in UTF-8.
"""

from __future__ import annotations

import os
from functools import lru_cache
from operator import itemgetter
from pathlib import Path
from typing import Any

from cotbal.data.records import IMAGE_PLACEHOLDER

__all__ = ["MARK", "packed_plainly", "path_prefix", "plain_fields"]

MARK = 0
"""The first byte of the packed form."""

_FIELDS = frozenset({"id", "image", "conversations", "task", "channel", "dataset", "source", "model"})
_TWO = {2}
_speaker = itemgetter("from")
_text = itemgetter("value")


def path_prefix(root: Path) -> str:
    """What stands before an image's name below `root` in its path's text."""
    text = str(root)
    return "" if text == "." else text if text.endswith(os.sep) else f"{text}{os.sep}"


def plain_fields(packed: bytes) -> tuple[str, str, str, tuple[str, ...]]:
    """Id, task, path of the image ("" without one) and texts of a packed record."""
    _, name, task, image, *texts = packed.decode().split("\0")
    return name, task, image, tuple(texts)


def packed_plainly(
    raw: Any, index: int, prefix: str, task: str, *, check_images: bool
) -> tuple[bytes, int] | None:
    """Packed form and number of images of the record that a value of JSON describes; None for other shapes.

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
    elif type(name) is int and abs(name) < 10**18:
        name = str(name)
    elif type(name) is not str:
        return None
    path = ""
    if "image" in raw:
        path = _plain_path(raw["image"], prefix)
        if not path or (check_images and not os.path.isfile(path)):
            return None
    conversation = raw.get("conversations")
    if type(conversation) is not list or not conversation or len(conversation) % 2:
        return None
    # Whole lists at once, since this is done for every turn of the data.
    try:
        if set(map(len, conversation)) != _TWO or tuple(map(_speaker, conversation)) != _turns(
            len(conversation)
        ):
            return None
        texts = tuple(map(_text, conversation))
        joined = "\0".join(("", name, task, path, *texts))
        # Half a character raises here, and what is not a text above.
        packed = joined.encode()
    except (KeyError, TypeError, UnicodeEncodeError):
        return None
    images = 1 if path else 0
    if joined.count("<") != images or joined.count(IMAGE_PLACEHOLDER) != images:
        return None
    answers = texts[1::2]
    if images and IMAGE_PLACEHOLDER not in texts[0] and not any(map(_has_placeholder, texts[2::2])):
        return None
    if "" in answers or any(map(str.isspace, answers)) or joined.count("\0") != len(texts) + 3:
        return None
    return packed, images


def _has_placeholder(text: str) -> bool:
    return IMAGE_PLACEHOLDER in text


@lru_cache(maxsize=1024)
def _turns(count: int) -> tuple[str, ...]:
    return ("human", "gpt") * (count // 2)


def _plain_path(image: Any, prefix: str) -> str:
    """A path that pathlib would leave as it is, below the images' folder, or nothing."""
    if type(image) is not str or not image or not image.isascii() or image[0] in "./" or image[-1] == "/":
        return ""
    if "//" in image or "/." in image or "\0" in image or ":" in image or "\\" in image:
        return ""
    return prefix + image
