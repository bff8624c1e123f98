"""`cotbal plan` as users call it: its table, its commands run by a shell, and what `run` refuses because of it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.models import tiny_mixture

from cotbal.config.schema import load_config
from cotbal.method.weights import TaskWeights
from cotbal.units.launch.command import NEEDED

GIB = 2**30
TRAINING = {
    "num_train_epochs": 1,
    "learning_rate": 5e-3,
    "per_device_train_batch_size": 2,
    "global_batch_size": 4,
    "save_steps": 100,
    "logging_steps": 2,
    "use_cpu": True,
}


def mixture(folder: Path, **changes: Any) -> Path:
    return tiny_mixture.write_mixture(
        folder,
        samples=8,
        metrics=("loss", "loss"),
        training=TRAINING,
        comparison={"strategies": ["cotbal"], "seeds": [0]},
        preparation={"mini_fraction": 0.25},
        launch={"processes": 1},
        **changes,
    )


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **more}


def cotbal(*words: object, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cotbal", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env=environment(**variables),
        timeout=600,
    )


def planned(config: Path, *options: object) -> dict[str, Any]:
    done = cotbal("plan", config, "--json", *options)
    assert done.stdout, done.stderr
    values: dict[str, Any] = json.loads(done.stdout)
    return values | {"returncode": done.returncode}


def limited(path: Path, launch: dict[str, Any]) -> None:
    values = yaml.safe_load(path.read_text())
    values["launch"] = {"processes": 1, **launch}
    path.write_text(yaml.safe_dump(values))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mixture that `cotbal run` has made."""
    config = mixture(tmp_path_factory.mktemp("whole") / "m")
    done = cotbal("run", config)
    assert done.returncode == 0, done.stderr
    return config


def report(config: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((config.parent / "run" / "report" / "report.json").read_text())
    return values


@pytest.mark.slow
def test_the_printed_commands_do_what_run_does(whole: Path, tmp_path: Path) -> None:
    config = mixture(tmp_path / "m")
    steps = json.loads(cotbal("plan", config, "--commands", "--json").stdout)
    names = [step["name"] for step in steps]
    assert names == ["mini", "plus_colour", "plus_count", "weigh", "cotbal-seed0", "report"]
    done: set[str] = set()
    # In an order of our own: the last that may start comes first.
    while waiting := [step for step in steps if step["name"] not in done]:
        step = [step for step in waiting if done.issuperset(step["waits_for"])][-1]
        ended = subprocess.run(
            ["sh", "-c", step["command"]],
            capture_output=True,
            text=True,
            check=False,
            env=environment(),
            timeout=600,
        )
        assert ended.returncode == 0, ended.stderr
        done.add(step["name"])
    weights, expected = (TaskWeights.load(path.parent / "run" / "weights.json") for path in (config, whole))
    assert weights.as_dict() == expected.as_dict()
    found, wanted = report(config), report(whole)
    assert found["measurement"] == wanted["measurement"]
    assert found["comparison"] == wanted["comparison"]


def test_commands_are_lines_of_a_shell_with_what_they_wait_for(tmp_path: Path) -> None:
    config = mixture(tmp_path / "m")
    lines = cotbal("plan", config, "--commands").stdout.splitlines()
    told = [line for line in lines if line.startswith("#")]
    assert told[0] == "# mini: waits for nothing"
    assert "# weigh: waits for mini, plus_colour, plus_count" in told
    assert "# cotbal-seed0: waits for weigh" in told
    assert all(" -m cotbal " in line for line in lines if not line.startswith("#"))
    assert len(lines) == 2 * len(told)


@pytest.mark.slow
def test_a_plan_changes_nothing_and_tells_the_time_when_units_are_timed(whole: Path, tmp_path: Path) -> None:
    fresh = mixture(tmp_path / "m")
    before = sorted(fresh.parent.rglob("*"))
    values = planned(fresh)
    assert sorted(fresh.parent.rglob("*")) == before
    assert values["seconds"] is None
    assert [unit["samples"] for unit in values["units"]] == [4, 10, 10, 20]
    assert [unit["steps"] for unit in values["units"]] == [1, 3, 3, 5]
    assert not values["notes"]
    assert not values["faults"]
    assert values["returncode"] == 0

    # One unit is taken away again: its time is known from the others.
    made = whole.parent / "run" / "units" / "cotbal-seed0" / "manifest.json"
    manifest = made.read_text()
    made.unlink()
    try:
        left = planned(whole)
        assert [unit["state"] for unit in left["units"]] == ["scored"] * 3 + ["planned"]
        assert left["seconds"] > 0
        assert "left" in cotbal("status", whole).stdout.splitlines()[-1]
    finally:
        made.write_text(manifest)
    assert "all units are done" in cotbal("status", whole).stdout


@pytest.mark.slow
def test_what_is_a_tenth_over_the_memory_is_refused_before_anything_starts(tmp_path: Path) -> None:
    config = mixture(tmp_path / "m")
    needed = max(unit["memory"]["needed"] for unit in planned(config)["units"])
    limited(config, {"memory": needed / 1.1 / GIB})
    for command in (("run",), ("prepare",), ("unit", "mini")):
        done = cotbal(command[0], config, *command[1:])
        assert done.returncode == 2, done.stdout
        said = " ".join(done.stderr.split())
        assert "this cannot fit, and nothing was started" in said
        for words in ("mini needs about", "launch.memory", "training.gradient_checkpointing", "fit: warn"):
            assert words in said, said
        assert not list((config.parent / "run").glob("units/*")), command
        assert not list((config.parent / "run").glob("logs/*")), command
    assert planned(config)["returncode"] == 1
    assert planned(config, "--memory", needed * 1.01 / GIB)["returncode"] == 0

    limited(config, {"memory": needed / 1.1 / GIB, "fit": "warn"})
    done = cotbal("unit", config, "mini")
    assert done.returncode == 0, done.stderr
    assert "does not fit" in done.stdout
    assert (load_config(config).output / "units" / "mini" / "model").is_dir()


def test_a_unit_that_was_estimated_elsewhere_goes_by_its_own_machine(tmp_path: Path) -> None:
    config = mixture(tmp_path / "m")
    done = cotbal("unit", config, "mini", **{NEEDED: str(2**60)})
    assert done.returncode == 2, done.stdout
    said = " ".join(done.stderr.split())
    assert "mini needs about 1048576.00 TiB in each process by the estimate" in said, said
    assert "was not started there" in said
    assert not list((config.parent / "run").glob("units/*"))


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_the_terminal(tmp_path: Path, width: int) -> None:
    config = mixture(tmp_path / "m")
    lines = cotbal("plan", config, COLUMNS=str(width)).stdout.splitlines()
    assert max(map(len, lines)) <= width
    assert any(line.split()[:2] == ["cotbal-seed0", "tune"] for line in lines)
