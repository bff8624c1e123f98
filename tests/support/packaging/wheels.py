"""Wheels of this project, and environments that hold what a user's would."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from support.kernels.native_builds import ROOT, run


def copy_sources(folder: Path) -> Path:
    """What a release holds, copied into `folder`: the tracked files and the new ones git does not ignore."""
    listed = run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT)
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file() and not name.startswith(("tests/", "benchmarks/")):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)
    return folder


def pip(*words: str | Path, **environ: str) -> str:
    """What pip printed; it must succeed."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *words]
    return run(command, env=os.environ | environ)


def build_wheel(folder: Path) -> Path:
    """A wheel without the native extension: it takes a minute to compile, and types and imports do not need it."""
    sources = copy_sources(folder / "sources")
    options = ["--no-deps", "--no-build-isolation", "--config-settings=cmake.define.COTBAL_NATIVE=OFF"]
    pip("wheel", *options, "--wheel-dir", folder, sources)
    (wheel,) = folder.glob("*.whl")
    return wheel


def environment(folder: Path, *lines: str) -> tuple[Path, Path]:
    """A virtual environment with a .pth file of these lines; its Python and its folder of packages."""
    run([sys.executable, "-m", "venv", "--without-pip", folder])
    python = folder / "bin" / "python"
    site = Path(run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip())
    (site / "dependencies.pth").write_text("".join(f"{line}\n" for line in lines))
    return python, site


def packages_of_this_environment() -> list[str]:
    """Folders of installed packages, for `environment`: it then has this one's, and nothing of this project.

    A path named in a .pth file is searched, but the .pth files in it, an editable install's say, are not run.
    """
    return [path for path in sys.path if path.endswith("site-packages")]


def environment_with(folder: Path, requirements: Iterable[str]) -> Path:
    """The Python of an environment with these installed packages, what they need, and nothing else."""
    python, site = environment(folder)
    for package in _closure(requirements):
        for file in package.files or []:
            top = file.parts[0]
            if top not in ("..", "__pycache__") and not (site / top).exists():
                (site / top).symlink_to(Path(str(package.locate_file(top))))
    return python


def _closure(requirements: Iterable[str]) -> list[Distribution]:
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [Requirement(line) for line in requirements]
    while waiting:
        requirement = waiting.pop()
        for extra in ("", *requirement.extras):
            key = (canonicalize_name(requirement.name), extra)
            if key in seen:
                continue
            seen.add(key)
            try:
                package = found.setdefault(key[0], distribution(requirement.name))
            except PackageNotFoundError:
                raise RuntimeError(
                    f"{requirement} is not installed here, so no environment can hold it"
                ) from None
            for line in package.requires or []:
                needed = Requirement(line)
                if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                    waiting.append(needed)
    return list(found.values())
