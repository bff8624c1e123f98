"""Fields that several record formats share: roles, images, task, references."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cotbal.data.records import RecordError, Role, Turn

ROLES: Mapping[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}

TASK_FIELDS = ("task", "channel", "dataset", "source")


def as_turn(role: object, text: object, position: int) -> Turn:
    """A turn from a role name and a text.

    Raises:
        RecordError: the role is not one of `ROLES`, or the text is not a string.
    """
    if not isinstance(role, str) or role not in ROLES:
        raise RecordError(f"turn {position} has the unknown role {role!r}; known are {', '.join(ROLES)}")
    if not isinstance(text, str):
        raise RecordError(f"turn {position} ({role}) has {_kind(text)} for its text; expected a string")
    return Turn(ROLES[role], text)


def image_paths(raw: Mapping[str, Any]) -> tuple[str, ...]:
    """Paths in `image` or `images`: a string, a list of strings, or nothing.

    Raises:
        RecordError: something else is there.
    """
    for field in ("image", "images"):
        value = raw.get(field)
        if value is None or value == "" or value == []:
            continue
        listed = value if isinstance(value, list) else [value]
        return tuple(image_path(item, field) for item in listed)
    return ()


def image_path(value: object, field: str) -> str:
    """One path, given as a string or as `{"path": ...}`, `{"url": ...}` or `{"image": ...}`.

    Raises:
        RecordError: it is neither, or it is an address or inline data rather than a file.
    """
    if isinstance(value, Mapping):
        value = next((value[key] for key in ("path", "image", "url") if value.get(key)), None)
    if not isinstance(value, str) or not value:
        raise RecordError(f"'{field}' holds {_kind(value)}; expected the path of an image file")
    if value.startswith("file://"):
        return value.removeprefix("file://")
    if "://" in value[:16] or value.startswith("data:"):
        raise RecordError(f"'{field}' holds {value[:40]!r}; images are read from files, download them first")
    return value


def record_id(raw: Mapping[str, Any]) -> str | None:
    """The record's own id as a string, or None."""
    value = raw.get("id")
    return None if value is None else str(value)


def record_task(raw: Mapping[str, Any]) -> str | None:
    """The first of `task`, `channel`, `dataset` and `source` that holds a name."""
    for field in TASK_FIELDS:
        value = raw.get(field)
        if isinstance(value, str) and value:
            return value
    return None


def record_references(raw: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The accepted answers in `references`: a string or a list of strings.

    Raises:
        RecordError: something else, or an empty list.
    """
    value = raw.get("references")
    if value is None:
        return None
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or not listed or not all(isinstance(item, str) for item in listed):
        raise RecordError(f"'references' is {value!r:.60}; expected a string or a non-empty list of strings")
    return tuple(listed)


def _kind(value: object) -> str:
    return "nothing" if value is None else f"a value of type {type(value).__name__}"
