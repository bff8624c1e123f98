"""Runs the kernel tests of this room on the CPU, under Triton's interpreter, in a process of their own."""

import re
from pathlib import Path

import pytest
from triton_interpreter import run_tests

_ROOM = Path(__file__).resolve().parent / "kernels"
_FILES = sorted(path.name for path in _ROOM.glob("test_*.py"))


@pytest.mark.parametrize("name", _FILES)
def test_kernels_interpreted(name: str) -> None:
    status, output = run_tests([str(_ROOM / name)])
    assert status == 0, output[-6000:]
    passed = re.search(r"(\d+) passed", output)
    assert passed is not None, output[-2000:]
    assert int(passed[1]) > 0
    assert "skipped" not in output, output[-2000:]
