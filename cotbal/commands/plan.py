"""`cotbal plan`: what a schedule takes, before anything runs; and what `run` asks of it before it starts."""

from __future__ import annotations

import json
import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from cotbal.commands.options import AllowCode, AllowRemote, ConfigPath, OutputPath
from cotbal.commands.session import allowed, load, plain_warnings, quieten_others, say
from cotbal.extras import check_extras

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cotbal.config.schema import Config
    from cotbal.units.runner import Runner
    from cotbal.units.schedule import Unit
    from cotbal.units.stages import Approve

__all__ = ["plan", "refuse_unfit", "say_time_left"]

# For the units that `run` starts on this machine: they need not ask again.
_APPROVED = "COTBAL_APPROVED"
_SLOW = "estimating memory, disk and time, which takes half a minute on a large model ..."


def plan(
    config: ConfigPath,
    output: OutputPath = None,
    memory: Annotated[
        float | None,
        typer.Option(
            "--memory",
            metavar="GIB",
            min=0.001,
            help="Memory of each process, if not what is free on this machine.",
            show_default=False,
        ),
    ] = None,
    commands: Annotated[
        bool, typer.Option("--commands", help="Print one command per unit, and what each waits for.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: bytes, seconds, names.")] = False,
    allow_code: AllowCode = False,
    allow_remote: AllowRemote = False,
) -> None:
    """Show what a config's units will take: samples, steps, memory per GPU, disk and time. Changes nothing.

    No weights and no pictures are read: one training step is played through with tensors that have shapes and no
    data, on the longest records. The exit code is 1 if something does not fit; [bold]cotbal run[/bold] then refuses
    to start, unless the config says [bold]launch: {fit: warn}[/bold]. Time is known once units have made some steps.

    On a machine without GPUs, give the memory of those that will train, and set `launch.processes` in the config.
    Example: [bold]cotbal plan my-mixture.yaml --memory 80[/bold]

    With --commands, one line per unit for a job array or Kubernetes; units that are tuned with measured weights wait
    for the line `weigh`. Example: [bold]cotbal plan my-mixture.yaml --commands --json[/bold]
    """
    check_extras("cotbal plan", "train")
    settings = load(config, output)
    if commands:
        _print_commands(settings, moved=output is not None, as_json=as_json)
        return
    from cotbal.estimates.schedule import estimate_schedule
    from cotbal.estimates.table import estimate_table, estimate_values
    from cotbal.units.progress import NoProgress
    from cotbal.units.runner import Runner

    settings = allowed(settings, allow_code, allow_remote)
    quieten_others()
    with plain_warnings(), _working():
        runner = Runner(settings, NoProgress())
        estimate = estimate_schedule(
            settings, runner.mixture, runner.settings, lambda: runner.processor, memory=memory
        )
    if as_json:
        typer.echo(json.dumps(estimate_values(estimate), indent=1))
    else:
        Console().print(estimate_table(settings, estimate))
    if estimate.faults:
        raise typer.Exit(1)


def _working() -> AbstractContextManager[Any]:
    """Say beside the output that something is done: a line that vanishes from terminals, and stays in logs."""
    console = Console(stderr=True, soft_wrap=True)
    if console.is_terminal:
        return console.status(_SLOW)
    console.print(_SLOW, highlight=False, markup=False)
    return nullcontext()


def _print_commands(config: Config, *, moved: bool, as_json: bool) -> None:
    from cotbal.estimates.commands import schedule_steps, shell_lines

    if moved:
        raise typer.BadParameter(
            "not with --commands; write `output` in the config, which all commands read",
            param_hint="--output",
        )
    steps = schedule_steps(config)
    typer.echo(json.dumps([asdict(step) for step in steps], indent=1) if as_json else shell_lines(steps))


def refuse_unfit(config: Config) -> Approve:
    """What `run`, its stages and `unit` do before they start: estimate, and stop if something cannot fit.

    A unit that one of the others has started does not estimate again: on this machine it does nothing, on another one
    it compares the estimate with what that machine has. An estimate that cannot be made stops nothing.
    """

    def approve(runner: Runner, units: Sequence[Unit]) -> None:
        from cotbal.estimates.aside import estimated_aside
        from cotbal.estimates.fit import refuse_on_this_machine, refuse_what_cannot_fit
        from cotbal.estimates.memory import NotEstimatedError
        from cotbal.estimates.schedule import estimate_schedule
        from cotbal.estimates.table import estimate_values
        from cotbal.output.store import write_text
        from cotbal.units.batches import processes_per_unit
        from cotbal.units.launch.command import NEEDED

        manifests = [runner.folder.unit(unit.name).manifest() for unit in units]
        if all(manifest is not None and manifest.state == "scored" for manifest in manifests):
            return
        if os.environ.get(_APPROVED) == str(config.output):
            return
        if NEEDED in os.environ and len(units) == 1:
            needed = int(os.environ[NEEDED])
            settings = runner.settings[units[0].stage]
            refuse_on_this_machine(units[0].name, needed, config, settings, runner.progress.say)
            return
        processor = runner.processor
        launch = config.launch.model_copy(update={"processes": processes_per_unit(config)})
        planned = config.model_copy(update={"launch": launch})
        try:
            estimate = estimated_aside(
                lambda: estimate_schedule(
                    planned, runner.mixture, runner.settings, lambda: processor, units=units
                ),
                slow=lambda: runner.progress.say(_SLOW),
            )
        except NotEstimatedError as error:
            runner.progress.say(f"note: memory, disk and time are not estimated: {error}")
            runner.needed = dict.fromkeys((unit.name for unit in units), 0)
            return
        if len(units) > 1:
            write_text(runner.folder.plan, json.dumps(estimate_values(estimate), indent=1) + "\n")
        refuse_what_cannot_fit(estimate, config, runner.progress.say)
        runner.needed = {
            item.unit.name: 0 if item.memory is None else item.memory.needed for item in estimate.units
        }
        if config.launch.engine == "local":
            os.environ[_APPROVED] = str(config.output)

    return approve


def say_time_left(config: Config) -> None:
    """The time that is left by the plan that `run` has made, and by the pace so far; nothing without a plan."""
    from cotbal.estimates.pace import planned_work, time_left
    from cotbal.output.store import OutputFolder

    folder = OutputFolder(config.output)
    work, at_once = planned_work(folder.plan)
    if work:
        say(str(time_left(folder, work, at_once)))
