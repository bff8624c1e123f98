"""`kill -9` between two logs of a training, or after its last step: the resumed log is the undisturbed one's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.models import tiny_mixture

from cotbal.output.store import OutputFolder

KILLED_RUN = Path(tiny_mixture.__file__).parents[1] / "units" / "killed_run.py"
UNIT = "single_colour-seed0"
TIMES = ("train_runtime", "train_samples_per_second", "train_steps_per_second")


def cotbal(config: Path, output: Path, kill: tuple[str, ...] = ()) -> int:
    paths = [str(KILLED_RUN.parents[2]), *([os.environ["PYTHONPATH"]] if "PYTHONPATH" in os.environ else [])]
    start = [str(KILLED_RUN), *kill, "--"] if kill else ["-m", "cotbal"]
    return subprocess.run(
        [sys.executable, *start, "unit", str(config), UNIT, "--output", str(output)],
        check=False,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
        },
        timeout=500,
    ).returncode


def log(output: Path) -> list[dict[str, Any]]:
    """Every entry, without the figures that tell the time."""
    entries = OutputFolder(output).unit(UNIT).log()
    assert all(isinstance(entry[name], float) for entry in entries if "train_loss" in entry for name in TIMES)
    return [{key: value for key, value in entry.items() if key not in TIMES} for entry in entries]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_mixture.write_mixture(
        tmp_path_factory.mktemp("mixture") / "m",
        samples=16,
        text_only=False,
        metrics=("loss", "loss"),
        training={
            "num_train_epochs": 1,
            "learning_rate": 5e-3,
            "per_device_train_batch_size": 2,
            "save_steps": 3,
            "logging_steps": 4,
            "use_cpu": True,
        },
        comparison={"single_task": True},
    )


@pytest.fixture(scope="module")
def whole(config: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    output = tmp_path_factory.mktemp("whole")
    assert cotbal(config, output) == 0
    return log(output)


@pytest.mark.timeout(1800)
def test_killed_between_two_logs_it_logs_the_same(
    config: Path, whole: list[dict[str, Any]], tmp_path: Path
) -> None:
    # The checkpoint of step 3 lies between the logs of no step and of step 4; the kill comes after step 5.
    kill = ("cotbal.units.train:_Watch.on_step_end", "5", "after")
    assert cotbal(config, tmp_path / "killed", kill) == -signal.SIGKILL
    assert [entry["step"] for entry in log(tmp_path / "killed")] == [4], "logged while it trained"
    OutputFolder(tmp_path / "killed").unit(UNIT).append_log('{"loss": 1.')
    assert [entry["step"] for entry in log(tmp_path / "killed")] == [4]
    assert cotbal(config, tmp_path / "killed") == 0
    assert [(entry["step"], "train_loss" in entry) for entry in whole] == [(4, False), (8, False), (8, True)]
    assert log(tmp_path / "killed") == whole


@pytest.mark.timeout(1800)
def test_killed_after_its_last_step_it_logs_the_same(
    config: Path, whole: list[dict[str, Any]], tmp_path: Path
) -> None:
    """The last step is saved with a checkpoint of its own: nothing is left to train, and the summary to log."""
    assert cotbal(config, tmp_path, ("cotbal.units.train:mark_complete", "3", "after")) == -signal.SIGKILL
    assert cotbal(config, tmp_path) == 0
    assert log(tmp_path) == whole
