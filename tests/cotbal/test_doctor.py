"""The doctor: what it says of this machine is so."""

from importlib import metadata

import pytest
import torch
from rich.console import Console

import cotbal_kernels as ck
from cotbal import __version__
from cotbal.doctor import devices, examine, packages
from cotbal_kernels.backends.native import backend as native_backend


def shown() -> str:
    console = Console(width=200, record=True, file=None, quiet=False)
    with console.capture() as capture:
        console.print(examine())
    return capture.get()


def test_packages_and_versions_are_those_installed() -> None:
    found = {package.name: package.version for package in packages()}
    assert found["cotbal"] == __version__
    assert found["torch"] == metadata.version("torch")
    assert found["numpy"] == metadata.version("numpy")


def test_a_missing_package_is_said_to_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    original = metadata.version

    def without_peft(name: str) -> str:
        if name == "peft":
            raise metadata.PackageNotFoundError(name)
        return original(name)

    monkeypatch.setattr(metadata, "version", without_peft)
    line = next(line for line in shown().splitlines() if " peft" in line)
    assert "not installed" in line
    assert "LoRA" in line


def test_the_cpu_is_always_there() -> None:
    assert devices()[0] == torch.device("cpu")


def test_every_implementation_is_listed_with_its_reason() -> None:
    text = " ".join(shown().split())
    for found in ck.implementations("cpu", torch.float32):
        assert found.name in text
        if not found.available:
            assert str(found.reason) in text
    assert "runs, used by default" in text
    for dtype in (torch.float32, torch.bfloat16):
        (native,) = [found for found in ck.implementations("cpu", dtype) if found.name == "native"]
        if native.available:
            assert f"native runs, used by default ({native_backend.instruction_set()})" in text
