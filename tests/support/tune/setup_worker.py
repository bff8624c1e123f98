"""A process, or one rank of a job, that runs set-ups and checks: `setup_worker.py WANTED.json FOUND.json`."""

from __future__ import annotations

import dataclasses
import faulthandler
import json
import os
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

LONGEST = float(os.environ.get("COTBAL_TEST_LONGEST_CHECK", "240"))  # seconds


def main(wanted: Path, found: Path) -> None:
    from support.tune import run_setups, setups
    from support.tune.rank_checks import CHECKS

    torch.set_num_threads(1)
    alone = "RANK" not in os.environ
    if not alone:
        # Short, so that a rank that fails does not leave the others waiting for long.
        dist.init_process_group("gloo", timeout=timedelta(seconds=120))
    by_name = {setup.name: setup for setup in setups.SETUPS}
    outcomes: list[dict[str, object]] = []
    for name in json.loads(wanted.read_text()):
        # Ranks that wait for each other for ever say where, and end.
        faulthandler.dump_traceback_later(LONGEST, exit=True)
        with tempfile.TemporaryDirectory() as folder:
            if name in CHECKS:
                CHECKS[name](Path(folder))
                outcome = run_setups.Outcome(name, 0.0, 0.0, 0.0)
            else:
                outcome = run_setups.run(by_name[name], Path(folder))
        if outcome is not None:
            outcomes.append(dataclasses.asdict(outcome))
        if not alone:
            dist.barrier()
    faulthandler.cancel_dump_traceback_later()
    if alone or dist.get_rank() == 0:
        found.write_text(json.dumps(outcomes))
    if not alone:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
