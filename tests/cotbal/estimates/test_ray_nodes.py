"""What a Ray cluster's nodes have for a unit: the least that it may be given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cotbal.config.schema import Config
from cotbal.estimates.ray_nodes import RayNode, memory_on_ray, ray_nodes

GIB = 2**30


def config(folder: Path, **launch: Any) -> Config:
    values = {
        "model": {"name": "x"},
        "output": "out",
        "tasks": [{"name": "a", "train": "a.json", "weight": 1.0}],
        "training": {"use_cpu": True} if launch.pop("cpu", False) else {},
        "launch": {"engine": "ray", "processes": 2, **launch},
    }
    return Config.model_validate(values, context={"base": folder})


def test_the_smallest_gpu_decides_of_nodes_that_can_take_a_unit(tmp_path: Path) -> None:
    small = RayNode({"CPU": 4, "GPU": 1}, (8 * GIB,))
    one, two = (RayNode({"CPU": 16, "GPU": 4}, (size * GIB,) * 4) for size in (80, 40))
    found = memory_on_ray([small, one, two], config(tmp_path), 2, kind="gpu")
    assert found == (40 * GIB, "the smallest GPU of the 2 nodes of the Ray cluster that can take a unit")
    silent = RayNode({"CPU": 16, "GPU": 4})
    assert memory_on_ray([one, silent], config(tmp_path), 2, kind="gpu") is None
    assert memory_on_ray([small], config(tmp_path), 2, kind="gpu") is None


def test_options_narrow_the_nodes(tmp_path: Path) -> None:
    marked = RayNode({"CPU": 16, "GPU": 4, "accelerator_type:H100": 1.0}, (80 * GIB,) * 4)
    other = RayNode({"CPU": 16, "GPU": 4, "large": 1}, (40 * GIB,) * 4)
    typed = config(tmp_path, options={"accelerator_type": "H100"})
    assert (memory_on_ray([marked, other], typed, 2, kind="gpu") or (0,))[0] == 80 * GIB
    named = config(tmp_path, options={"resources": {"large": 1}})
    assert (memory_on_ray([marked, other], named, 2, kind="gpu") or (0,))[0] == 40 * GIB


@pytest.mark.parametrize(("side_by_side", "share"), [(None, 4), (2, 8), (1, 16)])
def test_processes_share_the_memory_of_a_node_without_gpus(
    tmp_path: Path, side_by_side: int | None, share: int
) -> None:
    launch = {} if side_by_side is None else {"side_by_side": side_by_side}
    # A unit of two processes takes two CPUs: four of them fit.
    node = RayNode({"CPU": 8, "memory": 32.0 * GIB})
    found = memory_on_ray([node], config(tmp_path, cpu=True, **launch), 2, kind="cpu")
    assert found == (share * GIB, "for each process on the 1 node of the Ray cluster that can take a unit")


def test_a_cluster_that_does_not_answer_tells_nothing(tmp_path: Path) -> None:
    assert ray_nodes(config(tmp_path, cluster="127.0.0.1:9")) == []
