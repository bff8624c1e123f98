"""Triton's interpreter in a process of its own, and what it needs to agree with hardware.

Kernels are interpreted or compiled for a whole process: ``TRITON_INTERPRET`` is read when Triton is imported. So
tests under the interpreter run in a child, which loads this module as a pytest plugin
(``-p support.kernels.triton_interpreter``).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

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
        "-p",
        "support.kernels.triton_interpreter",
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


def _round_to_bfloat16(values: np.ndarray) -> np.ndarray:
    """f32 to the bits of bf16, to nearest even as every GPU does."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(values), np.uint32(0x7FC0), rounded).astype(np.uint16)


def pytest_configure() -> None:
    """Mend Triton 3.6's interpreter: it truncates f32 to bf16, rounds fma twice, and NumPy 2.4 refuses its ranges."""
    if os.environ.get("TRITON_INTERPRET") != "1":
        return
    import triton.language as tl
    from triton.runtime import interpreter

    convert, patch_tensor = interpreter._convert_float, interpreter._patch_lang_tensor

    def convert_float(data: Any, source: Any, target: Any, rounding: Any) -> Any:
        if source == tl.float32 and target == tl.bfloat16:
            return _round_to_bfloat16(data)
        return convert(data, source, target, rounding)

    def patch_lang_tensor(tensor: Any, scope: Any) -> None:
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    def create_fma(_: Any, x: Any, y: Any, z: Any) -> Any:
        with np.errstate(all="ignore"):
            exact = x.data.astype(np.float64) * y.data + z.data
            return interpreter.TensorHandle(exact.astype(x.data.dtype), z.dtype.scalar)

    interpreter._convert_float = convert_float
    interpreter.InterpreterBuilder.create_fma = create_fma
    interpreter._patch_lang_tensor = patch_lang_tensor
