"""One rank of a torchrun job that runs set-ups: `setup_worker.py WANTED.json FOUND.json`."""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist


def main(wanted: Path, found: Path) -> None:
    import setups

    torch.set_num_threads(1)
    # Short, so that a rank that fails does not leave the others waiting for long.
    dist.init_process_group("gloo", timeout=timedelta(seconds=120))
    by_name = {setup.name: setup for setup in setups.SETUPS}
    outcomes = []
    for name in json.loads(wanted.read_text()):
        with tempfile.TemporaryDirectory() as folder:
            outcome = setups.run(by_name[name], Path(folder))
        if outcome is not None:
            outcomes.append(dataclasses.asdict(outcome))
        dist.barrier()
    if dist.get_rank() == 0:
        found.write_text(json.dumps(outcomes))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
