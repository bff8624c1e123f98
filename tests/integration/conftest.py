"""What several files here compare with."""

from pathlib import Path

import pytest
from support.units import launched


@pytest.fixture(scope="session")
def prepared_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config of a preparation that one process has made, undisturbed."""
    config = launched.write_job(tmp_path_factory.mktemp("alone") / "m")
    launched.finish(launched.start(config, launched.environment()), config)
    return config
