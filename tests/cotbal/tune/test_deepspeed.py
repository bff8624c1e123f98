"""DeepSpeed's own ZeRO-3 on two processes without a GPU, where the package is installed: `pip install deepspeed`."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.tune import deepspeed_cases

pytestmark = [
    pytest.mark.deepspeed,
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("deepspeed") is None,
        reason="deepspeed is not installed; without it a stand-in empties the parameters (test_setups.py)",
    ),
]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    found = tmp_path_factory.mktemp("deepspeed") / "found.json"
    support = Path(deepspeed_cases.__file__).parent
    paths = [str(support.parents[1]), str(support.parents[2]), os.environ.get("PYTHONPATH", "")]
    settings = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    job = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [sys.executable, *job, str(support / "deepspeed_job.py"), str(found)],
        env={**os.environ, **settings, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-8000:]
    return json.loads(found.read_text())


@pytest.mark.parametrize("name", deepspeed_cases.CASES)
def test_steps_are_the_oracles_and_the_self_check_passes(outcomes, name):
    outcome = outcomes[name]
    assert outcome["loss"] <= 1e-5
    assert outcome["gradient"] <= 1e-5
    if name != deepspeed_cases.THE_TRAINER:
        assert outcome["passed"], outcome["self-check"]
