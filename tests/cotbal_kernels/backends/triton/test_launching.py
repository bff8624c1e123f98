"""Whether the Triton kernels can run, and what their launchers refuse; no kernel runs here."""

import subprocess
import sys
from typing import Any

import pytest
import torch
import triton

import cotbal_kernels as ck
from cotbal_kernels.backends.triton.backend import BACKEND as triton_backend

CPU = torch.device("cpu")


def test_says_why_it_cannot_run() -> None:
    assert "not torch.float64" in str(triton_backend.unavailable(CPU, torch.float64))
    if not triton.knobs.runtime.interpret:
        assert triton_backend.unavailable(CPU, torch.float32) == "the Triton kernels run on GPUs, not on cpu"
    assert "not on meta" in str(triton_backend.unavailable(torch.device("meta"), torch.float32))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_no_gpu() -> None:
    assert triton_backend.unavailable(torch.device("cuda"), torch.float32) == "torch finds no GPU here"


def test_named_where_it_cannot_run_it_raises() -> None:
    if triton.knobs.runtime.interpret:
        pytest.skip("the interpreter runs on CPU tensors")
    with pytest.raises(RuntimeError, match="impl='triton' cannot run on cpu"):
        ck.cross_entropy(torch.zeros(2, 3), torch.tensor([0, 1]), impl="triton")


def test_the_interpreter_is_never_chosen_by_auto() -> None:
    assert not triton_backend.automatic(CPU)
    assert triton_backend.automatic(torch.device("cuda"))


def test_triton_is_imported_when_asked_for() -> None:
    code = (
        "import sys, cotbal_kernels.backends.triton.backend\n"
        "assert 'cotbal_kernels.backends.triton.kernels' not in sys.modules\n"
        "assert 'cotbal_kernels.backends.triton.row_kernel' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


GOOD: dict[str, Any] = {"logits": torch.zeros(3, 8), "targets": torch.zeros(2, dtype=torch.int64)}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"logits": torch.zeros(3, 8, dtype=torch.float64)}, "logits has dtype torch.float64"),
        ({"logits": torch.zeros(8)}, r"logits has shape \(8,\)"),
        ({"logits": torch.zeros(3, 0)}, r"logits has shape \(3, 0\)"),
        ({"logits": torch.zeros(8, 3).t()}, "unit column stride"),
        ({"targets": torch.zeros(2, dtype=torch.int32)}, "targets is torch.int32"),
        ({"targets": torch.zeros(4, dtype=torch.int64)}, r"targets is torch.int64 \(4,\) for 3 rows"),
        ({"rows": torch.zeros(3, dtype=torch.int64)}, r"rows is torch.int64 \(3,\)"),
        ({"rows": torch.zeros(2)}, "rows is torch.float32"),
        ({"gradient": torch.zeros(3, 8, dtype=torch.bfloat16)}, "gradient is torch.bfloat16"),
        ({"gradient": torch.zeros(2, 8)}, r"gradient is torch.float32 \(2, 8\)"),
        ({"gradient": torch.zeros(8, 3).t()}, "gradient is .* unit column stride"),
        ({"row_scale": torch.zeros(3)}, r"row_scale has shape \(3,\)"),
        ({"targets": torch.zeros(2, dtype=torch.int64, device="meta")}, "targets is on meta"),
    ],
)
def test_refuses_what_it_would_misread(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        triton_backend.row_pass(**(GOOD | changed))
