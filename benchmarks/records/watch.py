"""What a command and the processes that it starts have used up (on Linux, which knows shares of shared pages)."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

__all__ = ["Usage", "follow"]


@dataclass(frozen=True)
class Usage:
    """Seconds by the clock and of processor time, and the most memory (shared pages counted once), in bytes."""

    wall: float
    cpu: float
    peak_bytes: int


def follow(
    command: list[str], done: Callable[[], bool], *, log: Path, cwd: Path, every: float = 0.25
) -> Usage:
    """Run a command on one processor until `done`, then end it; what it used until then.

    Raises:
        RuntimeError: the command failed, or ended before `done`.
    """
    one = {min(os.sched_getaffinity(0))}
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, cwd=cwd,
            env={**os.environ, "OMP_NUM_THREADS": "1"}, preexec_fn=lambda: os.sched_setaffinity(0, one),
        )  # fmt: skip
    root = psutil.Process(process.pid)
    began = time.perf_counter()
    used, peak = 0.0, 0
    try:
        while True:
            ended = process.poll() is not None
            members = _members(root)
            # What has ended is known from its parent; when all have, what was seen last counts.
            used = max(used, sum(map(_cpu, members)))
            peak = max(peak, sum(map(_memory, members)))
            if done():
                return Usage(time.perf_counter() - began, used, peak)
            if ended:
                raise RuntimeError(f"{' '.join(command)} ended early:\n{log.read_text()[-3000:]}")
            time.sleep(every)
    finally:
        process.terminate()
        process.wait()


def _members(root: psutil.Process) -> list[psutil.Process]:
    """A process and all that it started, directly or not."""
    try:
        return [root, *root.children(recursive=True)]
    except psutil.Error:
        return []


def _cpu(process: psutil.Process) -> float:
    """Its own time, and that of children which have ended."""
    try:
        taken = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(taken.user + taken.system + taken.children_user + taken.children_system)


def _memory(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:
        return 0
