"""`cotbal unit` and `cotbal status`: single units of a schedule."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from cotbal.commands.options import AllowCode, AllowRemote, ConfigPath, OutputPath, WeightsPath
from cotbal.commands.session import allowed, load, load_weights, plain_warnings, quieten_others, stoppable
from cotbal.extras import check_extras

__all__ = ["status", "unit"]


def status(config: ConfigPath, output: OutputPath = None) -> None:
    """Show which units are done and what is left to do; changes nothing.

    Example: [bold]cotbal status my-mixture.yaml[/bold]
    """
    from cotbal.units.status import status_table

    settings = load(config, output)
    Console().print(status_table(settings))


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
    from cotbal.units import ranks, stages
    from cotbal.units.launch.following import FileProgress
    from cotbal.units.progress import NoProgress
    from cotbal.units.store import OutputFolder

    settings = allowed(load(config, output), allow_code, allow_remote)
    given = load_weights(weights)
    folder = OutputFolder(settings.output)
    quieten_others()
    with plain_warnings(), stoppable():
        progress = FileProgress(folder.progress_of(name)) if ranks.is_first() else NoProgress()
        stages.run_unit(settings, name, progress, given)
