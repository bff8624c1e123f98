"""What is predicted of a training, against what each of its processes holds and what it writes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.estimates import measured_unit
from support.estimates.large_mixture import CASES, write_large_mixture

from cotbal.config.schema import load_config
from cotbal.estimates.batch import longest_batch
from cotbal.estimates.machine import Device
from cotbal.estimates.memory import Memory, estimate_memory
from cotbal.estimates.result import ScheduleEstimate
from cotbal.estimates.schedule import estimate_schedule
from cotbal.units.batches import batch_layout
from cotbal.units.progress import NoProgress
from cotbal.units.runner import Runner

UNIT = "mini"


def measure(config: Path, processes: int) -> list[dict[str, int]]:
    """What each rank held, from `cotbal unit` as users start it."""
    out = config.parent / "measured.json"
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    words = [
        sys.executable,
        *(torchrun if processes > 1 else []),
        measured_unit.__file__,
        str(out),
        str(config),
        UNIT,
    ]
    tests = str(Path(measured_unit.__file__).parents[2])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": tests}
    # The pages of freed tensors go back to the system at once.
    environment |= {"MALLOC_MMAP_THRESHOLD_": str(2**16), "MALLOC_TRIM_THRESHOLD_": str(2**16)}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(Path(f"{out}.{rank}").read_text()) for rank in range(processes)]


def predict(runner: Runner, processes: int, rank: int) -> Memory:
    config, settings = runner.config, runner.settings["prepare"]
    layout = batch_layout(settings, processes)
    batch = longest_batch(config, runner.mixture, runner.processor, layout.per_device)
    return estimate_memory(config.model, settings, layout, batch, Device("cpu", None), rank=rank)


def schedule_of(runner: Runner) -> ScheduleEstimate:
    return estimate_schedule(runner.config, runner.mixture, runner.settings, lambda: runner.processor)


def folder_size(folder: Path) -> int:
    """As `du --apparent-size` counts files."""
    listed = subprocess.run(
        ["find", str(folder), "-type", "f", "-printf", "%s\n"], capture_output=True, text=True, check=True
    )
    return sum(map(int, listed.stdout.split()))


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_unit_takes_what_was_predicted(tmp_path: Path, name: str) -> None:
    case: dict[str, Any] = CASES[name]
    path = write_large_mixture(tmp_path / "m", case)
    processes = case.get("launch", {}).get("processes", 1)
    runner = Runner(load_config(path), NoProgress())
    estimate = schedule_of(runner)
    assert not estimate.notes
    planned = next(item for item in estimate.units if item.unit.name == UNIT)
    measured = measure(path, processes)
    assert len({each["pid"] for each in measured}) == processes
    for rank, held in enumerate(measured):
        memory = predict(runner, processes, rank)
        assert memory.parameters > 50_000_000
        assert (held["sharded"] > 0) == (name == "fsdp2")
        assert memory.weights == held["weights"]
        assert memory.gradients == held["gradients"]
        assert memory.optimizer == held["optimizer"]
        assert 0.85 <= memory.peak / held["peak" if processes == 1 else "resident"] <= 1.15
        assert rank or memory == planned.memory
    unit = runner.folder.unit(UNIT)
    disk = planned.disk
    assert disk is not None
    # The page that peft writes beside an adapter names its base.
    unknown = 256 if "adapter" in case.get("model", {}) else 0
    assert disk.model == pytest.approx(folder_size(unit.model), rel=0, abs=unknown)
    # Scores depend on answers, and pickled states on numbers.
    assert disk.left == pytest.approx(folder_size(unit.path), abs=32 * 2**10)
    assert disk.checkpoints == pytest.approx(measured[0]["checkpoints"], rel=0.01, abs=256 * 2**10)
