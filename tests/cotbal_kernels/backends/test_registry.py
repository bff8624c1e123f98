"""Which implementation runs, and what happens when the one named cannot."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

import cotbal_kernels as ck
from cotbal_kernels.backends import registry


def test_every_implementation_is_listed_with_a_reason_where_it_cannot_run() -> None:
    for device in ("cpu", "cuda"):
        for dtype in (torch.float64, torch.float32, torch.bfloat16):
            listed = ck.implementations(device, dtype)
            assert [entry.name for entry in listed] == ["triton", "native", "torch"]
            for entry in listed:
                assert entry.available == (entry.reason is None)
            assert listed[-1].available


def test_a_named_implementation_never_falls_back() -> None:
    hidden, weight = torch.zeros(1, 2, dtype=torch.float64), torch.zeros(3, 2, dtype=torch.float64)
    labels = torch.tensor([1])
    unavailable = [entry for entry in ck.implementations("cpu", torch.float64) if not entry.available]
    assert unavailable, "no implementation lacks float64 on the CPU: the test needs another case"
    for entry in unavailable:
        with pytest.raises(RuntimeError, match=f"impl='{entry.name}' cannot run on cpu with torch.float64"):
            ck.linear_cross_entropy(hidden, weight, labels, impl=entry.name)
        with pytest.raises(RuntimeError, match="runnable here: 'torch'"):
            ck.cross_entropy(weight, torch.tensor([0, 1, -100]), impl=entry.name)


def test_auto_takes_the_native_one_where_it_can() -> None:
    chosen = registry.resolve("auto", torch.device("cpu"), torch.float32)
    native = next(entry for entry in ck.implementations("cpu", torch.float32) if entry.name == "native")
    assert chosen.name == ("native" if native.available else "torch")
    assert registry.resolve("auto", torch.device("cpu"), torch.float64).name == "torch"


def test_an_installation_without_a_module_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._MODULES, "native", "cotbal_kernels.no_such_module")
    listed = {entry.name: entry for entry in ck.implementations("cpu")}
    assert listed["native"].reason == "this installation has no cotbal_kernels.no_such_module"
    out = ck.cross_entropy(torch.zeros(1, 4), torch.tensor([0]))
    assert out.loss.item() == pytest.approx(torch.tensor(4.0).log().item())


def test_a_broken_module_is_not_mistaken_for_a_missing_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> SimpleNamespace:
        raise ModuleNotFoundError("No module named 'something_it_needs'", name="something_it_needs")

    registry._imported.cache_clear()
    monkeypatch.setattr(registry.importlib, "import_module", broken)
    with pytest.raises(ModuleNotFoundError, match="something_it_needs"):
        ck.implementations("cpu")


BLOCKED = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        allowed = name.split(".")[0]
        if allowed in {"numpy", "triton", "transformers", "accelerate", "cotbal", "scipy", "nanobind"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refuse())
import warnings
warnings.filterwarnings("ignore")
import torch
import cotbal_kernels as ck
from cotbal_kernels.backends import registry

hidden = torch.ones(2, 3, requires_grad=True)
out = ck.linear_cross_entropy(hidden, torch.ones(5, 3), torch.tensor([1, -100]), impl="torch")
out.loss.backward()
assert abs(out.loss.item() - 1.6094379) < 1e-6
names = {entry.name: entry.reason for entry in ck.implementations("cpu")}
assert names["triton"] is not None
try:
    ck.reference
except ModuleNotFoundError as error:
    assert "numpy" in str(error)
else:
    raise AssertionError("the oracle ran without NumPy")
"""


def test_torch_is_all_it_needs() -> None:
    """In a fresh process with NumPy, Triton and everything else out of reach."""
    done = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_changes_no_state() -> None:
    script = (
        "import torch; "
        "state = lambda: (torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled(), "
        "torch.is_anomaly_enabled(), torch.random.initial_seed()); torch.manual_seed(1); before = state(); "
        "import cotbal_kernels; assert state() == before; import sys; "
        "assert not {'triton', 'cotbal_kernels.backends.native._native', 'cotbal'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
