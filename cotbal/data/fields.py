"""Fields that several record formats share: roles, texts, images, task, references."""

from __future__ import annotations

import base64
import binascii
import io
import sys
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from cotbal.data.records import RecordError, Role, Turn

ROLES: Mapping[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}

TASK_FIELDS = ("task", "channel", "dataset", "source")
# Not read; a record that has one of them and no image would be trained on as text alone.
_MISNAMED = (
    "image_path",
    "image_paths",
    "image_file",
    "image_url",
    "image_urls",
    "img",
    "img_path",
    "picture",
)


def as_turn(role: object, text: object, position: int, weight: float | None = None) -> Turn:
    """A turn from a role name and a text; `weight` is the loss weight the record gives it, if any.

    Raises:
        RecordError: the role is not one of `ROLES`, the text is not a string or holds half a character, or a
            turn that is not an answer asks for a loss.
    """
    if not isinstance(role, str) or role not in ROLES:
        raise RecordError(f"turn {position} has the unknown role {role!r:.60}; known are {', '.join(ROLES)}")
    if not isinstance(text, str):
        raise RecordError(f"turn {position} ({role}) has {kind_of(text)} for its text; expected a string")
    refuse_half_characters(text, f"turn {position} ({role})")
    if ROLES[role] == "assistant":
        return Turn("assistant", text, 1.0 if weight is None else weight)
    if weight:
        raise RecordError(
            f"turn {position} ({role}) asks for a loss of weight {weight:g}; "
            "only the assistant's turns are trained on"
        )
    return Turn(ROLES[role], text)


def refuse_half_characters(text: str, place: str) -> None:
    """Raise RecordError where a text holds a lone surrogate, which no tokenizer and no UTF-8 file can take."""
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(text[error.start]):04x}"
        raise RecordError(
            f"{place} holds the lone surrogate {half} at character {error.start}: half of a character, as "
            "left by an exporter that cut the text"
        ) from None


def record_images(raw: Mapping[str, Any]) -> tuple[str | bytes, ...]:
    """What `image` or `images` name: one image, a list of them, or nothing.

    Raises:
        RecordError: something else is there, the two contradict one another, or the images are under a name
            that is not read.
    """
    found: dict[str, tuple[str | bytes, ...]] = {}
    for field in ("image", "images"):
        value = raw.get(field)
        if value is None or value == "" or value == []:
            continue
        listed = value if isinstance(value, list) else [value]
        found[field] = tuple(image_source(item, field) for item in listed)
    if len(found) == 2 and found["image"] != found["images"]:
        raise RecordError("'image' and 'images' name different images; keep one of the two")
    if not found:
        for field in _MISNAMED:
            if raw.get(field):
                raise RecordError(
                    f"images are read from 'image' or 'images', not from {field!r}; rename the field"
                )
    return next(iter(found.values()), ())


def image_source(value: object, field: str) -> str | bytes:
    """One image: a path, `{"path": ...}`, `{"url": ...}` or `{"image": ...}`, the bytes of a file (`{"bytes": ...}`
    as the datasets library writes them), a picture of PIL, or a base64 `data:` address.

    Raises:
        RecordError: none of these, or an address of the network.
    """
    if isinstance(value, Mapping):
        if isinstance(value.get("bytes"), (bytes, bytearray)) and value["bytes"]:
            return bytes(value["bytes"])
        value = next((value[key] for key in ("path", "image", "url") if value.get(key)), None)
    if isinstance(value, (bytes, bytearray)) and value:
        return bytes(value)
    if _is_picture(value):
        return _as_png(value)
    if not isinstance(value, str) or not value:
        raise RecordError(f"'{field}' holds {kind_of(value)}; expected the path of an image file")
    if value.startswith("data:"):
        return _inline(value, field)
    if value.startswith("file://"):
        value = unquote(value.removeprefix("file://"))
    elif "://" in value[:16]:
        raise RecordError(f"'{field}' holds {value[:40]!r}; images are read from files, download them first")
    refuse_half_characters(value, f"'{field}'")
    if "\0" in value:
        raise RecordError(f"'{field}' holds {value[:40]!r}, which no file can be called")
    return value


def _is_picture(value: object) -> bool:
    """Whether a value is a picture of Pillow's; where Pillow was never imported, none can be."""
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(value, pillow.Image)


def _as_png(picture: Any) -> bytes:
    """A decoded picture as the bytes of a file, which can be compared, hashed and sent to other processes."""
    written = io.BytesIO()
    # Without compression, as these bytes are read again at once.
    picture.save(
        written, "TIFF" if picture.mode in ("F", "I", "CMYK", "YCbCr", "LAB") else "PNG", compress_level=0
    )
    return written.getvalue()


def _inline(value: str, field: str) -> bytes:
    head, _, body = value.partition(",")
    if not head.startswith("data:image/") or not head.endswith(";base64"):
        raise RecordError(
            f"'{field}' holds {value[:40]!r}; inline images are read as data:image/...;base64,..."
        )
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RecordError(f"'{field}' holds broken base64: {error}") from None


def record_system(raw: Mapping[str, Any]) -> str | None:
    """The system prompt beside the turns, or None where there is none or an empty one.

    Raises:
        RecordError: it is not a string.
    """
    value = raw.get("system")
    if value is None or value == "":
        return None
    return as_turn("system", value, 0).text


def record_id(raw: Mapping[str, Any]) -> str | None:
    """The record's own id as a string, or None."""
    value = raw.get("id")
    if value is None:
        return None
    refuse_half_characters(str(value), "'id'")
    return str(value)


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
    for item in listed:
        refuse_half_characters(item, "'references'")
    return tuple(listed)


def kind_of(value: object) -> str:
    """What a value is, for messages."""
    return "nothing" if value is None else f"a value of type {type(value).__name__}"
