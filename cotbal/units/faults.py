"""Faults of disks, workers and metrics, told with the file or the task they concern."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from cotbal.config.yaml_file import ConfigError
from cotbal.metrics.metric import Metric

__all__ = ["metric_faults", "plain_faults", "score_with"]

_OF_A_DISK = re.compile(
    r"os error (\d+)|(file write failed|PytorchStreamWriter failed|unexpected pos|iostream error|open file failed)",
    re.IGNORECASE,
)
_OF_A_WORKER = re.compile(r"DataLoader worker \(pid")


@contextmanager
def plain_faults(folder: Path) -> Iterator[None]:
    """Errors of writers that do not say which file, and of workers that died, in words.

    Args:
        folder: what is written within the block.

    Raises:
        OSError: the disk is full, or something like it; with a path.
        ConfigError: a data loading worker was killed.
    """
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None or str(folder) in str(error):
            raise
        raise OSError(error.errno, error.strerror or str(error), str(folder)) from error
    except (RuntimeError, SafetensorError) as error:
        text = str(error)
        if _OF_A_WORKER.search(text):
            raise ConfigError(
                f"{folder}: a data loading worker died ({text.splitlines()[0]}), most often because memory ran out. "
                "Lower training.dataloader_num_workers; the same command then goes on from here"
            ) from error
        disk = _OF_A_DISK.search(text)
        if disk is None:
            raise
        number = int(disk[1]) if disk[1] else _number_of_disk(folder)
        raise OSError(number, f"{os.strerror(number)} ({text.splitlines()[0]})", str(folder)) from error


def _number_of_disk(folder: Path) -> int:
    """torch does not say what was wrong: a full disk can be seen afterwards."""
    place = next(path for path in (folder, *folder.parents) if path.exists())
    return errno.ENOSPC if os.statvfs(place).f_bavail == 0 else errno.EIO


@contextmanager
def metric_faults(metric: Metric, task: str, where: str = "") -> Iterator[None]:
    """Whatever a metric raises in the block, told as the metric's; see `score_with`.

    Raises:
        ConfigError: it raised, or ended the program.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        kind = "" if isinstance(error, (ValueError, TypeError)) else f"{type(error).__name__}: "
        raise ConfigError(f"task '{task}', metric {metric.name}{where}: {kind}{error}") from error


def score_with(
    metric: Metric,
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    task: str,
    where: str = "",
) -> list[float]:
    """`metric.score`, with whatever it raises told as the metric's.

    Raises:
        ConfigError: it cannot read an answer or a reference, does not return one finite number for each, raises
            anything else, or ends the program.
    """
    with metric_faults(metric, task, where):
        return metric.score(list(predictions), [tuple(accepted) for accepted in references])
