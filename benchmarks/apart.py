"""Contenders that change other packages when they are imported: each is measured in a process of its own.

``python -m benchmarks.apart NAME LAYOUT SEED < case.json`` makes the case's inputs anew from its seed, checks the
contender, times it interleaved with the floor of that same process, and prints the figures, as JSON.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks import contenders as field
from benchmarks.cases import LossCase
from benchmarks.inputs import make, truths
from benchmarks.timing import interleave

# The Python of another environment, for contenders whose packages cannot share this one's.
PYTHON = "COTBAL_BENCH_PYTHON_APART"
_SECONDS = 300.0
_ROOT = Path(__file__).parent.parent


def measured(contender: field.Contender, case: LossCase, seed: int, layout: str) -> dict[str, Any] | str:
    """The contender's figures, with its package's version; or why there are none."""
    python = os.environ.get(PYTHON, sys.executable)
    if python == sys.executable and importlib.util.find_spec(str(contender.apart)) is None:
        return f"the package {contender.apart} is not installed"
    values = {**dataclasses.asdict(case), "dtype": str(case.dtype).removeprefix("torch.")}
    command = [python, "-m", "benchmarks.apart", contender.name, layout, str(seed)]
    try:
        done = subprocess.run(
            command, input=json.dumps(values), cwd=_ROOT, capture_output=True, text=True, timeout=_SECONDS
        )
    except subprocess.TimeoutExpired:
        return f"failed: not ready after {_SECONDS:.0f} s in a process of its own"
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        return f"failed: its process ended with {done.returncode}: {lines[-1] if lines else ''}"
    found: dict[str, Any] | str = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(name: str, case: LossCase, layout: str, seed: int) -> dict[str, Any] | str:
    """What this process finds."""
    from benchmarks.runner import FLOOR, checked_step

    (contender,) = [each for each in field.CONTENDERS if each.name == name]
    inputs = make(case, torch.device("cuda" if torch.cuda.is_available() else "cpu"), seed)
    if layout:
        inputs = inputs.compacted(contender.multiple)
    step = checked_step(contender, inputs, truths(inputs)[contender.weighted])
    if isinstance(step, str):
        return step
    steps = {name: step, FLOOR: field.bare_gemms(inputs)}
    timings = interleave(steps, inputs.hidden.device, budget=4.0)
    package = str(contender.apart)
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        version = "unknown"
    return {
        **timings[name].as_dict(),
        "ratio_to_floor": timings[name].median / timings[FLOOR].median,
        "version": f"{package} {version}",
    }


if __name__ == "__main__":
    given = json.loads(sys.stdin.read())
    chosen = LossCase(**{**given, "dtype": getattr(torch, given["dtype"])})
    print(json.dumps(measure(sys.argv[1], chosen, sys.argv[2], int(sys.argv[3]))))
