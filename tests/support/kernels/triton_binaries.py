"""What Triton's compilers make of a launch, for targets that need not be here.

`compiled` runs a launcher with every kernel launch replaced by its compilation, so that what is looked at is what
that call would launch there: the same arguments, specialised the same way.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from cotbal_kernels.backends.triton import backend as triton_backend

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
_CUOBJDUMP = os.path.join(os.path.dirname(triton.__file__), "backends", "nvidia", "bin", "cuobjdump")


@dataclass(frozen=True)
class Binary:
    """One compiled kernel.

    Attributes:
        registers: vector registers of a lane.
        spilled: bytes of a lane's stack and local memory, where spilled registers go.
        tile_accesses: every access to global memory that carries an eviction policy, as the assembler spells it.
        source: Triton's IR.
    """

    name: str
    registers: int
    spilled: int
    tile_accesses: tuple[str, ...]
    source: str


class _NoDriver:
    """Tells Triton what to compile for; launches nothing."""

    def __init__(self, target: GPUTarget) -> None:
        self._target = target

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> str:
        # What compiled kernels are cached by.
        return f"{self._target.backend}:{self._target.arch}"

    def get_current_stream(self, device: str) -> int:
        return 0


def compiled(target: str, call: Callable[[], object]) -> list[Binary]:
    """The kernels that ``call`` would launch on ``target``, in order."""
    inspect = _amd if TARGETS[target].backend == "hip" else _nvidia
    return [inspect(kernel) for kernel in launched(target, call)]


def launched(target: str, call: Callable[[], object]) -> list[Any]:
    """The same as Triton has them: one object for each kernel that it had to compile, however often launched."""
    found: list[Any] = []
    run = JITFunction.run

    def compile_only(self: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> None:
        found.append(run(self, *arguments, grid=grid, warmup=True, **options))

    before = driver._active
    driver.set_active(_NoDriver(TARGETS[target]))
    try:
        with (
            mock.patch.object(JITFunction, "run", compile_only),
            mock.patch.object(triton_backend, "_warp_size", return_value=TARGETS[target].warp_size),
        ):
            call()
    finally:
        driver._active = before
    return found


def _nvidia(kernel: Any) -> Binary:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage = subprocess.run(
            [_CUOBJDUMP, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    counts = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", usage)
    if counts is None:
        raise RuntimeError(f"cuobjdump said nothing of registers: {usage}")
    accesses = re.findall(r"(?:ld|st)\.global\S*L1::evict\S*", kernel.asm["ptx"])
    return Binary(
        kernel.name, int(counts[1]), int(counts[2]) + int(counts[3]), tuple(accesses), kernel.asm["ttir"]
    )


def _amd(kernel: Any) -> Binary:
    text = kernel.asm["amdgcn"]

    def number(name: str) -> int:
        value = re.search(rf"\.{name}:\s+(\d+)", text)
        if value is None:
            raise RuntimeError(f"the assembly says nothing of {name}")
        return int(value[1])

    # Policies do not show in CDNA's mnemonics; vector accesses do.
    accesses = re.findall(r"(?:global|buffer|flat)_(?:load|store)_dwordx4", text)
    spilled = number("private_segment_fixed_size") + number("vgpr_spill_count")
    return Binary(kernel.name, number("vgpr_count"), spilled, tuple(accesses), kernel.asm["ttir"])
