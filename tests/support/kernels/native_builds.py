"""Builds of the native extension that tests make for themselves."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
CSRC = ROOT / "cotbal_kernels" / "backends" / "native" / "csrc"
EMULATION = ROOT / "tests" / "cotbal_kernels" / "backends" / "native" / "emulation"


def compiler() -> str:
    """The C++ compiler tests use; "" where there is none."""
    return shutil.which(os.environ.get("CXX") or "c++") or ""


needs_compiler = pytest.mark.skipif(not compiler(), reason="no C++ compiler on this machine")


def run(command: Iterable[str | Path], **options: object) -> str:
    """Output of a command; a failure carries the end of it."""
    words = [str(word) for word in command]
    done = subprocess.run(words, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)  # type: ignore[call-overload]
    if done.returncode != 0:
        pytest.fail(f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout[-4000:]}")
    return str(done.stdout)


def build_extension(folder: Path, *definitions: str) -> Path:
    """The extension built by CMake alone in ``folder``; returns the shared object's path."""
    import nanobind

    run(
        [
            "cmake",
            "-S",
            ROOT,
            "-B",
            folder,
            "-DCOTBAL_NATIVE=ON",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dnanobind_DIR={nanobind.cmake_dir()}",
            *definitions,
        ]
    )
    run(["cmake", "--build", folder, "--parallel", "2"])
    (built,) = folder.glob("cotbal_kernels/backends/native/csrc/_native*.so")
    return built
