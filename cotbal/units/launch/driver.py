"""Making units: in this process, or each as a command of its own, as the config's `launch` says."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from cotbal.config.schema import Config
from cotbal.config.yaml_file import ConfigError
from cotbal.method.weights import TaskWeights
from cotbal.units.batches import processes_per_unit
from cotbal.units.consent import wishes
from cotbal.units.launch.command import UnitCommand, unit_command
from cotbal.units.launch.engines import opened_engine
from cotbal.units.launch.following import Follower
from cotbal.units.launch.local import places
from cotbal.units.launch.side_by_side import UnitFailedError, follow_all
from cotbal.units.runner import Runner
from cotbal.units.schedule import Unit

__all__ = ["make", "refuse_launcher"]


def refuse_launcher() -> None:
    """Refuse to go on where this process was started by a launcher of several."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}: this command starts the processes of its units by itself; "
            "start it alone, without torchrun or accelerate launch, and set launch.processes"
        )


def make(runner: Runner, units: Sequence[Unit], weights: TaskWeights | None = None) -> None:
    """Do what is missing of these units.

    Args:
        weights: of every task, for units that are tuned with the measured weights.

    Raises:
        UnitChangedError: finished units were made from something else; nothing was started.
        UnitFailedError: a unit's command failed.
        ConfigError: the config has no file that commands could be given.
    """
    config = runner.config
    processes = processes_per_unit(config)
    if _needs_no_command(config, processes):
        runner.run(units, weights)
        return
    if config.source is None:
        raise ConfigError("launch: units that are commands of their own need a config that is a file")
    follower = Follower(runner.folder, runner.progress)
    if not _finds_its_jobs(config):
        follower.await_makers([unit.name for unit in units])
    manifests = runner.check(units, weights)
    missing = [unit for unit in units if manifests[unit.name].state != "scored"]
    if not missing:
        return
    options = ["--output", str(config.output)]
    if config.launch.engine != "local":
        # What has been allowed here is kept in the user's state folder, which other machines need not see.
        wanted = wishes(config)
        options += ["--allow-code"] * bool(wanted.code) + ["--allow-remote"] * bool(wanted.remote)
    if weights is not None:
        weights.save(runner.folder.weights_in_use)
        options += ["--weights", str(runner.folder.weights_in_use)]
    commands: list[UnitCommand] = [
        unit_command(
            config.source,
            unit.name,
            processes=processes,
            log=runner.folder.output_of(unit.name),
            launcher=config.launch.command,
            options=options,
            needed=None if config.launch.engine == "local" else runner.needed.get(unit.name),
        )
        for unit in missing
    ]
    for unit in missing:
        # What a killed call left there is not this one's.
        runner.folder.progress_of(unit.name).unlink(missing_ok=True)
    with opened_engine(config, runner.folder, processes) as engine:
        follow_all(
            commands,
            engine,
            watch=follower.look,
            finished=follower.finish,
            say=runner.progress.say,
        )
    for unit in missing:
        manifest = runner.folder.unit(unit.name).manifest()
        if manifest is None or manifest.state != "scored":
            raise UnitFailedError(
                f"{unit.name}: its command ended well, but the unit is not made; "
                f"{runner.folder.output_of(unit.name)} has what it said"
            )


def _needs_no_command(config: Config, processes: int) -> bool:
    """Whether units can be made one by one in this process."""
    if config.launch.engine != "local" or config.launch.command or processes > 1:
        return False
    return len(places(processes, config.launch.side_by_side)) == 1 and torch.cuda.device_count() <= 1


def _finds_its_jobs(config: Config) -> bool:
    """Whether units that an earlier call has started are followed as jobs of the engine."""
    return config.launch.engine == "slurm" and config.launch.cluster != "local"
