"""The section `launch`: what an engine needs is asked for, and what it has no use for is refused."""

import pytest
from pydantic import ValidationError

from cotbal.config.launch import LaunchConfig


@pytest.mark.parametrize("name", ["cluster", "retries", "options"])
def test_what_only_clusters_take_is_refused_on_this_machine(name: str) -> None:
    value = {"cluster": "auto", "retries": 3, "options": {"time": 60}}[name]
    with pytest.raises(ValidationError, match=f"`{name}` is for the engines ray and slurm"):
        LaunchConfig.model_validate({name: value})


@pytest.mark.parametrize("engine", ["ray", "slurm"])
def test_gpus_of_other_machines_must_be_told(engine: str) -> None:
    with pytest.raises(ValidationError, match=f"`processes` is missing: with engine {engine}"):
        LaunchConfig.model_validate({"engine": engine})
    assert LaunchConfig.model_validate({"engine": engine, "processes": 8}).retries == 3


def test_slurm_has_no_address() -> None:
    with pytest.raises(ValidationError, match="`cluster` is 'head:6379'; with engine slurm give `slurm`"):
        LaunchConfig.model_validate({"engine": "slurm", "processes": 8, "cluster": "head:6379"})
