"""The whole preparation on a Ray cluster of two nodes: one of them dies in the middle, or the driver does."""

from pathlib import Path

import pytest
from support.units import launched
from support.units.ray_cluster import ray_cluster

from cotbal.units.launch.command import NEEDED

pytest.importorskip("ray", reason="the extra `ray` is not installed")
pytestmark = pytest.mark.slow


def test_a_node_dies_and_the_result_is_the_same(prepared_alone: Path, tmp_path: Path) -> None:
    steps = tmp_path / "steps"
    variables = launched.environment(steps)
    with ray_cluster(variables) as cluster:
        config = launched.write_job(
            tmp_path / "m", launch={"engine": "ray", "processes": 1, "cluster": cluster.address}
        )
        process = launched.start(config, variables)
        killed: list[tuple[str, int]] = []

        def trains_on_the_second_node() -> bool:
            for each, words in cluster.on_second_node().items():
                unit = words[words.index("unit") + 2] if "unit" in words else ""
                if unit and launched.whole_checkpoint(config, unit):
                    killed.append((unit, each.pid))
                    return True
            return False

        launched.wait_until(trains_on_the_second_node, process)
        cluster.kill_second_node()
        unit, pid = killed[0]
        kept = launched.whole_checkpoint(config, unit)
        said = launched.finish(process, config)
    launched.assert_same_result(config, prepared_alone)
    found = launched.steps_of(steps)
    assert set(found) == {"mini", "plus_colour", "plus_count"}, said
    for name, counted in found.items():
        total = launched.steps_in_all(config, name)
        if name == unit:
            # It went on from its last checkpoint, elsewhere.
            before = counted.pop(("0", str(pid)))
            assert kept <= before <= total
            assert list(counted.values()) == [total - kept]
        else:
            assert list(counted.values()) == [total]
    assert len((launched.output_of(config) / "logs" / f"{unit}.log").read_text().split("$ ")) == 3


def test_a_killed_driver_is_taken_over_by_the_same_command(prepared_alone: Path, tmp_path: Path) -> None:
    steps = tmp_path / "steps"
    variables = launched.environment(steps)
    with ray_cluster(variables) as cluster:
        config = launched.write_job(
            tmp_path / "m", launch={"engine": "ray", "processes": 1, "cluster": cluster.address}
        )
        planned = launched.finish(launched.start(config, variables, "plan"), config)
        assert "for each process on the 2 nodes of the Ray cluster" in " ".join(planned.split())
        first = launched.start(config, variables)
        units = ("mini", "plus_colour", "plus_count")
        launched.wait_until(lambda: any(launched.whole_checkpoint(config, unit) for unit in units), first)
        first.kill()
        first.communicate()
        kept = {unit: launched.whole_checkpoint(config, unit) for unit in units}
        said = launched.finish(launched.start(config, variables), config)
    launched.assert_same_result(config, prepared_alone)
    for unit in units:
        # It is told what it needs, and compares that with its node.
        assert f"$ {NEEDED}=" in (launched.output_of(config) / "logs" / f"{unit}.log").read_text()
    found = launched.steps_of(steps)
    assert set(found) == set(units), said
    for name, counted in found.items():
        total, done = launched.steps_in_all(config, name), sum(counted.values())
        # No step before a checkpoint again; after it, those that were made before the worker was ended.
        assert total <= done <= total + launched.STEPS_PER_CHECKPOINT, (name, counted, kept)
    assert len({process for counted in found.values() for _, process in counted}) > len(units)
