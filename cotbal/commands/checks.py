"""`cotbal doctor` and `cotbal data check`: what is found out before any training."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from cotbal.commands.options import AllowCode, AllowRemote, ConfigPath, OutputPath
from cotbal.commands.session import allowed, load, plain_warnings, quieten_others, say, working
from cotbal.extras import check_extras

if TYPE_CHECKING:
    from cotbal.config.schema import Config

__all__ = ["data_check", "doctor"]


def doctor(
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            metavar="CONFIG",
            help="Also prove on one batch of this mixture that the task weights act.",
            show_default=False,
        ),
    ] = None,
    allow_code: AllowCode = False,
    allow_remote: AllowRemote = False,
) -> None:
    """Show what is installed, which loss kernels can run here, and why the others cannot.

    With a config, prove that task weights act: one batch goes through the config's own model and training settings,
    one task's weight is doubled, and the gradient must change by the formula. Launch it as you launch your training:
    [bold]torchrun --nproc-per-node 8 -m cotbal doctor --config my-mixture.yaml[/bold]
    """
    from cotbal.doctor import examine

    first = os.environ.get("RANK", "0") == "0"
    if first:
        Console(soft_wrap=True).print(examine())
    if config is not None:
        settings = allowed(load(config, None), allow_code, allow_remote)
        if not _weights_act(settings, tell=first):
            raise typer.Exit(1)


def _weights_act(config: Config, *, tell: bool) -> bool:
    check_extras("cotbal doctor --config", "train")
    from cotbal.units import stages

    quieten_others()
    if tell:
        say(f"\nchecking the task weights on one batch, with {config.model.name}")
    with plain_warnings():
        verification, task = stages.check_weights(config)
    if tell or not verification.passed:
        rank = "" if tell else f"rank {os.environ['RANK']}: "
        say(f"{rank}{verification}\n  task {verification.task} is {task}")
    return verification.passed


def data_check(
    config: ConfigPath,
    output: OutputPath = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Only headers of pictures, and a sample of records.")
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=0, help="Processes (default: one per processor).", show_default=False),
    ] = None,
    allow_code: AllowCode = False,
    allow_remote: AllowRemote = False,
) -> None:
    """Check every record as training would meet it; writes a page with samples. `run` begins with the same check.

    Example: [bold]cotbal data check my-mixture.yaml[/bold]
    """
    check_extras("cotbal data check", "train")
    from cotbal.units.data_check import check_and_show

    settings = allowed(load(config, output), allow_code, allow_remote)
    if quick:
        settings = settings.model_copy(update={"check": "quick"})
    with working(settings) as progress:
        usable = check_and_show(settings, progress, Console(), workers=workers)
    if not usable:
        raise typer.Exit(1)
