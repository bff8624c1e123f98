"""The engine that `launch` names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cotbal.config.schema import Config
from cotbal.output.store import OutputFolder
from cotbal.units.launch.local import LocalEngine, places
from cotbal.units.launch.side_by_side import Engine

__all__ = ["opened_engine"]


@contextmanager
def opened_engine(config: Config, folder: OutputFolder, processes: int) -> Iterator[Engine]:
    """What starts the units of a config.

    Args:
        processes: per unit.

    Raises:
        ConfigError: the engine cannot be reached, or refuses what the config asks of it.
    """
    if config.launch.engine == "ray":
        from cotbal.units.launch.ray_engine import ray_engine

        with ray_engine(config, folder, processes) as engine:
            yield engine
    elif config.launch.engine == "slurm":
        from cotbal.units.launch.slurm_engine import slurm_engine

        workers = int(config.training.get("dataloader_num_workers", 0))
        yield slurm_engine(config, folder, processes, workers)
    else:
        yield LocalEngine(places(processes, config.launch.side_by_side))
