"""Arguments and options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["AllowCode", "AllowRemote", "ConfigPath", "OutputPath", "Redo", "WeightsPath"]

ConfigPath = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="The mixture: a YAML file.", show_default=False)
]
OutputPath = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="DIR",
        help="Work in DIR instead of the config's `output`.",
        show_default=False,
    ),
]
WeightsPath = Annotated[
    Path | None,
    typer.Option(
        "--weights", metavar="FILE", help="Measured weights, if not the output folder's.", show_default=False
    ),
]
Redo = Annotated[
    bool, typer.Option("--redo", help="Discard results that no longer fit the config, and redo them.")
]
AllowCode = Annotated[
    bool,
    typer.Option(
        "--allow-code", help="Let the config run code of its own (module:function, trust_remote_code)."
    ),
]
AllowRemote = Annotated[
    bool,
    typer.Option("--allow-remote", help="Let the config send to others (push_to_hub, tokens, report_to)."),
]
