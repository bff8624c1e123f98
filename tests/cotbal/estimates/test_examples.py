"""The shipped examples fit the machines that they are made for, by the estimate of `cotbal plan`."""

from pathlib import Path
from typing import Any

import pytest
from support.estimates.published import llava_7b, qwen_7b, write_example

from cotbal.config.schema import Config
from cotbal.estimates.result import ScheduleEstimate
from cotbal.estimates.schedule import estimate_schedule
from cotbal.units.progress import NoProgress
from cotbal.units.runner import Runner

GIB = 2**30


def estimate(config: Config, processor: Any, memory: float) -> ScheduleEstimate:
    runner = Runner(config, NoProgress())
    return estimate_schedule(config, runner.mixture, runner.settings, lambda: processor, memory=memory)


@pytest.mark.slow
def test_llava_needs_its_eight_gpus(tmp_path: Path) -> None:
    model, processor = llava_7b()
    found = estimate(write_example("llava-1.5-7b.yaml", tmp_path / "8", model), processor, memory=79)
    assert not found.notes
    assert found.layouts["tune"].samples == 128
    assert found.layouts["tune"].processes == 8
    assert found.batch is not None
    assert found.batch[0] == 4
    assert 1900 < found.batch[1] <= 2048
    memory = found.units[0].memory
    assert memory is not None
    # As the published model has them.
    assert memory.parameters == 7_063_427_072
    assert memory.trained == memory.parameters - 303_507_456
    # 4 bytes of each eighth, twice more for Adam.
    assert memory.weights == pytest.approx(4 * memory.parameters / 8, rel=0.02)
    assert memory.optimizer == pytest.approx(8 * memory.trained / 8, rel=0.02)
    assert not [fault for fault in found.faults if fault.startswith("memory")]

    alone = {"launch": {"processes": 1}, "training": {"fsdp": None}}
    found = estimate(write_example("llava-1.5-7b.yaml", tmp_path / "1", model, **alone), processor, memory=79)
    memory = found.units[0].memory
    assert memory is not None
    assert memory.needed > 105 * GIB
    fault = next(fault for fault in found.faults if fault.startswith("memory"))
    assert "training.fsdp" in fault


@pytest.mark.slow
@pytest.mark.parametrize("bits", [None, 4])
def test_qwen_with_adapters_fits_one_card_of_24_gb(tmp_path: Path, bits: int | None) -> None:
    model, processor = qwen_7b()
    quantization = {} if bits is None else {"model": {"quantization": {"bits": bits}}}
    config = write_example("qwen2.5-vl-7b-lora.yaml", tmp_path / "m", model, **quantization)
    found = estimate(config, processor, memory=24)
    assert not found.notes
    assert found.batch is not None
    assert found.batch[0] == 1
    memory = found.units[0].memory
    assert memory is not None
    assert memory.parameters - memory.trained == 8_292_166_656
    assert memory.weights < (18 if bits is None else 8) * GIB
    assert not [fault for fault in found.faults if fault.startswith("memory")]
