"""Threads: torch's number of them, the interpreter lock, fork and DataLoader workers."""

import subprocess
import sys
import textwrap
import threading
import time

import pytest
import torch

native = pytest.importorskip("cotbal_kernels.backends.native.backend")
if native.missing() is not None:
    pytest.skip(str(native.missing()), allow_module_level=True)
from cotbal_kernels.backends.native import _native  # noqa: E402


def in_fresh_process(script: str) -> str:
    """Forking belongs in a process of its own; a hang is a failure after a minute."""
    run = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return run.stdout.strip()


@pytest.mark.parametrize("columns", [7, 9001])
def test_any_number_of_threads_gives_the_same_bits(columns: int) -> None:
    logits = torch.randn(2000 if columns == 7 else 37, columns, generator=torch.Generator().manual_seed(0))
    targets = torch.randint(-1, columns, (len(logits),), generator=torch.Generator().manual_seed(1))
    results = []
    for threads in (1, 2, 3, 64):
        nll = torch.full((len(logits),), float("nan"))
        hits = torch.zeros(len(logits), dtype=torch.bool)
        gradient = torch.full_like(logits, float("nan"))
        _native.row_pass(logits, targets, None, gradient, None, 1.0, 0.0, nll, hits, threads, "")
        assert not gradient.isnan().any()
        results.append((nll, hits, gradient))
    for result in results[1:]:
        assert all(torch.equal(one, other) for one, other in zip(result, results[0], strict=True))


def test_threads_are_those_of_torch() -> None:
    """Found by name in the process, since nothing here links to it."""
    if "OpenMP" not in torch.__config__.parallel_info():
        pytest.skip("this torch is built without OpenMP")
    assert _native.thread_source() == "openmp"


def test_the_interpreter_lock_is_released() -> None:
    logits = torch.randn(256, 50_000)
    targets = torch.zeros(256, dtype=torch.int64)
    ticks: list[float] = []
    stop = threading.Event()

    def tick() -> None:
        while not stop.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.0005)

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    thread = threading.Thread(target=tick)
    thread.start()
    try:
        # The best of several: on a crowded machine the other thread may get no processor for a while.
        inside = 0
        for _ in range(10):
            start = time.perf_counter()
            native.BACKEND.row_pass(logits, targets)
            end = time.perf_counter()
            margin = 0.1 * (end - start)
            inside = max(inside, sum(start + margin < at < end - margin for at in list(ticks)))
    finally:
        stop.set()
        thread.join()
        torch.set_num_threads(before)
    assert inside >= 2


FORK = """
import os, torch
from cotbal_kernels.backends.native import _native
from cotbal_kernels.backends.native import backend as native_backend

torch.set_num_threads(2)
logits = torch.randn(64, 5000, generator=torch.Generator().manual_seed(0))
targets = torch.arange(64)
torch.mm(logits, logits.t())  # torch's workers exist
want, _ = native_backend.BACKEND.row_pass(logits, targets)
child = os.fork()
if child == 0:
    assert torch.get_num_threads() == 2
    assert _native.thread_source() == "std::thread"
    mine, _ = native_backend.BACKEND.row_pass(logits, targets)
    os._exit(0 if torch.equal(mine, want) else 1)
_, status = os.waitpid(child, 0)
assert status == 0, status
assert _native.thread_source() == "openmp"
print("same")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no fork on Windows")
def test_a_forked_child_with_two_threads_does_not_hang() -> None:
    """Its parent's OpenMP workers are gone in the child: threads of its own give the same bits."""
    assert in_fresh_process(FORK) == "same"


UNPREPARED = """
import os, torch
from cotbal_kernels.backends.native import _native
from cotbal_kernels.backends.native import backend as native_backend

torch.set_num_threads(2)
logits = torch.randn(64, 5000)
torch.mm(logits, logits.t())
child = os.fork()
if child == 0:
    assert _native.thread_source() == "std::thread"
    native_backend.BACKEND.row_pass(logits, torch.arange(64))
    os._exit(0)
_, status = os.waitpid(child, 0)
assert status == 0, status
print("done")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no fork on Windows")
def test_nor_does_one_whose_parent_has_never_called_a_kernel() -> None:
    assert in_fresh_process(UNPREPARED) == "done"


LOADER = """
import torch
from torch.utils.data import DataLoader, Dataset
from cotbal_kernels.backends.native import backend as native_backend

class Losses(Dataset):
    def __len__(self):
        return 6
    def __getitem__(self, index):
        logits = torch.randn(32, 9000, generator=torch.Generator().manual_seed(index))
        return native_backend.BACKEND.row_pass(logits, torch.arange(32), gradient=logits)[0]

torch.set_num_threads(2)
here = torch.stack([Losses()[index] for index in range(6)])
for _ in range(2):
    loaded = torch.cat(list(DataLoader(Losses(), batch_size=2, num_workers=2, multiprocessing_context="fork")))
    assert torch.equal(loaded, here)
    assert torch.equal(Losses()[3], here[3])
print("same")
"""


def test_data_loader_workers() -> None:
    assert in_fresh_process(LOADER) == "same"
