"""Pictures as a viewer shows them and as processors take them: upright, RGB, 8 bits."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps

from cotbal.data.pictures_io import describe, opened_picture
from cotbal.data.records import ImageSource, RecordError

_WITH_ALPHA = ("RGBA", "RGBa", "LA", "La", "PA")
_GREY_16 = ("I;16", "I;16L", "I;16B", "I;16N")


def load_picture(source: ImageSource) -> Image.Image:
    """The picture, decoded: turned as its EXIF orientation says, 8-bit RGB.

    What is transparent is shown on white; grey of 16 bits or of floats from 0 to 1 is scaled to 8 bits; of an
    animation and of a file of several pages the first picture counts, as transformers and qwen-vl-utils take it.

    Raises:
        RecordError: the file is missing, cannot be decoded, or has values that 8 bits cannot show faithfully.
        PictureFaultError: the machine could not read the file; see `read_picture_bytes`.
    """
    with opened_picture(source) as image:
        image.load()
        upright = ImageOps.exif_transpose(image)
    try:
        return as_rgb(upright)
    except RecordError as error:
        raise RecordError(f"image {describe(source)} {error}") from None


def picture_size(source: ImageSource) -> tuple[int, int]:
    """Width and height of the upright picture, from its header.

    Raises:
        RecordError: the file is missing or is not an image.
    """
    with opened_picture(source) as image:
        turned = image.getexif().get(0x0112) in (5, 6, 7, 8)
        return (image.height, image.width) if turned else image.size


def as_rgb(image: Image.Image) -> Image.Image:
    """An upright picture of any mode in 8-bit RGB.

    Raises:
        RecordError: the values leave the range that its mode can be scaled from.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in ("I", "F", *_GREY_16):
        return _grey(image).convert("RGB")
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        shown = image.convert("RGBA")
        white = Image.new("RGBA", shown.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, shown).convert("RGB")
    return image.convert("RGB")


def _grey(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    if image.mode == "F":
        low, high, top = float(values.min()), float(values.max()), 1.0
    else:
        low, high, top = float(values.min()), float(values.max()), 65535.0
    if not (low >= 0.0 and high <= top):
        raise RecordError(
            f"has grey values from {low:g} to {high:g} (mode {image.mode}); only 0 to {top:g} can be scaled to "
            "8 bits: save it as an 8-bit picture"
        )
    shown = np.rint(values.astype(np.float64) * (255.0 / top)).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        shown[values == transparent] = 255
    return Image.fromarray(shown)
