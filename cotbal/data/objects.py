"""Grounding in ms-swift's general form: `<ref-object>` and `<bbox>` in the texts, names and boxes in `objects`.

`objects: {"ref": [...], "bbox": [[x1, y1, x2, y2], ...], "bbox_type": "real" | "norm1", "image_id": [...]}`, as
ms-swift's page "Custom dataset" describes it. How names and boxes are written is the model's family's: see
`cotbal.data.notation`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from cotbal.data.fields import kind_of, refuse_half_characters
from cotbal.data.notation import THOUSANDTHS, BoxNotation
from cotbal.data.records import RecordError, Turn

REF = "<ref-object>"
BOX = "<bbox>"
_marks = re.compile(f"{re.escape(REF)}|{re.escape(BOX)}")
SizeOf = Callable[[int], tuple[int, int]]


def fill_objects(
    turns: tuple[Turn, ...],
    raw: Mapping[str, Any],
    size_of: SizeOf,
    notation: Callable[[], BoxNotation] = lambda: THOUSANDTHS,
) -> tuple[Turn, ...]:
    """The turns with every mark replaced by what `objects` lists for it, in order.

    Args:
        size_of: width and height in pixels of the record's image of that position; asked for where a box is
            given or written in pixels.
        notation: makes the notation; called for records with marks only.

    Raises:
        RecordError: marks without `objects`, another number of marks than of names or boxes, a box that is not 2 or
            4 finite numbers, is turned inside out or lies outside the picture, a family whose notation
            is not written here.
    """
    if not any(REF in turn.text or BOX in turn.text for turn in turns):
        return turns
    found = {mark: sum(turn.text.count(mark) for turn in turns) for mark in (REF, BOX)}
    objects = raw.get("objects")
    if not isinstance(objects, Mapping):
        mark = next(mark for mark in (REF, BOX) if found[mark])
        raise RecordError(
            f"a text holds {mark}, but 'objects' is {kind_of(objects)}; there is nothing to put there"
        )
    names = _listed(objects, "ref")
    boxes = _listed(objects, "bbox")
    for mark, values, field in ((REF, names, "ref"), (BOX, boxes, "bbox")):
        if found[mark] != len(values):
            raise RecordError(f"{found[mark]} {mark} mark(s) for {len(values)} entries of 'objects.{field}'")
    written = notation()
    parts = {
        REF: (written.write_name(_name(name)) for name in names),
        BOX: _boxes(boxes, objects, size_of, written),
    }
    return tuple(
        replace(turn, text=_marks.sub(lambda match: next(parts[match.group()]), turn.text)) for turn in turns
    )


def _listed(objects: Mapping[str, Any], field: str) -> list[Any]:
    value = objects.get(field)
    if value is None:
        return []
    if not isinstance(value, list):
        raise RecordError(f"'objects.{field}' is {kind_of(value)}; expected a list")
    return value


def _name(value: object) -> str:
    if not isinstance(value, str):
        raise RecordError(f"'objects.ref' holds {kind_of(value)}; expected a string")
    refuse_half_characters(value, "'objects.ref'")
    return value


def _boxes(
    boxes: list[Any], objects: Mapping[str, Any], size_of: SizeOf, notation: BoxNotation
) -> Iterator[str]:
    kind = objects.get("bbox_type") or "real"
    if kind not in ("real", "norm1"):
        raise RecordError(
            f"'objects.bbox_type' is {kind!r:.40}; expected 'real' (pixels) or 'norm1' (0 to 1)"
        )
    pictures = _listed(objects, "image_id") or [0] * len(boxes)
    if len(pictures) != len(boxes):
        raise RecordError(f"'objects.image_id' has {len(pictures)} entries for {len(boxes)} boxes")
    for position, box in enumerate(boxes):
        if not isinstance(box, list) or len(box) not in (2, 4) or not all(map(_is_number, box)):
            raise RecordError(f"'objects.bbox[{position}]' is {box!r:.60}; expected 2 or 4 numbers")
        which = pictures[position]
        if not isinstance(which, int) or isinstance(which, bool):
            raise RecordError(
                f"'objects.image_id[{position}]' is {which!r:.40}; expected the number of an image"
            )
        if len(box) == 4 and (box[2] < box[0] or box[3] < box[1]):
            raise RecordError(
                f"'objects.bbox[{position}]' is {box}, whose second corner lies before its first; expected x1, y1, "
                "x2, y2, not a width and a height"
            )
        width, height = (1, 1) if kind == "norm1" else size_of(which)
        shares = [value / (height if axis % 2 else width) for axis, value in enumerate(box)]
        if not all(-0.001 <= share <= 1.001 for share in shares):
            limits = "0 to 1" if kind == "norm1" else f"a picture of {width} x {height} pixels"
            raise RecordError(f"'objects.bbox[{position}]' is {box}, outside {limits}")
        yield notation.write_box(shares, partial(size_of, which))


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
