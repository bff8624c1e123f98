"""What does not fit is said in a whole sentence, with settings that are not in use yet."""

from pathlib import Path
from typing import Any

import pytest

from cotbal.config.schema import Config
from cotbal.estimates.fit import faults_of
from cotbal.estimates.machine import Device
from cotbal.estimates.memory import Memory
from cotbal.estimates.pace import Pace, TimeLeft, Work
from cotbal.estimates.result import ScheduleEstimate, UnitEstimate
from cotbal.units.batches import BatchLayout
from cotbal.units.schedule import Unit

GIB = 2**30
QUANTISED = {"name": "x", "adapter": {"r": 8, "target_modules": "all-linear"}, "quantization": {"bits": 4}}
THRIFTY = {"gradient_checkpointing": True, "per_device_train_batch_size": 1}


def estimate(limit: int) -> ScheduleEstimate:
    memory = Memory(2 * GIB, GIB, 4 * GIB, 0, 9 * GIB, GIB, 10**9, 10**9)
    unit = Unit("mini", "mini", "prepare", 0, ("a",), ("a",))
    item = UnitEstimate(unit, "planned", Work("mini", 8, 2, 8), memory, None)
    return ScheduleEstimate(
        (item,),
        {"prepare": BatchLayout(4, 4, 1, 1)},
        Device("gpu", limit, "launch.memory"),
        (4, 100),
        10**12,
        TimeLeft(Pace(None, None, 0), {"mini": None}, 1),
    )


def config(folder: Path, model: dict[str, Any]) -> Config:
    values = {"model": model, "output": "out", "tasks": [{"name": "a", "train": "a.json", "weight": 1.0}]}
    return Config.model_validate(values, context={"base": folder})


@pytest.mark.parametrize(
    ("model", "training", "words"),
    [
        (
            {"name": "x"},
            {},
            "Most of it is weights, gradients and optimizer. Set LoRA (`model.adapter: {r: 16, target_modules: "
            "all-linear}`), more GPUs",
        ),
        (QUANTISED, THRIFTY, "Most of it is weights, gradients and optimizer. Set a lower `max_length`"),
    ],
)
def test_the_remedy_is_a_sentence(
    tmp_path: Path, model: dict[str, Any], training: dict[str, Any], words: str
) -> None:
    (fault,) = faults_of(estimate(9 * GIB), config(tmp_path, model), {"prepare": training})
    assert words in fault
    assert "mini needs about 10.0 GiB in each process, and there are 9.0 GiB (launch.memory)" in fault
