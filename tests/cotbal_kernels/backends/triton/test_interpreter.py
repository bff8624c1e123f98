"""Runs the kernel tests of this room on the CPU, under Triton's interpreter, in a process of their own.

With them runs the contract that every implementation is held to: a part of it each time, all of it in `make soak`.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from support.kernels.triton_interpreter import run_tests

_ROOM = Path(__file__).resolve().parent / "kernels"
_FILES = sorted(path.name for path in _ROOM.glob("test_*.py"))
_CONTRACT = str(_ROOM.parents[2] / "test_contract.py")
# A minute of work each, but many tests in one, and other work beside it.
pytestmark = pytest.mark.timeout(3000)


def passed(arguments: Sequence[str], seconds: float | None = 2900) -> int:
    """How many tests passed in the child; fails with its output unless all did."""
    status, output = run_tests(arguments, seconds)
    assert status == 0, output[-6000:]
    count = re.search(r"(\d+) passed", output)
    assert count is not None, output[-2000:]
    return int(count[1])


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here: the same tests run on it, marked gpu")
@pytest.mark.parametrize("name", _FILES)
def test_kernels_interpreted(name: str) -> None:
    assert passed([str(_ROOM / name)]) >= 5


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here: the same tests run on it, marked gpu")
@pytest.mark.parametrize("part", ["contiguous and none", "sliced and mean"])
def test_contract_interpreted(part: str) -> None:
    # Two functions, three dtypes; float64 is not one of them.
    assert passed([_CONTRACT, "-k", f"test_every_layout and triton and cpu and {part}"]) == 6


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_whole_contract_interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPOTHESIS_PROFILE", "quick")
    assert passed([_CONTRACT, "-k", "triton and cpu", "--timeout", "0"], seconds=None) == 62
