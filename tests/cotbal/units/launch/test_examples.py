"""The shipped configs of several GPUs and machines: what each asks for, by the code that would start it."""

from pathlib import Path

import pytest

from cotbal.config.schema import load_config
from cotbal.units.arguments import training_settings
from cotbal.units.batches import BatchLayout, batch_layout, processes_per_unit
from cotbal.units.launch.slurm_engine import slurm_parameters

EXAMPLES = Path(__file__).parents[4] / "examples"


@pytest.mark.parametrize("name", ["llava-1.5-7b", "llava-1.5-7b-ray", "llava-1.5-7b-slurm"])
def test_a_step_is_128_samples_spread_over_8_gpus_with_fsdp(name: str) -> None:
    config = load_config(EXAMPLES / f"{name}.yaml")
    for stage in ("prepare", "tune"):
        settings = training_settings(config, stage)
        assert batch_layout(settings, processes_per_unit(config)) == BatchLayout(128, 4, 8, 4)
        assert settings["fsdp"] is True
        assert settings["bf16"] is True
    engine = name.removeprefix("llava-1.5-7b").removeprefix("-") or "local"
    assert config.launch.engine == engine


def test_the_job_of_the_slurm_example() -> None:
    pytest.importorskip("submitit", reason="the extra `slurm` is not installed")
    config = load_config(EXAMPLES / "llava-1.5-7b-slurm.yaml")
    parameters = slurm_parameters(config, 8, 4)
    assert parameters["gpus_per_node"] == 8
    assert parameters["cpus_per_task"] == 40
    assert parameters["time"] == 480
    assert parameters["signal_delay_s"] == 300


def test_the_task_of_the_ray_example() -> None:
    ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
    config = load_config(EXAMPLES / "llava-1.5-7b-ray.yaml")
    assert config.launch.options
    # Ray itself checks the options' names and types.
    ray.remote(**config.launch.options)(lambda: None)
