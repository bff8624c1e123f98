"""Pictures of unusual kinds, and files that are none: each with its pixels or part of the error."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image


def ramp(high: float, dtype: Any) -> Any:
    return np.linspace(0, high, 256).astype(dtype).reshape(16, 16)


def file_of(image: Image.Image, form: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def palette_with_a_hole() -> bytes:
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 255, 255, 0, 0])
    image.putpixel((1, 0), 1)
    return file_of(image, "PNG", transparency=0)


def animation() -> bytes:
    frames = [Image.new("RGB", (2, 1), color) for color in ("red", "blue")]
    return file_of(frames[0], "GIF", save_all=True, append_images=frames[1:])


def half(form: str) -> bytes:
    data = file_of(Image.effect_noise((64, 64), 90), form)
    return data[: len(data) // 2]


def png(width: int, height: int, depth: int, kind: int, row: bytes, transparent: bytes = b"") -> bytes:
    """A PNG of one row, of depths and kinds that Pillow does not write."""
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)),
        *([(b"tRNS", transparent)] if transparent else []),
        (b"IDAT", zlib.compress(b"\0" + row)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts
    )


def moving(form: str, **options: Any) -> bytes:
    frames = [Image.new("RGB", (2, 1), color) for color in ("red", "blue")]
    return file_of(frames[0], form, save_all=True, append_images=frames[1:], **options)


def turned(orientation: int) -> bytes:
    image = Image.new("RGB", (32, 16), "white")
    image.paste("red", (0, 0, 16, 8))  # red in the corner at the top left, as stored
    exif = Image.Exif()
    exif[0x0112] = orientation
    return file_of(image, "PNG", exif=exif)


def eight_bits() -> Any:
    return np.repeat(ramp(255, np.uint8)[..., None], 3, axis=2)


GREY = eight_bits()
WHITE, RED, BLUE, BLACK = (255, 255, 255), (255, 0, 0), (0, 0, 255), (0, 0, 0)
# The bytes of a file, and its pixels (all of them, or those at some places), or part of the error.
PICTURES: dict[str, tuple[Callable[[], bytes], Any]] = {
    "grey of 8 bits": (lambda: file_of(Image.fromarray(ramp(255, np.uint8)), "PNG"), GREY),
    "grey of 16 bits": (lambda: file_of(Image.fromarray(ramp(65535, np.uint16)), "PNG"), GREY),
    "grey of 32 bits": (lambda: file_of(Image.fromarray(ramp(65535, np.int32)), "TIFF"), GREY),
    "grey of floats": (lambda: file_of(Image.fromarray(ramp(1, np.float32)), "TIFF"), GREY),
    "floats above 1": (
        lambda: file_of(Image.fromarray(ramp(9, np.float32)), "TIFF"),
        "grey values from 0 to 9 (mode F)",
    ),
    "negative numbers": (
        lambda: file_of(Image.fromarray(ramp(-5, np.int32)), "TIFF"),
        "grey values from -5 to 0",
    ),
    "floats that are no numbers": (
        lambda: file_of(Image.fromarray(np.full((2, 2), np.nan, np.float32)), "TIFF"),
        "only 0 to 1 can be scaled",
    ),
    "black and white": (lambda: file_of(Image.new("1", (2, 1), 1), "PNG"), {(0, 0): WHITE}),
    "transparent": (lambda: file_of(Image.new("RGBA", (2, 1), (0, 0, 0, 0)), "PNG"), {(0, 0): WHITE}),
    "half transparent": (
        lambda: file_of(Image.new("RGBA", (2, 1), (255, 0, 0, 128)), "PNG"),
        {(0, 0): (255, 127, 127)},
    ),
    "grey and alpha": (lambda: file_of(Image.new("LA", (2, 1), (0, 0)), "PNG"), {(0, 0): WHITE}),
    "a palette with a hole": (palette_with_a_hole, {(0, 0): WHITE, (1, 0): RED}),
    "a colour that is transparent": (
        lambda: file_of(Image.new("RGB", (2, 1), BLACK), "PNG", transparency=BLACK),
        {(0, 0): WHITE},
    ),
    "CMYK": (lambda: file_of(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "TIFF"), {(0, 0): RED}),
    "CMYK as a JPEG of Adobe's kind": (
        lambda: file_of(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100),
        {(0, 0): RED},
    ),
    "colours of 16 bits": (
        lambda: png(2, 1, 16, 2, struct.pack(">6H", 65535, 0, 0, 0, 0, 65535)),
        {(0, 0): RED, (1, 0): BLUE},
    ),
    "grey of 16 bits, some of it transparent": (
        lambda: png(2, 1, 16, 0, struct.pack(">2H", 0, 257), struct.pack(">H", 0)),
        {(0, 0): WHITE, (1, 0): (1, 1, 1)},
    ),
    "grey and alpha of 16 bits": (
        lambda: png(2, 1, 16, 4, struct.pack(">4H", 0, 0, 0, 65535)),
        {(0, 0): WHITE, (1, 0): BLACK},
    ),
    "grey of 16 bits, the high byte first": (
        lambda: file_of(Image.frombytes("I;16B", (2, 1), struct.pack(">2H", 0, 65535)), "TIFF"),
        {(0, 0): BLACK, (1, 0): WHITE},
    ),
    "grey of 10 bits": (
        lambda: b"P5 2 1 1023\n" + struct.pack(">2H", 0, 1023),
        {(0, 0): BLACK, (1, 0): WHITE},
    ),
    "an animated PNG": (lambda: moving("PNG"), {(0, 0): RED}),
    "an animated WebP": (lambda: moving("WEBP", lossless=True), {(0, 0): RED}),
    "several pages": (lambda: moving("TIFF"), {(0, 0): RED}),
    "an animation": (animation, {(0, 0): RED}),
    "orientation 1": (lambda: turned(1), {(0, 0): RED, (31, 15): WHITE}),
    "orientation 3": (lambda: turned(3), {(0, 0): WHITE, (31, 15): RED}),
    "orientation 6": (lambda: turned(6), {(0, 0): WHITE, (15, 0): RED, (0, 31): WHITE}),
    "orientation 8": (lambda: turned(8), {(0, 31): RED, (15, 0): WHITE}),
    "an orientation that is none": (lambda: turned(0), {(0, 0): RED}),
    "no pixels": (lambda: png(0, 0, 8, 2, b""), "cannot be decoded: cannot identify image file"),
    "10 billion pixels in its header": (
        lambda: png(100_000, 100_000, 8, 2, b""),
        "Image size (10000000000 pixels) exceeds limit",
    ),
    "a drawing": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "cannot identify image file"),
    "a JPEG without its end": (lambda: half("JPEG")[:-40], "cannot be decoded: image file is truncated"),
    "cut in half": (lambda: half("PNG"), "cannot be decoded"),
    "a JPEG cut in half": (lambda: half("JPEG"), "cannot be decoded"),
    "a page of the web": (
        lambda: b"<!DOCTYPE html><html></html>",
        "cannot be decoded: cannot identify image file",
    ),
    "an empty file": (lambda: b"", "cannot be decoded"),
}
