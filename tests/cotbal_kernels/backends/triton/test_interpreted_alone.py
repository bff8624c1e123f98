"""Interpreted kernels outside of this project's tests: a plain process with nothing but the environment variable."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from cotbal_kernels.backends.triton.interpreter import rounded_to_bfloat16

_PROGRAM = """
import torch, cotbal_kernels as ck

assert not any(entry.name == "triton" and not entry.available for entry in ck.implementations("cpu"))
generator = torch.Generator().manual_seed(0)
labels = torch.tensor([3, -100, 12, 0, 7])
for dtype in (torch.float32, torch.bfloat16):
    made = []
    for impl in ("triton", "torch"):
        generator.manual_seed(0)
        logits = torch.randn(5, 13, generator=generator).to(dtype).requires_grad_()
        out = ck.cross_entropy(logits, labels, reduction="sum", softcap=5.0, impl=impl)
        out.loss.backward()
        made.append((out.loss.detach(), logits.grad))
    # Sums in another order, and the gradient's one rounding.
    torch.testing.assert_close(made[0][0], made[1][0], rtol=1e-6, atol=0)
    torch.testing.assert_close(made[0][1], made[1][1], rtol=torch.finfo(dtype).eps, atol=1e-6)
print("agreed")
"""


def test_the_environment_variable_is_all_it_takes(tmp_path: Path) -> None:
    environment = {"TRITON_INTERPRET": "1", "PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == "agreed\n"


def test_without_it_the_kernels_are_for_gpus(tmp_path: Path) -> None:
    program = (
        "import cotbal_kernels as ck, sys; ck.implementations('cpu'); "
        "assert 'cotbal_kernels.backends.triton.interpreter' not in sys.modules"
    )
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", program], env=environment, cwd=tmp_path, check=True)


@given(st.lists(st.floats(width=32), min_size=1))
def test_rounding_is_torchs(values: list[float]) -> None:
    wanted = torch.tensor(values, dtype=torch.float32).bfloat16()
    found = rounded_to_bfloat16(np.array(values, np.float32))
    made = torch.from_numpy(found.view(np.int16)).view(torch.bfloat16)
    assert torch.equal(made.nan_to_num(nan=0.5), wanted.nan_to_num(nan=0.5))
