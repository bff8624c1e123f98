"""``python -m benchmarks.memory_limit WORKLOAD KIND BYTES``: the largest batch that fits on a CPU.

A process of its own makes a training step, then forbids itself more than so many bytes of address space beyond what
it has, and doubles the batch until an allocation fails.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks import allocator
from benchmarks.tuning import Stopwatch, trainer_of
from benchmarks.workloads import CPU, Workload

LIMIT = 2**29
_MOST = 1024  # samples; whoever gets that far is not limited by memory
# how torch, C++ and Python say it
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "bad_alloc", "Cannot allocate memory")


def largest_batch(workload: str, kind: str, limit: int = LIMIT) -> int:
    """The largest power of two of samples on which ``kind`` makes two steps within ``limit`` more bytes.

    Raises:
        RuntimeError: the process ended in another way than by a refused allocation.
    """
    # Freed memory must go back to the system, or it would count.
    environ = {name: value for name, value in os.environ.items() if name not in allocator.SETTINGS}
    command = [sys.executable, "-m", "benchmarks.memory_limit", workload, kind, str(limit)]
    done = subprocess.run(
        command, env=environ, capture_output=True, text=True, cwd=Path(__file__).parent.parent
    )
    if done.returncode != 0:
        raise RuntimeError(f"{kind} on {workload}: {done.stderr[-2000:]}")
    return int(done.stdout.split()[-1])


def limit_address_space(beyond: int) -> None:
    """From now on this process may have ``beyond`` bytes more than it has (Linux)."""
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    allowed = pages * resource.getpagesize() + beyond
    resource.setrlimit(resource.RLIMIT_AS, (allowed, resource.RLIM_INFINITY))


def _train(workload: Workload, kind: str, batch: int) -> None:
    device = torch.device("cpu")
    with tempfile.TemporaryDirectory() as folder:
        trainer_of(kind, workload.with_batch(batch), device, 2, folder, Stopwatch(device)).train()


def _find(workload: Workload, kind: str, limit: int) -> int:
    _train(workload, kind, 1)  # threads, libraries and what they keep
    gc.collect()
    limit_address_space(limit)
    batch = 1
    while batch <= _MOST:
        try:
            _train(workload, kind, batch)
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, MemoryError) and not any(told in str(error) for told in _OUT_OF_MEMORY):
                raise
            break
        gc.collect()
        batch *= 2
    return batch // 2


if __name__ == "__main__":
    name, kind, limit = sys.argv[1:]
    (chosen,) = [workload for workload in CPU if workload.name == name]
    print(_find(chosen, kind, int(limit)))
