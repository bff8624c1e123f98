"""What a machine has: control groups of both versions, limits of its config, GPUs."""

from pathlib import Path

import psutil
import pytest
from support.models import tiny_mixture

from cotbal.config.schema import Config, load_config
from cotbal.estimates import machine
from cotbal.estimates.machine import GIB, available_memory, device_of, free_disk


def group(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text + "\n")


def test_a_container_has_what_its_groups_leave(tmp_path: Path) -> None:
    own = tmp_path / "cgroup"
    own.write_text("0::/job/step\n")
    # The step has no limit of its own, its job has: 3 MiB, of which 1 MiB is taken; half of that is cached files.
    group(tmp_path / "fs" / "job" / "step", memory__max="max", memory__current="5")
    group(
        tmp_path / "fs" / "job",
        memory__max=str(3 * 2**20),
        memory__current=str(2**20),
        memory__stat=f"anon 5\ninactive_file {2**19}",
    )
    assert available_memory(tmp_path / "fs", own) == 2.5 * 2**20


def test_groups_of_version_1_count_as_well(tmp_path: Path) -> None:
    own = tmp_path / "cgroup"
    own.write_text("5:cpu:/x\n4:memory:/docker/abc\n")
    # In the container, the mounted root is the group.
    group(
        tmp_path / "fs" / "memory",
        memory__limit_in_bytes=str(2**21),
        memory__usage_in_bytes=str(2**20),
    )
    assert available_memory(tmp_path / "fs", own) == 2**20


def test_without_groups_it_is_what_the_system_has(tmp_path: Path) -> None:
    found = available_memory(tmp_path, tmp_path / "none")
    assert found == pytest.approx(psutil.virtual_memory().available, rel=0.3)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return load_config(tiny_mixture.write_mixture(tmp_path / "m", samples=4))


def launched(config: Config, **changes: object) -> Config:
    return config.model_copy(update={"launch": config.launch.model_copy(update=changes)})


def test_processes_share_the_memory_of_a_machine_without_gpus(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "available_memory", lambda: 12 * GIB)
    found = device_of(launched(config, processes=2, side_by_side=3), {"use_cpu": True})
    assert (found.kind, found.memory) == ("cpu", 2 * GIB)
    assert device_of(config, {"use_cpu": True}, in_use=True).memory is None


def test_the_fullest_gpu_decides_unless_the_units_themselves_fill_it(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_gpus", lambda: [(70 * GIB, 80 * GIB), (10 * GIB, 80 * GIB)])
    found = device_of(config, {})
    assert (found.kind, found.memory) == ("gpu", 10 * GIB)
    # The loss goes by the whole memory, so that a step does not depend on who else uses the GPU.
    assert found.loss_budget == 5 * GIB
    assert device_of(config, {}, in_use=True).memory == 80 * GIB


def test_a_given_limit_comes_first(config: Config) -> None:
    assert device_of(launched(config, memory=3.0), {}).memory == 3 * GIB
    assert device_of(launched(config, memory=3.0), {}, 24).memory == 24 * GIB
    assert device_of(launched(config, memory=3.0), {"use_cpu": True}).kind == "cpu"


def test_a_folder_to_be_made_has_the_room_of_the_one_above(tmp_path: Path) -> None:
    assert free_disk(tmp_path / "not" / "yet") == pytest.approx(free_disk(tmp_path), rel=0.1)
