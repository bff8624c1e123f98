"""What a type checker tells a user who has installed the wheel: a type for every public name."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.packaging import wheels

import cotbal
from cotbal.tune.sft import TaskBalancedSFTTrainer

pytestmark = pytest.mark.slow

MODULES = ("cotbal", "cotbal.tune", "cotbal.data", "cotbal.metrics", "cotbal.strategies", "cotbal_kernels")
# Where a type does not exist: shapes of arrays, what numpy takes for one, a batch's values, transformers' processors
# and tokenizers, which share no class, and options that are handed on to transformers.
UNTYPED = (
    r"numpy\.ndarray\[tuple\[Any, \.\.\.\]",
    r"numpy\.dtype\[Any\]",
    r"(?:typing\.Mapping|dict)\[str, Any\]",
    r"processor: Any",
    r"\*\*(?:trainer_)?options: Any",
)
# The handle's forward passes on what the model's takes and returns.
UNTYPED_ATTRIBUTES = {"BalanceHandle.run", "TaskCollator.processor", "PromptCollator.processor"}


def public_names() -> list[str]:
    names = [f"{module}.{name}" for module in MODULES for name in importlib.import_module(module).__all__]
    return [*names, "cotbal.TaskBalancedSFTTrainer"]


def attributes(kind: type) -> list[str]:
    """The public attributes that a class of ours adds to what it inherits from others."""
    ours = [base for base in kind.__mro__ if base.__module__.split(".")[0] in ("cotbal", "cotbal_kernels")]
    others = {name for base in kind.__mro__ if base not in ours for name in dir(base)}
    found = {name for base in ours for name in (*vars(base), *inspect.get_annotations(base))}
    return sorted(name for name in found - others if not name.startswith("_"))


def lookups() -> dict[str, str]:
    """Python lines that reveal the type of a public name or attribute, by its name."""
    lines = {name: f"reveal_type({name})" for name in public_names()}
    for name in public_names():
        value = importlib.import_module(name.rpartition(".")[0])
        kind = getattr(value, name.rpartition(".")[2])
        if inspect.isclass(kind):
            for attribute in attributes(kind):
                lines[f"{kind.__name__}.{attribute}"] = (
                    f"def _(value: {name}) -> None: reveal_type(value.{attribute})"
                )
    return lines


@pytest.fixture(scope="module")
def check(wheel: Path, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config):
    """A function that gives what mypy says of a user's file, with the wheel and its dependencies installed."""
    folder = tmp_path_factory.mktemp("user")
    python, site = wheels.environment(folder / "environment", *wheels.packages_of_this_environment())
    wheels.pip("install", "--no-deps", "--target", site, wheel)
    cache = pytestconfig.cache.mkdir("mypy-user")  # type: ignore[union-attr]

    def checked(text: str) -> list[str]:
        file = folder / "users_file.py"
        file.write_text(text)
        command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-error-summary"]
        command += ["--cache-dir", str(cache), "--python-executable", str(python), file.name]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=800)
        assert done.returncode in (0, 1), done.stdout + done.stderr
        return done.stdout.splitlines()

    return checked


def test_every_public_name_has_a_type(check):
    wanted = lookups()
    head = [*(f"import {module}" for module in MODULES), "from typing import reveal_type"]
    told = check("\n".join([*head, *wanted.values()]) + "\n")
    revealed = [line for line in told if "Revealed type is" in line]
    assert [line for line in told if "error:" in line] == []
    assert len(revealed) == len(wanted)
    untyped = {
        name: line
        for name, line in zip(wanted, revealed, strict=True)
        if name not in UNTYPED_ATTRIBUTES and re.search(r"\bAny\b", re.sub("|".join(UNTYPED), "", line))
    }
    assert untyped == {}


def test_a_users_script(check):
    text = (Path(__file__).parent / "users_script.py").read_text()
    assert check(text) == []


@pytest.mark.parametrize(
    "mistake",
    [
        "cotbal.blance",
        "cotbal.balance(torch.nn.Linear(1, 1), 'vqa')",
        "cotbal.tune.TaskBalancedTrainr",
        "cotbal_kernels.plam",
        "cotbal.weigh(cotbal.ScoreTable.from_csv('scores.csv'))",
    ],
)
def test_mistakes_are_found(check, mistake):
    told = check(f"import torch, cotbal, cotbal.tune, cotbal_kernels\n{mistake}\n")
    assert len([line for line in told if "error:" in line]) == 1, told


@pytest.mark.parametrize("name", MODULES)
def test_dir_shows_every_public_name(name):
    module = importlib.import_module(name)
    assert set(module.__all__) <= set(dir(module))


def test_dir_shows_the_trl_trainer_which_a_star_import_leaves_out():
    assert "TaskBalancedSFTTrainer" in dir(cotbal)
    assert "TaskBalancedSFTTrainer" not in cotbal.__all__
    assert cotbal.TaskBalancedSFTTrainer is TaskBalancedSFTTrainer
