"""Data files that are tables: Parquet, folders that the `datasets` library saved, and data sets that it loads.

Columns are the fields of a record, in any of its formats. Images may be paths or, as `datasets` writes them, the
bytes of their files. Both packages are optional and imported when such a file is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cotbal.config.hub import HubSet
from cotbal.data.hub import hub_rows, undecoded

_BATCH = 256


def is_table(path: Path) -> bool:
    """Whether a data file is read by this module: `.parquet`, a folder, or a data set's name."""
    return path.suffix.lower() == ".parquet" or path.is_dir() or HubSet.of_path(path) is not None


def iter_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table in order, a few at a time in memory.

    Raises:
        ValueError: the file cannot be read as such, or the package that reads it is not installed.
    """
    named = HubSet.of_path(path)
    if named is not None:
        yield from hub_rows(named)
        return
    if not path.is_dir():
        yield from _parquet(path)
        return
    parts = sorted(path.rglob("*.parquet"))
    if parts:
        for part in parts:
            yield from _parquet(part)
        return
    yield from _saved(path)


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise ValueError(f"{path}: reading Parquet needs pyarrow; pip install 'cotbal[tables]'") from None
    try:
        with ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_BATCH):
                yield from batch.to_pylist()
    except (ArrowException, OSError) as error:
        raise ValueError(f"{path}: not readable as Parquet: {error}") from error


def _saved(path: Path) -> Iterator[dict[str, Any]]:
    try:
        from datasets import Dataset, load_from_disk
    except ImportError:
        raise ValueError(
            f"{path}: reading a folder of the datasets library needs datasets; pip install 'cotbal[tables]'"
        ) from None
    try:
        saved = load_from_disk(str(path))
    except (FileNotFoundError, ValueError) as error:
        raise ValueError(
            f"{path}: neither a folder with .parquet files nor one that save_to_disk of datasets wrote: {error}"
        ) from error
    if not isinstance(saved, Dataset):
        raise ValueError(f"{path}: holds several splits ({', '.join(saved)}); give the folder of one of them")
    yield from undecoded(saved)
