"""The whole preparation as jobs of submitit's local executor: a time limit, a kill, and the same result."""

from pathlib import Path

import psutil
import pytest
from support.units import launched

pytest.importorskip("submitit", reason="the extra `slurm` is not installed")
pytestmark = pytest.mark.slow


def process_of(driver: int, unit: str) -> psutil.Process | None:
    """The process that makes a unit."""
    for each in psutil.Process(driver).children(recursive=True):
        words = each.cmdline()
        if "unit" in words and unit in words and "cotbal.units.launch.tied" not in words:
            return each
    return None


def test_a_time_limit_and_a_kill_change_nothing(prepared_alone: Path, tmp_path: Path) -> None:
    steps = tmp_path / "steps"
    config = launched.write_job(
        tmp_path / "m", launch={"engine": "slurm", "processes": 1, "cluster": "local", "side_by_side": 1}
    )
    process = launched.start(config, launched.environment(steps))
    kept = {}
    for unit in ("mini", "plus_colour"):
        launched.wait_until(lambda unit=unit: launched.whole_checkpoint(config, unit) > 0, process)
        making = process_of(process.pid, unit)
        assert making is not None
        if unit == "mini":
            # Its job's time is nearly over: it is requeued, with a checkpoint of the step in hand.
            job = making.parent()
            assert job is not None
            assert "submitit.core._submit" in job.cmdline()
            job.send_signal(12)
        else:
            making.kill()
            making.wait()
            kept[unit] = launched.whole_checkpoint(config, unit)
    said = launched.finish(process, config)
    assert "plus_colour was interrupted and is started again (retries left: 2)" in " ".join(said.split())
    launched.assert_same_result(config, prepared_alone)
    found = launched.steps_of(steps)
    for unit in ("mini", "plus_colour", "plus_count"):
        counted = list(found[unit].values())
        total = launched.steps_in_all(config, unit)
        if unit == "plus_colour":
            assert counted[1:] == [total - kept[unit]]
        else:
            # A time limit costs no step.
            assert sum(counted) == total
            assert len(counted) == (2 if unit == "mini" else 1)
