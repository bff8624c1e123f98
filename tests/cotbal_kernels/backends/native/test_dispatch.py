"""Which instruction set runs, and what the compiler made of each."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.kernels.native_builds import CSRC, compiler, needs_compiler
from support.kernels.row_cases import forced

native = pytest.importorskip("cotbal_kernels.backends.native.backend")
if native.missing() is not None:
    pytest.skip(str(native.missing()), allow_module_level=True)

CPU = torch.device("cpu")


def test_the_best_supported_is_the_default() -> None:
    with forced(""):
        chosen = native.instruction_set()
    assert chosen == [name for name, supported in native.instruction_sets().items() if supported][-1]


@pytest.mark.parametrize("name", [name for name, supported in native.instruction_sets().items() if supported])
def test_each_supported_one_can_be_forced(name: str) -> None:
    with forced(name):
        assert native.instruction_set() == name
        assert native.BACKEND.unavailable(CPU, torch.float32) is None


def test_an_unknown_one_is_an_error() -> None:
    """Also for unavailable(): `impl="auto"` must not turn to torch in silence."""
    with forced("mmx"):
        for call in (
            native.instruction_set,
            lambda: native.BACKEND.unavailable(CPU, torch.float32),
            lambda: native.BACKEND.row_pass(torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64)),
        ):
            with pytest.raises(ValueError, match=r"COTBAL_CPU_ISA='mmx'.*not in this build.*portable"):
                call()


def test_an_unsupported_one_is_an_error() -> None:
    impossible = [name for name, supported in native.instruction_sets().items() if not supported]
    if not impossible:
        pytest.skip("this processor supports every instruction set of the build")
    with (
        forced(impossible[0]),
        pytest.raises(ValueError, match=r"not supported by this processor; usable here"),
    ):
        native.instruction_set()


def test_x86_builds_have_them_all() -> None:
    machine = torch.cpu.get_capabilities().get("architecture", "")
    if "x86" not in str(machine):
        pytest.skip(f"not an x86 processor: {machine}")
    assert list(native.instruction_sets()) == ["portable", "avx2", "avx512"]


def test_importing_the_extension_needs_nothing_else() -> None:
    """Neither numpy nor torch: the extension links to no library of theirs."""
    path = sys.modules["cotbal_kernels.backends.native._native"].__file__
    script = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("_native", {path!r})
importlib.util.module_from_spec(spec)
print(sorted({{"numpy", "torch"}} & set(sys.modules)))
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


FLAGS = {
    "portable": [],
    "avx2": ["-mavx2", "-mfma"],
    "avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma"],
}


@needs_compiler
@pytest.mark.parametrize("name", FLAGS)
def test_kernel_objects(name: str, tmp_path: Path) -> None:
    """Each object uses its registers and no others, and offers nothing the linker could give to another.

    An inline function compiled for AVX-512 and chosen by the linker for all would end older processors.
    """
    if name != "portable" and "x86" not in str(torch.cpu.get_capabilities().get("architecture", "")):
        pytest.skip("not an x86 processor")
    output = tmp_path / "kernel.o"
    flags = ["-std=c++20", "-O3", "-ffp-contract=off", "-fno-exceptions", "-fPIC", *FLAGS[name]]
    subprocess.run([compiler(), *flags, "-c", str(CSRC / f"{name}.cpp"), "-o", str(output)], check=True)

    symbols = subprocess.run(["nm", "-C", str(output)], capture_output=True, text=True, check=True).stdout
    shared = [line.split(maxsplit=2)[2] for line in symbols.splitlines() if re.match(r"\w+ [TWVBDu] ", line)]
    assert sorted(symbol.split("(")[0] for symbol in shared) == [
        f"cotbal::{kernel}_{name}" for kernel in ("elementwise", "row_pass")
    ]

    code = subprocess.run(["objdump", "-d", str(output)], capture_output=True, text=True, check=True).stdout
    fused = {register: len(re.findall(rf"vfn?madd\w+ps .*%{register}mm", code)) for register in "xyz"}
    if name == "portable":
        assert "%ymm" not in code
        assert "%zmm" not in code
    elif name == "avx2":
        assert fused["y"] > 50
        assert "%zmm" not in code
    else:
        assert fused["z"] > 50
