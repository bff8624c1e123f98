"""Files that are always complete: the old version or the new one, whatever happens during the write."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


@contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Errors of the disk within the block name the file; reading from or writing to an open one does not say which.

    >>> with naming("scores.csv"):
    ...     raise OSError(5, "Input/output error")
    Traceback (most recent call last):
        ...
    OSError: [Errno 5] Input/output error: 'scores.csv'
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror or str(error), os.fspath(path)) from error


def read_file(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a file; whatever fails names it.

    Raises:
        OSError: the file cannot be read.
    """
    with naming(path):
        return Path(path).read_bytes()


@contextmanager
def replacing(path: str | os.PathLike[str], *, newline: str | None = None) -> Iterator[TextIO]:
    """Open a UTF-8 text file that replaces `path` when the block ends without an error.

    The text goes to a temporary file in the same folder, is flushed to disk, and is renamed over `path`, which is
    flushed too. An error inside the block leaves `path` as it was and no temporary file behind; one of the disk's
    names `path`.

    >>> import pathlib, tempfile
    >>> target = pathlib.Path(tempfile.mkdtemp()) / "note.txt"
    >>> with replacing(target) as file:
    ...     _ = file.write("kept")
    >>> target.read_text()
    'kept'
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "x", encoding="utf-8", newline=newline) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
        sync(target.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno is None or error.filename == str(target):
            raise
        raise OSError(error.errno, error.strerror or str(error), str(target)) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk; some file systems cannot say."""
    number = os.open(path, os.O_RDONLY)
    try:
        with naming(path):
            os.fsync(number)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            raise
    finally:
        os.close(number)
