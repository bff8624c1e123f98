"""Triton's interpreter in a process of its own.

Kernels are interpreted or compiled for a whole process: ``TRITON_INTERPRET`` is read when Triton is imported. So
tests under the interpreter run in a child.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_TESTS = Path(__file__).resolve().parents[2]
_ROOT = _TESTS.parent
# Longer than anything but the whole contract takes on a busy machine.
_SECONDS = 2900


def run_tests(arguments: Sequence[str], seconds: float | None = _SECONDS) -> tuple[int, str]:
    """Run pytest on some tests with kernels interpreted; its exit status and output."""
    environment = dict(os.environ, TRITON_INTERPRET="1")
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(_TESTS), *environment.get("PYTHONPATH", "").split(os.pathsep)]
    )
    for name in [name for name in environment if name.startswith("PYTEST_")]:
        del environment[name]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        # NumPy warns where a GPU gives infinity or NaN, and rows without a class are meant to.
        "-W",
        "ignore::RuntimeWarning",
        *arguments,
    ]
    done = subprocess.run(
        command,
        cwd=_ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
    )
    return done.returncode, done.stdout
