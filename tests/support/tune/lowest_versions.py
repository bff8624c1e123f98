"""The lowest versions that pyproject.toml allows of what cotbal runs on, in a folder of their own.

`install(folder)` puts them there with what they need, as pip chooses it; `environment(folder)` makes a process take
them instead of the installed ones; `outcomes(folder)` runs the set-ups of `WITH_LOWEST` with them. torch stays as it
is installed: its builds take gigabytes.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
import tomllib
from importlib.metadata import version
from pathlib import Path

from packaging.requirements import Requirement
from support.packaging.index import run_pip, stand_in
from support.tune.run_setups import Outcome, run_on_ranks
from support.tune.setups import CORE, SETUPS

ROOT = Path(__file__).parents[3]
EXTRAS = ("train", "report", "demo", "peft")
# Families that only a newer transformers computes the loss of as the task weights need it; before, they are refused.
NEED_NEWER = {"gemma3": "5.17"}
WITH_LOWEST = tuple(name for name in CORE if name not in NEED_NEWER)
# Newer Pythons have no wheels of packages as old as the lowest versions.
NEWEST_PYTHON = (3, 12)


def lowest() -> dict[str, str]:
    """The lower bounds of pyproject.toml, by package: of its dependencies and of `EXTRAS`, without torch's."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [
        *project["dependencies"],
        *(line for e in EXTRAS for line in project["optional-dependencies"][e]),
    ]
    bounds: dict[str, str] = {}
    for requirement in map(Requirement, lines):
        if requirement.name not in ("torch", "cotbal"):
            (bound,) = requirement.specifier
            if bound.operator != ">=":
                raise ValueError(f"pyproject.toml has {requirement}; a lower bound alone is expected")
            bounds[requirement.name] = bound.version
    return bounds


def install(cache: Path) -> Path:
    """The folder with the lowest versions, made inside `cache` unless it is there.

    Raises:
        IndexUnreachable: there is no connection to the package index.
    """
    wanted = [f"{name}=={number}" for name, number in lowest().items()]
    key = hashlib.sha256(f"{wanted} {sys.version} {version('torch')}".encode()).hexdigest()[:12]
    folder = cache / key
    if folder.is_dir():
        return folder
    making = cache / f"{key}.{os.getpid()}"
    with tempfile.TemporaryDirectory() as wheels:
        torch = stand_in(Path(wheels), "torch", with_requirements=False)
        options = ["--quiet", "--only-binary", ":all:", "--target", making]
        run_pip("install", *options, torch, *wanted)
    shutil.rmtree(making / f"torch-{version('torch')}.dist-info")
    try:
        making.rename(folder)
    except OSError:  # another process was quicker
        shutil.rmtree(making)
    return folder


def environment(folder: Path) -> dict[str, str]:
    """Variables of a process that shall use the packages in `folder`."""
    paths = [str(folder), *([os.environ["PYTHONPATH"]] if "PYTHONPATH" in os.environ else [])]
    return {"PYTHONPATH": os.pathsep.join(paths)}


def outcomes(folder: Path) -> dict[str, Outcome]:
    """The outcomes of the set-ups of `WITH_LOWEST` with the lowest versions, by name."""
    found: dict[str, Outcome] = {}
    for ranks in (1, 2):
        names = [setup.name for setup in SETUPS if setup.name in WITH_LOWEST and setup.ranks == ranks]
        found |= {o.name: o for o in run_on_ranks(names, ranks, extra=environment(folder))}
    return {name: found[name] for name in WITH_LOWEST}
