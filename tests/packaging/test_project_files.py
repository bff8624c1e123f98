"""What stands about the project beside its code says the same everywhere."""

from __future__ import annotations

import re
import tomllib

import yaml
from support.kernels.native_builds import CSRC, ROOT

import cotbal

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_one_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert PROJECT["version"] == citation["version"] == cotbal.__version__
    assert PROJECT["license"] == citation["license"]


def test_the_oldest_python_is_the_one_that_the_tools_check_for():
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    oldest = PROJECT["requires-python"].removeprefix(">=")
    assert tools["mypy"]["python_version"] == oldest
    assert tools["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"
    assert f"Programming Language :: Python :: {oldest}" in PROJECT["classifiers"]


def test_pre_commit_runs_what_make_lint_runs():
    """The same commands in the same order; clang-format gets its files as arguments in both."""
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    wanted = [
        line.strip().replace("$(BIN)", ".venv/bin").partition(" $(wildcard")[0]
        for line in recipe[1].splitlines()
    ]
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    hooks = repository["hooks"]
    assert [hook["entry"] for hook in hooks] == wanted
    pattern = re.compile(next(hook["files"] for hook in hooks if hook["id"] == "clang-format"))
    sources = [path.relative_to(ROOT).as_posix() for path in CSRC.glob("*.?pp")]
    assert sources
    assert all(pattern.match(source) for source in sources)
