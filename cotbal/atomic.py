"""Files that are always complete: the old version or the new one, whatever happens during the write."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


@contextmanager
def replacing(path: str | os.PathLike[str], *, newline: str | None = None) -> Iterator[TextIO]:
    """Open a UTF-8 text file that replaces `path` when the block ends without an error.

    The text goes to a temporary file in the same folder, is flushed to disk, and is renamed over `path`.
    An error inside the block leaves `path` as it was and no temporary file behind.

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
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
