"""Opening pictures: what is wrong with the machine is tried again and then stops; what is wrong with a file is its.

A network file system that does not answer for a moment must not change which records a model is trained on. So the
bytes of a picture are read first, apart from their decoding: only bytes that were read and do not decode, and paths
that lead to no file, make a broken record.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from PIL import Image

from cotbal.data.records import ImageSource, RecordError

__all__ = [
    "MAX_BYTES",
    "MAX_PIXELS",
    "PAUSES",
    "PictureFaultError",
    "describe",
    "opened_picture",
    "read_picture_bytes",
]

MAX_PIXELS = 178_956_970
"""A picture of more pixels (about 13377 x 13377, where Pillow draws the line too) is refused before it is decoded."""
MAX_BYTES = 2**30
"""A file of more bytes is no picture that a model could use; it is refused before it is read."""
PAUSES = (0.5, 1.0, 2.0, 4.0)
"""Seconds to wait before each further attempt; all times the factor `COTBAL_PICTURE_PAUSE` (default 1)."""

# The path leads to no file: the record is wrong.
_NO_SUCH_FILE = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL}
)
# Waiting would not help.
_FINAL = frozenset({errno.EACCES, errno.EPERM})


class PictureFaultError(OSError):
    """A picture's file could not be read, and the fault is not the file's: the run has to stop, not the record."""


def describe(source: ImageSource) -> str:
    """What an image is called in messages."""
    return str(source) if isinstance(source, Path) else f"of {len(source)} bytes within the record"


def read_picture_bytes(path: Path, pauses: tuple[float, ...] | None = None) -> bytes:
    """The bytes of a picture's file, tried again after a pause where the machine or the network was at fault.

    Args:
        path: the file.
        pauses: seconds before each further attempt; by default `PAUSES`, times `COTBAL_PICTURE_PAUSE`.

    Raises:
        RecordError: there is no such file, or it is larger than `MAX_BYTES`.
        PictureFaultError: it cannot be read (EIO, ESTALE, EMFILE, ENOMEM, ETIMEDOUT, ...) after all attempts, or
            may not be (EACCES).
    """
    waits = _pauses() if pauses is None else pauses
    for attempt in range(len(waits) + 1):
        try:
            return _read(path)
        except (OSError, MemoryError) as error:
            number = errno.ENOMEM if isinstance(error, MemoryError) else (error.errno or 0)
            if number in _NO_SUCH_FILE:
                raise RecordError(f"missing image {path}") from None
            reason = os.strerror(number) if number else str(error)
            if number in _FINAL:
                raise PictureFaultError(number, f"image {path} cannot be read: {reason}") from error
            if attempt == len(waits):
                raise PictureFaultError(
                    number,
                    f"image {path} cannot be read: {reason}; tried {attempt + 1} times in {sum(waits):g} s. The file "
                    "is not taken for a broken record: once the disk or the network is mended, the same command goes "
                    "on from here",
                ) from error
            time.sleep(waits[attempt])
    raise AssertionError("the last attempt returns or raises")


def _read(path: Path) -> bytes:
    with open(path, "rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > MAX_BYTES:
            raise RecordError(f"image {path} has {size} bytes; more than {MAX_BYTES} are not read")
        return stream.read()


def _pauses() -> tuple[float, ...]:
    given = os.environ.get("COTBAL_PICTURE_PAUSE", "1")
    try:
        factor = float(given)
    except ValueError:
        factor = -1.0
    if not 0 <= factor < float("inf"):
        raise ValueError(f"COTBAL_PICTURE_PAUSE is {given!r}; expected a number of at least 0, such as 1")
    return tuple(pause * factor for pause in PAUSES)


@contextmanager
def opened_picture(source: ImageSource) -> Iterator[Image.Image]:
    """A picture, opened and not yet decoded; what goes wrong in the block counts as the picture's fault.

    Raises:
        RecordError: there is no such file, it has more than `MAX_PIXELS` pixels, or it does not decode.
        PictureFaultError: the machine could not read the file, see `read_picture_bytes`.
    """
    content = read_picture_bytes(source) if isinstance(source, Path) else source
    name = describe(source)
    try:
        with Image.open(BytesIO(content)) as image:
            pixels = image.width * image.height
            if pixels > MAX_PIXELS:
                raise RecordError(
                    f"image {name} has {image.width} x {image.height} pixels; more than {MAX_PIXELS} are not decoded"
                )
            yield image
    except RecordError:
        raise
    except MemoryError as error:
        raise PictureFaultError(
            errno.ENOMEM, f"image {name} cannot be decoded: {os.strerror(errno.ENOMEM)}"
        ) from error
    except (
        Exception
    ) as error:  # decoders of broken files raise anything: struct.error, IndexError, zlib.error, ...
        # Pillow shows the memory that it was given.
        reason = str(error).partition(" <_io.")[0] or type(error).__name__
        raise RecordError(f"image {name} cannot be decoded: {reason}") from error
