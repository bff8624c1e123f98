"""A tiny mixture whose units train adapters, and `cotbal` as a user starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from support.models import tiny_mixture

ADAPTER: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "up_proj"]}


def adapter_mixture(folder: Path, **model: Any) -> Path:
    """Write a mixture of three tasks; `model` are keys of its section beside `name` and `adapter`."""
    path = tiny_mixture.write_mixture(
        folder,
        samples=8,
        metrics=("loss", "loss"),
        training={
            "num_train_epochs": 2,
            "learning_rate": 1e-2,
            "per_device_train_batch_size": 2,
            "global_batch_size": 4,
            "save_steps": 2,
            "logging_steps": 1,
            "use_cpu": True,
        },
        comparison={"strategies": ["cotbal"], "seeds": [0]},
        preparation={"mini_fraction": 0.25},
        weighing={"plain": True},
    )
    return with_model(path, **{"adapter": ADAPTER, **model})


def with_model(path: Path, **model: Any) -> Path:
    """Change keys of the config's section `model`; None takes a key out."""
    values = yaml.safe_load(path.read_text())
    section = values["model"] if isinstance(values["model"], dict) else {"name": values["model"]}
    values["model"] = {key: value for key, value in {**section, **model}.items() if value is not None}
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def cotbal(*words: object, launcher: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """`cotbal WORDS` in a process of its own."""
    return subprocess.run(
        [sys.executable, *launcher, "-m", "cotbal", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        timeout=600,
    )
