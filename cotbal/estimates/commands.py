"""A schedule as commands and what each waits for: for job arrays, Kubernetes, and other schedulers."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from cotbal.config.schema import Config
from cotbal.config.yaml_file import ConfigError
from cotbal.output.store import OutputFolder
from cotbal.units.batches import processes_per_unit
from cotbal.units.launch.command import unit_command
from cotbal.units.schedule import Unit, make_schedule

__all__ = ["Step", "schedule_steps", "shell_lines"]

WEIGH = "weigh"
REPORT = "report"


@dataclass(frozen=True)
class Step:
    """One command of a schedule.

    Attributes:
        name: a unit's, or `weigh` or `report`.
        command: as a line of a shell.
        processes: that it starts, one per GPU where there are GPUs.
        waits_for: names of the steps that must have ended well before it begins.
    """

    name: str
    command: str
    processes: int
    waits_for: tuple[str, ...]


def schedule_steps(config: Config) -> tuple[Step, ...]:
    """The steps of a config, in an order in which they could run one by one.

    Units wait for nothing, but for those that are tuned with measured weights, which wait for `weigh`; it waits for
    the whole preparation. `report` waits for all.

    Raises:
        ConfigError: the config has no file.
    """
    if config.source is None:
        raise ConfigError("plan --commands: commands need a config that is a file")
    schedule = make_schedule(config)
    prepared, tuned = schedule.of("prepare"), schedule.of("tune")
    steps = [_unit_step(config, unit, ()) for unit in prepared]
    if prepared:
        # Once all units are there, `prepare` only collects their scores.
        command = " && ".join(_line(config, name) for name in ("prepare", "weigh"))
        steps.append(Step(WEIGH, command, 1, tuple(unit.name for unit in prepared)))
    for unit in tuned:
        steps.append(_unit_step(config, unit, (WEIGH,) if unit.needs_weights and prepared else ()))
    steps.append(Step(REPORT, _line(config, REPORT), 1, tuple(step.name for step in steps)))
    return tuple(steps)


def _unit_step(config: Config, unit: Unit, waits_for: tuple[str, ...]) -> Step:
    processes = processes_per_unit(config)
    log = OutputFolder(config.output).output_of(unit.name)
    command = unit_command(
        config.source or config.output,
        unit.name,
        processes=processes,
        log=log,
        launcher=config.launch.command,
    )
    return Step(unit.name, str(command), processes, waits_for)


def _line(config: Config, name: str) -> str:
    return shlex.join([sys.executable, "-m", "cotbal", name, str(config.source)])


def shell_lines(steps: Sequence[Step]) -> str:
    """The steps as lines to paste, each behind a comment that tells what it waits for."""
    lines: list[str] = []
    for step in steps:
        after = ", ".join(step.waits_for) or "nothing"
        each = "" if step.processes == 1 else f"; {step.processes} processes"
        lines += [f"# {step.name}: waits for {after}{each}", step.command]
    return "\n".join(lines)
