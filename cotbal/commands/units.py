"""`cotbal unit`, `cotbal status` and `cotbal export`: single units of a schedule."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cotbal.commands.options import AllowCode, AllowRemote, ConfigPath, OutputPath, WeightsPath
from cotbal.commands.plan import refuse_unfit, say_time_left
from cotbal.commands.session import (
    allowed,
    load,
    load_weights,
    plain_warnings,
    quieten_others,
    say,
    stoppable,
)
from cotbal.extras import check_extras
from cotbal.units.launch.tied import tie_to

__all__ = ["export", "status", "unit"]


def status(config: ConfigPath, output: OutputPath = None) -> None:
    """Show which units are done and what is left to do; changes nothing.

    Example: [bold]cotbal status my-mixture.yaml[/bold]
    """
    from cotbal.units.status import status_table

    settings = load(config, output)
    Console().print(status_table(settings))
    say_time_left(settings)


def unit(
    config: ConfigPath,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the unit, as `status` shows it.")],
    output: OutputPath = None,
    weights: WeightsPath = None,
    allow_code: AllowCode = False,
    allow_remote: AllowRemote = False,
) -> None:
    """Make one unit: train it and score it, in this process or in those that torchrun started.

    `cotbal run` starts its units by this command; a job array or another scheduler can start them, too. A SIGTERM
    ends it with a checkpoint and exit code 75 (1 under torchrun); started again, it goes on from there.
    Example: [bold]torchrun --nproc-per-node 8 -m cotbal unit my-mixture.yaml mini[/bold]
    """
    check_extras("cotbal unit", "train")
    if "LOCAL_RANK" in os.environ:
        # Else it would go on alone, and nobody could tell, where its launcher is killed.
        tie_to(os.getppid())
    from cotbal.output.store import OutputFolder
    from cotbal.units import ranks, stages
    from cotbal.units.display import LineProgress
    from cotbal.units.launch.following import FileProgress
    from cotbal.units.progress import NoProgress
    from cotbal.units.stopping import ended_if_deaf

    settings = allowed(load(config, output), allow_code, allow_remote)
    given = load_weights(weights)
    folder = OutputFolder(settings.output)
    quieten_others()
    # One of several may wait for another that has stopped already.
    with plain_warnings(), stoppable(), ended_if_deaf() if "LOCAL_RANK" in os.environ else nullcontext():
        lines = LineProgress(Console())
        progress = FileProgress(folder.progress_of(name), lines) if ranks.is_first() else NoProgress()
        stages.run_unit(settings, name, progress, given, approve=refuse_unfit(settings))


def export(
    config: ConfigPath,
    name: Annotated[
        str, typer.Argument(metavar="UNIT", help="Name of a trained unit, as `status` shows it.")
    ],
    target: Annotated[
        Path,
        typer.Option("--to", "-o", metavar="DIR", help="Folder to write; it must not exist, or be empty."),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            metavar="DIR",
            help="Where the units are, if not in the config's `output`.",
            show_default=False,
        ),
    ] = None,
    allow_code: AllowCode = False,
    allow_remote: AllowRemote = False,
) -> None:
    """Write a unit's model to a folder that plain `from_pretrained` loads, and every server that reads such folders.

    Of a unit with adapters, the adapter is merged into the base model. That of a 4-bit or 8-bit base is merged into
    the unquantised model. A unit without adapters is copied.
    Example: [bold]cotbal export my-mixture.yaml cotbal-seed0 -o my-model[/bold]
    """
    check_extras("cotbal export", "train")
    from cotbal.units.export import export_model

    settings = allowed(load(config, output), allow_code, allow_remote)
    quieten_others()
    with plain_warnings(), stoppable():
        export_model(settings, name, target.absolute(), say)
    say(f"{name} is in {target}")
