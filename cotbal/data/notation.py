"""How a family of models writes boxes and the names of what lies in them, after its pre-training.

A box is given by shares of its picture's width and height. What ms-swift's page "Custom dataset" leaves to each model
is written as that model's own cookbook has it; families that are not listed get thousandths in square brackets.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cotbal.data.records import RecordError

__all__ = ["THOUSANDTHS", "BoxNotation", "notation_of"]

Size = tuple[int, int]


@dataclass(frozen=True)
class BoxNotation:
    """One way of writing boxes and names.

    Attributes:
        box: what stands around the coordinates, with `{}` for them.
        pair: how one point is written, with `{}` for x and y; "" writes the plain numbers.
        name: what stands around a name, with `{}` for it.
        resized: width and height, in pixels, of the picture that the model sees, from those of the file; coordinates
            then count its pixels. None: thousandths.

    >>> BoxNotation("<box>{}</box>", "({},{})").write_box([0.1, 0.25, 0.5, 1.0], lambda: (40, 20))
    '<box>(100,250),(500,1000)</box>'
    """

    box: str = "[{}]"
    pair: str = ""
    name: str = "{}"
    resized: Callable[[int, int], Size] | None = None

    def write_box(self, shares: Sequence[float], size_of: Callable[[], Size]) -> str:
        """A box, or a point, of 4 or 2 shares of the picture's width and height.

        Args:
            size_of: the picture's size in pixels; asked for where coordinates are pixels.
        """
        width, height = (1000, 1000) if self.resized is None else self.resized(*size_of())
        limits = (width, height) * 2
        values = [
            min(limit, max(0, round(share * limit))) for share, limit in zip(shares, limits, strict=False)
        ]
        if not self.pair:
            return self.box.format(", ".join(map(str, values)))
        points = zip(values[::2], values[1::2], strict=True)
        return self.box.format(",".join(self.pair.format(x, y) for x, y in points))

    def write_name(self, name: str) -> str:
        """The name of what is in a box."""
        return self.name.format(name)


THOUSANDTHS = BoxNotation()

_QWEN2 = BoxNotation("<|box_start|>{}<|box_end|>", "({},{})", "<|object_ref_start|>{}<|object_ref_end|>")
_OF_PROCESSOR = {
    "Qwen2VLProcessor": _QWEN2,
    "InternVLProcessor": BoxNotation("<box>[[{}]]</box>", name="<ref>{}</ref>"),
}
_IN_PIXELS = ("Qwen2_5_VLProcessor",)
# Pre-trained with tokens of their own for coordinates, in an order of their own.
_NOT_WRITTEN = {
    "PaliGemmaProcessor": "<loc0000> tokens, y before x",
    "Kosmos2Processor": "<patch_index_0000> tokens",
    "Florence2Processor": "<loc_0> tokens",
}


def notation_of(processor: Any) -> BoxNotation:
    """The notation of a processor's family.

    Raises:
        RecordError: the family has one that is not written here.
    """
    kinds = [kind.__name__ for kind in type(processor).__mro__]
    for kind in kinds:
        if kind in _OF_PROCESSOR:
            return _OF_PROCESSOR[kind]
        if kind in _NOT_WRITTEN:
            raise RecordError(
                f"boxes from 'objects' are not written for {kind}, whose family has {_NOT_WRITTEN[kind]}; write them "
                "into the text"
            )
        if kind in _IN_PIXELS:
            return BoxNotation(resized=_resizing(processor.image_processor))
    return THOUSANDTHS


def _resizing(pictures: Any) -> Callable[[int, int], Size]:
    """What the picture processor does to a picture's size, by the function it uses itself."""
    smart_resize = getattr(inspect.getmodule(type(pictures)), "smart_resize", None)
    if smart_resize is None:  # pragma: no cover - another transformers
        raise RecordError(
            f"the size that {type(pictures).__name__} gives a picture cannot be told, and its family writes boxes in "
            "those pixels; write them into the text"
        )

    def resized(width: int, height: int) -> Size:
        try:
            found = smart_resize(
                height,
                width,
                factor=pictures.patch_size * pictures.merge_size,
                min_pixels=pictures.size["shortest_edge"],
                max_pixels=pictures.size["longest_edge"],
            )
        except ValueError as error:
            raise RecordError(f"a picture of {width} x {height} pixels is refused: {error}") from None
        return int(found[1]), int(found[0])

    return resized
