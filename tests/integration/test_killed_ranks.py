"""A launcher and a rank that are killed: the same command finishes the same.

All victims, signals and phases at random moments: `python -m tests.soak launches`.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.units import killed_run, launched
from support.units.blows import Blow, assert_no_step_twice, run_through

# Sums over two processes round otherwise; Adam's first steps divide by their size.
TOLERANCE = 2e-4


@pytest.mark.soak
def test_killed_launchers_and_ranks_change_nothing(tmp_path: Path) -> None:
    """Beside an undisturbed job of as many processes: sums of another number are rounded otherwise."""
    undisturbed = launched.write_job(tmp_path / "undisturbed", launch={"processes": 2})
    launched.finish(launched.start(undisturbed, launched.environment()), undisturbed)
    config = launched.write_job(tmp_path / "m", launch={"processes": 2})
    blows = [
        Blow("launcher", signal.SIGKILL, "step"),
        Blow("rank", signal.SIGKILL, "score"),
    ]
    steps = tmp_path / "steps"
    struck, windows = run_through(config, blows, steps)
    assert struck == blows
    launched.assert_same_result(config, undisturbed, tolerance=TOLERANCE)
    assert_no_step_twice(config, windows)


@pytest.mark.slow
def test_shards_of_the_last_step_are_what_is_saved(prepared_alone: Path, tmp_path: Path) -> None:
    """Both ranks are killed when the last checkpoint is whole and the model is not saved: no step is left to make."""
    config = launched.write_job(tmp_path / "m", training={"fsdp": True}, launch={"processes": 2})
    unit = launched.output_of(config) / "units" / "mini"
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    dying = [
        killed_run.__file__,
        "cotbal.units.train:_save",
        "1",
        "before",
        "--",
        "unit",
        str(config),
        "mini",
    ]
    variables = launched.environment(tmp_path / "steps")
    first = subprocess.run([*words, *dying], env=variables, capture_output=True, text=True, check=False)
    assert first.returncode != 0
    assert launched.whole_checkpoint(config, "mini") > 0
    assert not (unit / "model").exists()
    whole = [*words, "-m", "cotbal", "unit", str(config), "mini"]
    second = subprocess.run(whole, env=variables, capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stderr[-3000:]
    # torch makes an optimizer's state by a step at learning rate 0.
    assert all(count <= 1 for count in launched.steps_of(tmp_path / "steps").get("mini", {}).values())
    wanted = load_file(launched.output_of(prepared_alone) / "units" / "mini" / "model" / "model.safetensors")
    found = load_file(unit / "model" / "model.safetensors")
    assert found.keys() == wanted.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, wanted[name], rtol=0, atol=TOLERANCE)
