"""AddressSanitizer and UndefinedBehaviorSanitizer over the native path, driven by Hypothesis."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.kernels.native_builds import EMULATION, ROOT, build_extension, compiler, needs_compiler, run

pytestmark = [needs_compiler, pytest.mark.slow]
CALLS = ROOT / "tests" / "cotbal_kernels" / "backends" / "native" / "sanitized_calls.py"


@pytest.fixture(scope="module")
def extension(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All instruction sets, AVX-512 over plain loops so that every processor can run it."""
    library = run([compiler(), "-print-file-name=libasan.so"]).strip()
    if not Path(library).is_file():
        pytest.skip("this compiler came without libasan")
    folder = tmp_path_factory.mktemp("sanitized")
    return build_extension(folder, "-DCOTBAL_SANITIZE=ON", f"-DCOTBAL_AVX512_EMULATION={EMULATION}")


def sanitized(*words: str | Path) -> subprocess.CompletedProcess[str]:
    preload = [run([compiler(), f"-print-file-name=lib{name}.so"]).strip() for name in ("asan", "ubsan")]
    environ = os.environ | {
        "LD_PRELOAD": " ".join(preload),
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0:exitcode=99",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1:exitcode=99",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "PYTHONMALLOC": "malloc",
    }
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=environ, timeout=3 * 3600)


def test_the_sanitizers_watch(extension: Path) -> None:
    """The extension is instrumented, and a read past an allocation in such a process ends it."""
    symbols = run(["nm", "-D", extension])
    assert "__asan_report_load4" in symbols or "__asan_report_load_n" in symbols
    assert "__ubsan_handle" in symbols
    past_the_end = (
        "import ctypes; block = ctypes.create_string_buffer(10_000); ctypes.string_at(block, 20_000)"
    )
    done = sanitized("-c", past_the_end)
    assert done.returncode == 99
    assert "heap-buffer-overflow" in done.stderr


@pytest.mark.parametrize("calls", [300, pytest.param(10_000, marks=pytest.mark.soak)])
def test_no_finding(extension: Path, calls: int) -> None:
    done = sanitized(CALLS, extension, str(calls))
    assert done.returncode == 0, done.stderr[-4000:]
    made = eval(done.stdout)
    assert set(made) == {"portable", "avx2", "avx512"}
    assert sum(made.values()) >= calls
    assert "runtime error" not in done.stderr
