"""A unit that was begun with one number of processes goes on with another: the same result, or a reason."""

import signal
from pathlib import Path

import pytest
import yaml
from support.units import launched

pytestmark = pytest.mark.slow

# Sums over two processes round otherwise; Adam's first steps divide by their size.
TOLERANCE = 2e-4


def change_processes(config: Path, processes: int) -> None:
    values = yaml.safe_load(config.read_text())
    config.write_text(yaml.safe_dump({**values, "launch": {"processes": processes}}, sort_keys=False))


def stop_in_mid_training(config: Path, steps: Path) -> int:
    """Start the preparation and stop it once `mini` has a checkpoint; the step of its last one."""
    process = launched.start(config, launched.environment(steps))
    launched.wait_until(lambda: launched.whole_checkpoint(config, "mini") > 0, process)
    process.send_signal(signal.SIGTERM)
    launched.finish(process, config, code=75)
    return launched.whole_checkpoint(config, "mini")


@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 2)])
def test_another_number_of_processes_gives_the_same_result(
    prepared_alone: Path, tmp_path: Path, first: int, then: int
) -> None:
    config = launched.write_job(tmp_path / "m", launch={"processes": first})
    begun = stop_in_mid_training(config, tmp_path / "first")
    assert begun > 0
    change_processes(config, then)
    launched.finish(launched.start(config, launched.environment(tmp_path / "then")), config)
    total = launched.steps_in_all(config, "mini")
    assert begun < total
    # A unit of one process is made in the driver's, whose steps are not counted.
    if first > 1:
        assert list(launched.steps_of(tmp_path / "first")["mini"].values()) == [begun] * first
    if then > 1:
        assert list(launched.steps_of(tmp_path / "then")["mini"].values()) == [total - begun] * then
    launched.assert_same_result(config, prepared_alone, tolerance=TOLERANCE)


def test_a_sharded_checkpoint_is_refused_by_one_process_with_the_reason(tmp_path: Path) -> None:
    config = launched.write_job(tmp_path / "m", training={"fsdp": True}, launch={"processes": 2})
    begun = stop_in_mid_training(config, tmp_path / "first")
    change_processes(config, 1)
    process = launched.start(config, launched.environment(tmp_path / "then"))
    said = " ".join(launched.finish(process, config, code=2).split())
    assert "spread over the 2 processes that wrote it, and cannot be resumed on one process" in said
    assert "launch.processes: 2" in said
    assert launched.whole_checkpoint(config, "mini") == begun
    assert not launched.steps_of(tmp_path / "then")
