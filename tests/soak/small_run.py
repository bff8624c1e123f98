"""The small real run that all proofs work on: three tasks, one broken record, five units, checkpoints."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from support.models import tiny_mixture

__all__ = ["digests", "products", "write_small_run"]

# What the Trainer's summary says of the time.
_TIMES = re.compile(rb'"train_(runtime|samples_per_second|steps_per_second)": [^,}]+')


def write_small_run(folder: Path, *, learning_rate: float = 5e-3, **changes: Any) -> Path:
    """Data, model and config; returns the config's path."""
    config = tiny_mixture.write_mixture(
        folder,
        samples=8,
        bad_records="skip",
        weighing={"replicates": 100},
        preparation={"mini_fraction": 0.5, "training": {"num_train_epochs": 2}},
        training={
            "num_train_epochs": 1,
            "learning_rate": learning_rate,
            "per_device_train_batch_size": 2,
            "save_steps": 2,
            "save_total_limit": 2,
            "logging_steps": 2,
            "use_cpu": True,
        },
        evaluation={"batch_size": 2},
        comparison={"strategies": ["ew", "cotbal"], "single_task": False, "seeds": [0]},
        **changes,
    )
    path = folder / "colour_train.json"
    records = json.loads(path.read_text())
    path.write_text(json.dumps([*records, {"id": "broken", "image": "0.png"}]))
    return config


def digests(folder: Path, below: str = "**/*") -> dict[str, str]:
    """The digest of every file below a folder but locks and progress, the times in a log left out."""
    found: dict[str, str] = {}
    for path in sorted(folder.glob(below)):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or path.name.startswith(".lock") or name.startswith("running/"):
            continue
        content = path.read_bytes()
        if path.name == "log.jsonl":
            content = _TIMES.sub(b"", content)
        found[name] = hashlib.sha256(content).hexdigest()
    return found


def products(output: Path) -> dict[str, str]:
    """What a run is made for: models, scores, logs, the table and the weights; the times of units differ."""
    kept = ("units/*/model/*", "units/*/scores.jsonl", "units/*/log.jsonl", "scores.csv", "weights.json")
    return {
        name: digest
        for below in (*kept, "bad_records.jsonl")
        for name, digest in digests(output, below).items()
    }
