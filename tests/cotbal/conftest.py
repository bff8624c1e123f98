"""A prepared mixture for the tests of units: made once, copied for each test."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.models import tiny_mixture
from support.units.prepared import Told

from cotbal.config.schema import load_config
from cotbal.units import stages


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small mixture, prepared."""
    path = tiny_mixture.write_mixture(
        tmp_path_factory.mktemp("mixture") / "m",
        samples=8,
        text_only=False,
        metrics=("loss", "loss"),
        training={"max_steps": 2, "learning_rate": 5e-3, "per_device_train_batch_size": 2, "use_cpu": True},
        weighing={"plain": True},
        preparation={"mini_fraction": 0.25},
        comparison={"strategies": ["ew", "cotbal"]},
    )
    stages.prepare(load_config(path), Told())
    return path.parent


@pytest.fixture
def mixture(finished: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may spoil."""
    shutil.copytree(finished, tmp_path / "m")
    return tmp_path / "m" / "mixture.yaml"
