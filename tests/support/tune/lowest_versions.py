"""The lowest transformers, accelerate and peft that pyproject.toml allows, in a folder of their own.

`install(folder)` puts them there, with those of their dependencies whose installed versions do not suit them;
`environment(folder)` is what a process needs to take them instead of the installed ones; `outcomes(folder)` runs the
set-ups of `setups.CORE` with them.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path

from packaging.requirements import Requirement
from support.tune.run_setups import Outcome, run_on_ranks
from support.tune.setups import CORE, SETUPS

PACKAGES = ("transformers", "accelerate", "peft")
UNREACHABLE = (
    "NewConnectionError",
    "NameResolutionError",
    "ConnectTimeoutError",
    "ReadTimeoutError",
    "ProxyError",
    "Network is unreachable",
    "Connection refused",
)


class IndexUnreachable(Exception):
    """pip could not talk to the package index."""


def lowest() -> dict[str, str]:
    """The lower bounds of pyproject.toml, by package."""
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["peft"]]
    bounds = dict(re.fullmatch(r"([a-z]+)>=([\d.]+)", line).groups() for line in lines if _named(line))  # type: ignore[union-attr]
    return {name: bounds[name] for name in PACKAGES}


def _named(line: str) -> bool:
    return re.split(r"[<>=]", line)[0] in PACKAGES


def install(cache: Path) -> Path:
    """The folder with the lowest versions, made inside `cache` unless it is there.

    Raises:
        IndexUnreachable: there is no connection to the package index.
    """
    wanted = [f"{name}=={number}" for name, number in lowest().items()]
    key = hashlib.sha256(f"{wanted} {sys.version} {version('transformers')}".encode()).hexdigest()[:12]
    folder = cache / key
    if folder.is_dir():
        return folder
    making = cache / f"{key}.{os.getpid()}"
    while wanted:
        _pip(making, wanted)
        wanted = _unsuited(making)
    try:
        making.rename(folder)
    except OSError:  # another process was quicker
        shutil.rmtree(making)
    return folder


def _pip(folder: Path, wanted: list[str]) -> None:
    options = ["--no-deps", "--quiet", "--disable-pip-version-check", "--retries", "1", "--timeout", "30"]
    job = [sys.executable, "-m", "pip", "install", *options, "--target", str(folder), *wanted]
    done = subprocess.run(job, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        if any(word in done.stdout + done.stderr for word in UNREACHABLE):
            raise IndexUnreachable(f"the package index cannot be reached: {done.stderr.strip()[-300:]}")
        raise RuntimeError(f"pip install {' '.join(wanted)} failed:\n{done.stderr[-3000:]}")


def _unsuited(folder: Path) -> list[str]:
    """What the packages in `folder` need and neither it nor the environment has."""
    there = {d.metadata["Name"].lower().replace("_", "-"): d for d in distributions(path=[str(folder)])}
    missing = set()
    for package in there.values():
        for line in package.requires or []:
            needed = Requirement(line)
            name = needed.name.lower().replace("_", "-")
            if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
                continue
            try:
                found = there[name].version if name in there else version(name)
            except PackageNotFoundError:
                found = None
            if found is None or not needed.specifier.contains(found, prereleases=True):
                missing.add(f"{needed.name}{needed.specifier}")
    return sorted(missing)


def environment(folder: Path) -> dict[str, str]:
    """Variables of a process that shall use the packages in `folder`."""
    paths = [str(folder), *([os.environ["PYTHONPATH"]] if "PYTHONPATH" in os.environ else [])]
    return {"PYTHONPATH": os.pathsep.join(paths)}


def outcomes(folder: Path) -> dict[str, Outcome]:
    """The outcomes of the set-ups of `CORE` with the lowest versions, by name."""
    found: dict[str, Outcome] = {}
    for ranks in (1, 2):
        names = [setup.name for setup in SETUPS if setup.name in CORE and setup.ranks == ranks]
        found |= {o.name: o for o in run_on_ranks(names, ranks, extra=environment(folder))}
    return {name: found[name] for name in CORE}
