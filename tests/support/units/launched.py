"""Whole preparations of the tiny mixture as `cotbal` commands: what they made, and what each process did for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from support.models import tiny_mixture

from cotbal.method.scores import ScoreTable

COUNTED = Path(__file__).parent / "counted"
STEPS_PER_CHECKPOINT = 5
TRAINING = {
    "num_train_epochs": 6,
    "learning_rate": 5e-3,
    "per_device_train_batch_size": 2,
    "global_batch_size": 4,
    "save_steps": STEPS_PER_CHECKPOINT,
    "logging_steps": 10,
    "use_cpu": True,
}


def write_job(folder: Path, *, training: Mapping[str, Any] | None = None, **changes: Any) -> Path:
    """The mixture's config: three tasks, of which two are measured, so that there are three units to prepare."""
    return tiny_mixture.write_mixture(
        folder,
        samples=12,
        training={**TRAINING, **(training or {})},
        preparation={"mini_fraction": 0.5, "keep_models": True},
        comparison={"strategies": ["cotbal"], "seeds": [0]},
        **changes,
    )


def environment(steps: Path | None = None) -> dict[str, str]:
    """For `cotbal` and all it starts; each optimizer step becomes a line of the file `steps`."""
    found = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    if steps is not None:
        paths = [str(COUNTED), *([os.environ["PYTHONPATH"]] if "PYTHONPATH" in os.environ else [])]
        found |= {"COUNTED_STEPS": str(steps), "PYTHONPATH": os.pathsep.join(paths)}
    return found


def start(config: Path, variables: Mapping[str, str], command: str = "prepare") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "cotbal", command, str(config)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=dict(variables),
    )


def finish(process: subprocess.Popen[str], config: Path, code: int = 0) -> str:
    """Wait for the command, which must end with this exit code; what it said."""
    said, _ = process.communicate(timeout=1800)
    logs = "".join(path.read_text()[-3000:] for path in output_of(config).glob("logs/*.log"))
    assert process.returncode == code, said + logs
    return said


def output_of(config: Path) -> Path:
    return config.parent / "run"


def wait_until(happened: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 900.0) -> None:
    """Until something has happened while the command runs."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def whole_checkpoint(config: Path, unit: str) -> int:
    """The step of a unit's last complete checkpoint, 0 without one."""
    marks = (output_of(config) / "units" / unit / "checkpoints").glob("checkpoint-*/COMPLETE")
    return max((int(mark.parent.name.partition("-")[2]) for mark in marks), default=0)


def steps_of(file: Path) -> dict[str, Counter[tuple[str, str]]]:
    """Optimizer steps by unit, and in it by rank and process."""
    found: dict[str, Counter[tuple[str, str]]] = {}
    for line in file.read_text().splitlines() if file.is_file() else []:
        unit, process, rank = line.split()[:3]
        found.setdefault(unit, Counter())[rank, process] += 1
    return found


def held_by_ranks(file: Path, unit: str, steps: int) -> dict[str, int]:
    """How many numbers the optimizer of each rank held in a unit's training of so many steps.

    DeepSpeed makes each step in parts, group by group, which are lines of their own.
    """
    held: Counter[str] = Counter()
    for of, _, rank, numbers in (line.split() for line in file.read_text().splitlines()):
        held[rank] += int(numbers) if of == unit else 0
    return {rank: numbers // steps for rank, numbers in held.items()}


def models(config: Path) -> dict[str, dict[str, torch.Tensor]]:
    paths = sorted(output_of(config).glob("units/*/model"))
    assert len(paths) == len(list(output_of(config).glob("units/*"))), "a unit has no model"
    return {path.parent.name: load_file(path / "model.safetensors") for path in paths}


def assert_same_result(config: Path, wanted: Path, *, tolerance: float = 0.0) -> None:
    """Models and scores are equal, bit for bit or to a tolerance."""
    found, expected = models(config), models(wanted)
    assert found.keys() == expected.keys()
    for unit, tensors in found.items():
        assert tensors.keys() == expected[unit].keys()
        for name, tensor in tensors.items():
            torch.testing.assert_close(tensor, expected[unit][name], rtol=0, atol=tolerance)
    scores, known = (ScoreTable.from_csv(output_of(each) / "scores.csv") for each in (config, wanted))
    for model in known.models:
        for task in known.tasks:
            assert abs(scores.mean(model, task) - known.mean(model, task)) <= 10 * tolerance


def steps_in_all(config: Path, unit: str) -> int:
    manifest = json.loads((output_of(config) / "units" / unit / "manifest.json").read_text())
    return int(manifest["steps"])
