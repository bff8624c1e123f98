"""What a command and the processes that it starts have used up, read from /proc (Linux)."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Usage", "follow"]

_TICKS = os.sysconf("SC_CLK_TCK")


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
    began = time.perf_counter()
    used, peak = 0.0, 0
    try:
        while True:
            ended = process.poll() is not None
            members = _tree(process.pid)
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


def _tree(root: int) -> list[int]:
    """A process and all that it started, directly or not."""
    found = [root]
    for process in found:
        for thread in Path(f"/proc/{process}/task").glob("*/children"):
            try:
                found += [int(child) for child in thread.read_text().split()]
            except OSError:
                continue
    return found


def _cpu(process: int) -> float:
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    # Its own time, and that of children which have ended.
    return sum(map(int, fields[11:15])) / _TICKS


def _memory(process: int) -> int:
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
