"""Reading files of records of growing size: processor time, and memory beside the size of the file.

`python -m benchmarks.records.reading FILE` reads one in a process of its own and prints what that took.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.records import made

__all__ = ["CASES", "run"]

CASES = (
    ("10k records", 10_000, "records.json"),
    ("100k records", 100_000, "records.json"),
    ("LLaVA-1.5's 665k, 1 GB", made.MIXTURE, "records.json"),
    ("the same as JSON Lines", made.MIXTURE, "records.jsonl"),
)
_PIXELS = 28


def run(
    folder: Path, announce: Callable[[str], object], cases: Sequence[tuple[str, int, str]] = CASES
) -> list[dict[str, Any]]:
    """One entry for each case; the files are made in `folder` and removed again."""
    made.make_pictures(folder / "images", _PIXELS)
    entries = []
    for name, count, file in cases:
        announce(name)
        path = folder / file
        size = made.write_json(path, made.records(count))
        command = [sys.executable, "-m", "benchmarks.records.reading", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
        path.unlink()
        if done.returncode:
            raise RuntimeError(f"{name}: {done.stderr[-2000:]}")
        entries.append({"name": name, "file_bytes": size, **json.loads(done.stdout)})
    return entries


def read(path: Path) -> dict[str, Any]:
    """Read a file's records as `cotbal run` does; how many, and what it took beyond the imports."""
    from cotbal.data import read_records

    before = _peak()
    wall, cpu = time.perf_counter(), time.process_time()
    found = read_records(path, task="t", image_root=path.parent / "images", packed=True)
    return {
        "records": len(found),
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "peak_bytes": _peak() - before,
    }


def _peak() -> int:
    """The most memory that this process has had since it began, in bytes (Linux).

    `getrusage` would tell the parent's where that had more before it started this one.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    print(json.dumps(read(Path(sys.argv[1]))))
