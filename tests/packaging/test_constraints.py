"""What constraints.txt pins can be installed together, as the package index describes it; nothing is downloaded."""

from __future__ import annotations

import json
import tomllib
from importlib.metadata import version

import pytest
from packaging.requirements import Requirement
from support.kernels.native_builds import ROOT
from support.packaging.index import IndexUnreachable, run_pip, stand_in

pytestmark = pytest.mark.slow


def requirements() -> list[str]:
    """All that `make env` installs, with the extras of this project that the extra `dev` names unfolded."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found: list[str] = list(project["dependencies"])
    waiting, seen = ["dev"], set()
    while waiting:
        extra = waiting.pop()
        if extra in seen:
            continue
        seen.add(extra)
        for line in project["optional-dependencies"][extra]:
            requirement = Requirement(line)
            if requirement.name == "cotbal":
                waiting += requirement.extras
            else:
                found.append(line)
    return found


def resolved(tmp_path, *options) -> dict[str, str]:
    """Versions by package, as pip would install them in an empty environment."""
    report = tmp_path / "report.json"
    dry = [
        "install",
        "--dry-run",
        "--ignore-installed",
        "--quiet",
        "--only-binary",
        ":all:",
        "--report",
        report,
    ]
    constraints = ["--constraint", ROOT / "constraints.txt"]
    try:
        run_pip(*dry, *constraints, *options, *requirements(), local_wheels=False)
    except IndexUnreachable as error:
        pytest.skip(str(error))
    packages = [entry["metadata"] for entry in json.loads(report.read_text())["install"]]
    return {entry["name"].lower().replace("_", "-"): entry["version"] for entry in packages}


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if "==" in line]
    return {name.lower().replace("_", "-"): number for name, number in pairs}


def test_with_the_build_for_gpus(tmp_path):
    """torch as PyPI has it, which needs one version of Triton and CUDA's libraries."""
    found = resolved(tmp_path)
    assert found["torch"] == pins()["torch"]
    assert found["triton"] == pins()["triton"]
    assert any(name.startswith("nvidia-") for name in found)
    loose = {name for name in found if name not in pins() and not name.startswith(("nvidia-", "cuda-"))}
    assert loose <= {"setuptools", "pip"}, "not pinned"


def test_with_the_build_for_cpus(tmp_path):
    """The torch of the CPU index, whose metadata the installed one has."""
    if not version("torch").endswith("+cpu"):
        pytest.skip("the installed torch is not the build for CPUs, and its index has no metadata to ask for")
    stand_in(tmp_path, "torch", with_requirements=True)
    found = resolved(tmp_path, "--find-links", tmp_path)
    assert found["torch"] == version("torch")
    assert found["triton"] == pins()["triton"]
    assert not any(name.startswith("nvidia-") for name in found)
