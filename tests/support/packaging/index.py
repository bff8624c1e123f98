"""pip and the package index, and stand-ins for packages that are too large to fetch."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from importlib.metadata import requires, version
from pathlib import Path

UNREACHABLE = (
    "NewConnectionError",
    "NameResolutionError",
    "ConnectTimeoutError",
    "ReadTimeoutError",
    "ProxyError",
    "Network is unreachable",
    "Connection refused",
    "is not reachable",
)


class IndexUnreachable(Exception):
    """pip could not talk to the package index."""


def run_pip(*words: str | Path, local_wheels: bool = True) -> str:
    """What pip printed.

    Args:
        local_wheels: whether pip may take packages from folders that this machine's configuration names; without
            them it asks the index alone, PIP_INDEX_URL or else PyPI.

    Raises:
        IndexUnreachable: there is no connection to the package index.
        RuntimeError: pip failed otherwise; the message has the end of what it said.
    """
    environment = dict(os.environ)
    if not local_wheels:
        for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_CONSTRAINT", "PIP_NO_INDEX"):
            environment.pop(name, None)
        environment["PIP_CONFIG_FILE"] = os.devnull
    options = ["--disable-pip-version-check", "--no-input", "--retries", "1", "--timeout", "30"]
    job = [sys.executable, "-m", "pip", *map(str, words), *options]
    done = subprocess.run(job, capture_output=True, text=True, check=False, env=environment)
    if done.returncode == 0:
        return done.stdout
    told = done.stdout + done.stderr
    if any(word in told for word in UNREACHABLE):
        raise IndexUnreachable(f"the package index cannot be reached: {done.stderr.strip()[-300:]}")
    raise RuntimeError(f"pip {' '.join(map(str, words[:2]))} failed:\n{told[-3000:]}")


def stand_in(folder: Path, name: str, *, with_requirements: bool) -> Path:
    """A wheel without contents that pip takes for the installed package `name`, written into `folder`.

    With `with_requirements` it needs what the installed package needs, else nothing.
    """
    number = version(name)
    needed: Iterable[str] = (requires(name) or []) if with_requirements else []
    info = f"{name}-{number}.dist-info"
    files = {
        f"{info}/METADATA": "\n".join(
            ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {number}"]
            + [f"Requires-Dist: {line}" for line in needed]
        )
        + "\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])
    path = folder / f"{name}-{number}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
    return path
