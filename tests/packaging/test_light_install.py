"""What works with the packages that `pip install cotbal` brings alone, and what the rest is called."""

from __future__ import annotations

import os
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from support.kernels.native_builds import ROOT
from support.packaging import wheels

from cotbal import extras
from cotbal.extras import MissingExtraError, check_extras, extras_named
from cotbal.method.scores import ScoreTable
from cotbal.method.weights import TaskWeights

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MODULES_OF_PACKAGES = {"pillow": "PIL", "scikit-learn": "sklearn"}
LOSS = """
import sys, torch, cotbal_kernels as ck
hidden = torch.zeros(2, 3, 4, requires_grad=True)
labels = torch.tensor([[-100, 5, 7], [-100, -100, 3]])
out = ck.linear_cross_entropy(hidden, torch.zeros(8, 4), labels, torch.tensor([0, 1]), [1.0, 3.0], shift=True)
out.loss.backward()
print(round(out.loss.item(), 4), out.task_tokens.tolist())
"""
LAZY_NAMES = """
import cotbal, cotbal.tune, cotbal.data
for room, name in (("", "TaskBalancedTrainer"), (".tune", "TaskBalancedTrainer"), (".data", "TaskCollator")):
    try:
        getattr(eval("cotbal" + room), name)
    except ImportError as error:
        print(error)
"""
CONFIG = """
model: model
output: run
tasks:
  - {name: vqa, train: train.json, validation: validation.json, metric: exact_match}
"""


def run(python: Path, *words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        [python, *words], cwd=cwd, env=clean, capture_output=True, text=True, check=False, timeout=300
    )


def installed(folder: Path, wheel: Path, requirements: list[str]) -> Path:
    python = wheels.environment_with(folder, requirements)
    site = next((folder / "lib").glob("python*/site-packages"))
    wheels.pip("install", "--no-deps", "--target", site, wheel)
    return python


@pytest.fixture(scope="module")
def light(wheel, tmp_path_factory) -> Path:
    """The Python of an environment with the dependencies of `pip install cotbal`, without an extra."""
    return installed(tmp_path_factory.mktemp("light") / "environment", wheel, PROJECT["dependencies"])


@pytest.mark.slow
def test_the_loss_needs_torch_alone(wheel, tmp_path):
    python = installed(tmp_path / "environment", wheel, ["torch"])
    absent = run(python, "-c", "import numpy", cwd=tmp_path)
    assert "ModuleNotFoundError" in absent.stderr, "the environment holds what it should not"
    done = run(python, "-W", "ignore", "-c", LOSS, cwd=tmp_path)
    assert done.stdout.split("\n")[0] == "2.0794 [2, 1]", done.stderr


@pytest.mark.slow
def test_weights_from_a_table_of_scores(light, tmp_path):
    table = ScoreTable.from_means([0.5, 0.2], [[0.7, 0.3], [0.6, 0.6]], tasks=["caption", "vqa"])
    table.to_csv(tmp_path / "scores.csv")
    done = run(light, "-m", "cotbal", "weigh", "scores.csv", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert TaskWeights.load(tmp_path / "weights.json").tasks == ("caption", "vqa")
    loaded = run(
        light,
        "-c",
        "import sys; from cotbal.cli import main; main(['weigh', 'scores.csv']); print('torch' in sys.modules)",
        cwd=tmp_path,
    )
    assert loaded.stdout.splitlines()[-1] == "False", "weighing loads torch"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (["run", "mixture.yaml"], "train,report"),
        (["prepare", "mixture.yaml"], "train"),
        (["tune", "mixture.yaml"], "train"),
        (["demo"], "demo,train,report"),
        (["doctor", "--config", "mixture.yaml"], "train"),
    ],
)
def test_commands_name_the_extra_they_need(light, tmp_path, arguments, extra):
    (tmp_path / "mixture.yaml").write_text(CONFIG)
    done = run(light, "-m", "cotbal", *arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert f'pip install "cotbal[{extra}]", or "cotbal[all]" for everything' in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("command", [["status", "mixture.yaml"], ["doctor"], ["--help"]])
def test_commands_that_need_no_extra(light, tmp_path, command):
    (tmp_path / "mixture.yaml").write_text(CONFIG)
    done = run(light, "-m", "cotbal", *command, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_lazy_names_say_which_extra_they_need(light, tmp_path):
    done = run(light, "-c", LAZY_NAMES, cwd=tmp_path)
    lines = done.stdout.splitlines()
    assert len(lines) == 3, done.stderr
    assert lines[0].startswith("TaskBalancedTrainer needs transformers")
    assert lines[2].startswith("TaskCollator needs PIL")
    assert all('"cotbal[train]"' in line for line in lines)


def test_the_list_of_extras_is_that_of_the_project():
    for extra, modules in extras.MODULES.items():
        packages = [Requirement(line).name for line in PROJECT["optional-dependencies"][extra]]
        assert {MODULES_OF_PACKAGES.get(name, name) for name in packages if name != "cotbal"} == set(modules)
    (everything,) = PROJECT["optional-dependencies"]["all"]
    assert set(extras.MODULES) == Requirement(everything).extras


def test_other_missing_modules_are_told_as_they_are():
    with pytest.raises(ModuleNotFoundError, match="no_such_module"), extras_named("this"):
        import no_such_module  # noqa: F401


def test_several_missing_packages_make_one_error(monkeypatch):
    monkeypatch.setattr(
        extras, "MODULES", {"one": ("no_such_a", "no_such_b"), "two": ("os",), "three": ("no_c",)}
    )
    with pytest.raises(
        MissingExtraError, match=r"no_such_a, no_such_b, no_c, which are .* \"cotbal\[one,three\]\""
    ):
        check_extras("this", "one", "two", "three")
