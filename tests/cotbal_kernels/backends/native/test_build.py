"""Installing: from an sdist into a clean environment, editable, and without a compiler."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support.kernels.native_builds import ROOT, needs_compiler, run
from support.packaging import wheels
from support.packaging.wheels import copy_sources, pip

# Runs anywhere but in the source tree; prints where the package came from and what it says of itself.
PROBE = """
import torch, cotbal_kernels as ck
from cotbal_kernels.backends.native import backend as native_backend

hidden = torch.randn(6, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
weight = torch.randn(11, 8, generator=torch.Generator().manual_seed(1))
labels = torch.tensor([1, -100, 3, 10, -100, 0])
losses = {}
for impl in ("torch", "native", "auto"):
    try:
        losses[impl] = ck.linear_cross_entropy(hidden, weight, labels, impl=impl).loss.item()
    except RuntimeError as error:
        losses[impl] = str(error)
print(ck.__file__)
print(native_backend.missing())
print(losses)
"""


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_sources(tmp_path_factory.mktemp("sources"))


def environment(folder: Path) -> Path:
    """The Python of a virtual environment that has this one's packages, and nothing of this project."""
    return wheels.environment(folder, *wheels.packages_of_this_environment())[0]


def probe(python: Path, elsewhere: Path) -> list[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return run([python, "-c", PROBE], cwd=elsewhere, env=clean).strip().splitlines()


@needs_compiler
@pytest.mark.slow
def test_sdist_to_wheel_to_clean_environment(sources: Path, tmp_path: Path) -> None:
    """The wheel is built from the sdist in pip's own isolated environment, as a user's pip does it."""
    run([sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", tmp_path, sources])
    (sdist,) = tmp_path.glob("*.tar.gz")
    pip("wheel", "--no-deps", "--wheel-dir", tmp_path, sdist)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert (
        sum(
            name.startswith("cotbal_kernels/backends/native/_native.") and name.endswith(".so")
            for name in names
        )
        == 1
    )
    assert "cotbal_kernels/py.typed" in names
    assert not [name for name in names if "csrc" in name or name.startswith("tests")]

    python = environment(tmp_path / "clean")
    pip("--python", python, "install", "--no-deps", wheel)
    where, missing, losses = probe(python, tmp_path)
    assert where.startswith(str(tmp_path / "clean"))
    assert missing == "None"
    values = eval(losses)
    assert values["native"] == pytest.approx(values["torch"], rel=1e-6)
    assert values["auto"] == values["native"]


@pytest.mark.slow
def test_without_a_compiler_it_installs_and_says_so(sources: Path, tmp_path: Path) -> None:
    log = pip(
        "wheel", "-v", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, sources, CXX="/no/c++"
    )
    assert "installing without the native CPU kernels" in log
    (wheel,) = tmp_path.glob("*.whl")
    assert not [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".so")]

    python = environment(tmp_path / "clean")
    pip("--python", python, "install", "--no-deps", wheel)
    where, missing, losses = probe(python, tmp_path)
    assert where.startswith(str(tmp_path / "clean"))
    assert "no working C++ compiler was found" in missing
    values = eval(losses)
    assert "no working C++ compiler was found" in values["native"]
    assert values["auto"] == values["torch"]


@needs_compiler
@pytest.mark.slow
def test_editable(sources: Path, tmp_path: Path) -> None:
    """Python from the source tree, the extension from the environment, also when run inside the tree."""
    python = environment(tmp_path / "developer")
    pip("--python", python, "install", "--no-deps", "--no-build-isolation", "--editable", sources)
    for folder in (tmp_path, sources):
        where, missing, _ = probe(python, folder)
        assert where == str(sources / "cotbal_kernels" / "__init__.py")
        assert missing == "None"


def test_asking_for_the_kernels_makes_their_absence_an_error(tmp_path: Path) -> None:
    command = ["cmake", "-S", str(ROOT), "-B", str(tmp_path), "-DCOTBAL_NATIVE=ON"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"CXX": "/no/c++"})
    assert done.returncode != 0
    assert "cannot be built: no working C++ compiler was found" in " ".join(done.stderr.split())


def test_leaving_the_kernels_out(tmp_path: Path) -> None:
    run(["cmake", "-S", ROOT, "-B", tmp_path, "-DCOTBAL_NATIVE=OFF"])
    assert "COTBAL_NATIVE=OFF" in (tmp_path / "_native_missing.txt").read_text()
