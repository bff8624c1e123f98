"""`kill -9` between two logs of a training, then the same command: the log is the undisturbed one's too."""

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
# Of one log entry: all but what tells the time.
STEADY = ("step", "epoch", "loss", "grad_norm", "learning_rate", "loss/colour", "tokens/colour")


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
    return [
        {key: entry[key] for key in STEADY}
        for entry in OutputFolder(output).unit(UNIT).log()
        if "loss" in entry
    ]


@pytest.mark.timeout(1800)
def test_killed_between_two_logs_it_logs_the_same(tmp_path: Path) -> None:
    config = tiny_mixture.write_mixture(
        tmp_path / "m",
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
    assert cotbal(config, tmp_path / "whole") == 0
    # The checkpoint of step 3 lies between the logs of no step and of step 4; the kill comes after step 5.
    kill = ("cotbal.units.train:_Watch.on_step_end", "5", "after")
    assert cotbal(config, tmp_path / "killed", kill) == -signal.SIGKILL
    assert [entry["step"] for entry in log(tmp_path / "killed")] == [4], "logged while it trained"
    OutputFolder(tmp_path / "killed").unit(UNIT).append_log('{"loss": 1.')
    assert [entry["step"] for entry in log(tmp_path / "killed")] == [4]
    assert cotbal(config, tmp_path / "killed") == 0
    assert [entry["step"] for entry in log(tmp_path / "whole")] == [4, 8]
    assert log(tmp_path / "killed") == log(tmp_path / "whole")
