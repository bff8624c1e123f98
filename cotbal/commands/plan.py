"""`cotbal plan`: what a schedule takes, before anything runs."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from cotbal.commands.options import AllowCode, AllowRemote, ConfigPath, OutputPath
from cotbal.commands.session import allowed, load, plain_warnings, quieten_others
from cotbal.extras import check_extras

if TYPE_CHECKING:
    from collections.abc import Callable

    from cotbal.config.schema import Config
    from cotbal.estimates.schedule import ScheduleEstimate
    from cotbal.units.runner import Runner

__all__ = ["plan", "refuse_unfit"]


def plan(
    config: ConfigPath,
    output: OutputPath = None,
    memory: Annotated[
        float | None,
        typer.Option(
            "--memory",
            metavar="GIB",
            min=0.001,
            help="Memory of each process, if not that of this machine's GPUs.",
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

    No weights are read: one training step is played through with tensors that have shapes and no data. The exit code
    is 1 if something does not fit; [bold]cotbal run[/bold] then refuses to start. Time is known once units have made
    some steps.

    On a machine without GPUs, give the memory of those that will train, and set `launch.processes` in the config:
    [bold]cotbal plan my-mixture.yaml --memory 80[/bold]

    With --commands, one line per unit for a job array or Kubernetes; units that are tuned with measured weights wait
    for the line `weigh`: [bold]cotbal plan my-mixture.yaml --commands --json[/bold]
    """
    check_extras("cotbal plan", "train")
    settings = load(config, output)
    if commands:
        _print_commands(settings, moved=output is not None, as_json=as_json)
        return
    from cotbal.estimates.table import estimate_table, estimate_values

    settings = allowed(settings, allow_code, allow_remote)
    quieten_others()
    with plain_warnings():
        estimate = _estimate(settings, memory)
    if as_json:
        typer.echo(json.dumps(estimate_values(estimate), indent=1))
    else:
        Console(soft_wrap=True).print(estimate_table(settings, estimate))
    if estimate.faults:
        raise typer.Exit(1)


def _estimate(config: Config, memory: float | None) -> ScheduleEstimate:
    from cotbal.estimates.schedule import estimate_schedule
    from cotbal.units.progress import NoProgress
    from cotbal.units.runner import Runner

    runner = Runner(config, NoProgress())
    return estimate_schedule(config, runner.mixture, runner.settings, lambda: runner.processor, memory=memory)


def _print_commands(config: Config, *, moved: bool, as_json: bool) -> None:
    from cotbal.estimates.commands import schedule_steps, shell_lines

    if moved:
        raise typer.BadParameter(
            "not with --commands; write `output` in the config, which all commands read",
            param_hint="--output",
        )
    steps = schedule_steps(config)
    typer.echo(json.dumps([asdict(step) for step in steps], indent=1) if as_json else shell_lines(steps))


def refuse_unfit(config: Config) -> Callable[[Runner], None]:
    """What `run` and its stages do before they start: estimate, and stop if something cannot fit."""
    from cotbal.estimates.schedule import estimate_schedule, refuse_what_cannot_fit

    def approve(runner: Runner) -> None:
        estimate = estimate_schedule(config, runner.mixture, runner.settings, lambda: runner.processor)
        refuse_what_cannot_fit(estimate, config, runner.progress.say)

    return approve
