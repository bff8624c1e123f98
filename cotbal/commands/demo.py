"""`cotbal demo`: the whole method on a small mixture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cotbal.commands.session import quieten_others
from cotbal.commands.stages import run
from cotbal.extras import check_extras

__all__ = ["demo"]


def demo(
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="Where data, model and results go (default: demo, or demo-NAME).",
            show_default=False,
        ),
    ] = None,
    mixture: Annotated[
        str,
        typer.Option(
            "--mixture",
            metavar="NAME",
            help="shared: six tasks that share knowledge; conflict: three pairs that want other answers to the same "
            "questions; uneven: eleven of unequal size and difficulty.",
        ),
    ] = "shared",
) -> None:
    """Run the whole method on a small mixture of real pictures, on a CPU.

    Example: [bold]cotbal demo --output /tmp/demo[/bold]
    """
    check_extras("cotbal demo", "demo", "train", "report")
    from cotbal.demo.build import prepare_demo
    from cotbal.demo.mixtures import get_mixture

    quieten_others()
    chosen = get_mixture(mixture)
    config = prepare_demo(output or Path("demo" if mixture == "shared" else f"demo-{mixture}"), chosen)
    run(config, None, False)
