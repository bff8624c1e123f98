"""What does not fit is said in a whole sentence, with settings that are not in use yet."""

import socket
from pathlib import Path
from typing import Any

import pytest

from cotbal.config.schema import Config
from cotbal.config.yaml_file import ConfigError
from cotbal.estimates.fit import faults_of, refuse_on_this_machine
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


def test_a_machine_with_less_memory_than_was_estimated_is_refused_by_name(tmp_path: Path) -> None:
    given, settings = config(tmp_path, {"name": "x"}), {"use_cpu": True}
    said: list[str] = []
    refuse_on_this_machine("mini", 2**20, given, settings, said.append)
    # 0 is what could not be estimated.
    refuse_on_this_machine("mini", 0, given, settings, said.append)
    with pytest.raises(
        ConfigError, match=rf"mini needs about .* and {socket.gethostname()} has .* not started there"
    ):
        refuse_on_this_machine("mini", 2**60, given, settings, said.append)
    assert not said
    warned = given.model_copy(update={"launch": given.launch.model_copy(update={"fit": "warn"})})
    refuse_on_this_machine("mini", 2**60, warned, settings, said.append)
    assert said[0].startswith("warning: mini needs about")


def test_a_limit_of_the_schedule_is_none_of_the_machines(tmp_path: Path) -> None:
    """`launch.memory` is for the estimate; a unit goes by what its own machine has."""
    given = config(tmp_path, {"name": "x"})
    launch = given.launch.model_copy(update={"memory": float(2**40), "engine": "ray", "processes": 2})
    with pytest.raises(ConfigError, match="available on this machine, for each of 2 processes"):
        refuse_on_this_machine(
            "mini", 2**60, given.model_copy(update={"launch": launch}), {"use_cpu": True}, print
        )
