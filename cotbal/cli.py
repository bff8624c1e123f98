"""The command line `cotbal`: one command for the whole job, one for each of its stages."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import Console

from cotbal import __version__
from cotbal.commands import checks, demo, imports, plan, stages, units
from cotbal.commands.session import debugging, say
from cotbal.extras import MissingExtraError
from cotbal.terminal import printable

__all__ = ["app", "main"]

_OF_DISKS = {
    errno.ENOSPC: "Make room there",
    errno.EDQUOT: "Make room there, or have the quota raised",
    errno.EROFS: "Make it writable, or give another `output`",
    errno.EIO: "The disk or the network behind it failed: have it looked at",
    errno.ESTALE: "The file server gave another answer than before: have it looked at",
    errno.ETIMEDOUT: "The file server did not answer: have it looked at",
}

app = typer.Typer(
    name="cotbal",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Balance the tasks of multi-task visual instruction tuning.\n\n"
        "Measures how much each task helps the others and how hard it is, turns that into one weight per task, "
        "and tunes with the weights in the loss. Start with\n\n"
        "    [bold]cotbal demo[/bold]                   the whole method on a small mixture, in minutes on a CPU\n\n"
        "    [bold]cotbal run my-mixture.yaml[/bold]    the same on your own model and data\n\n"
        "You can stop any command at any time; call it again, and it continues. "
        "After an error, add [bold]--debug[/bold] for the traceback."
    ),
)


def _show_version(wanted: bool) -> None:
    if wanted:
        say(f"cotbal {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks, and what other packages say.")
    ] = False,
) -> None:
    """Take the options of every command; `main` reads `--debug` itself, at any position."""


# In the order in which `--help` shows them.
app.command()(stages.run)
app.command()(stages.prepare)
app.command()(stages.weigh)
app.command("import")(imports.import_)
app.command()(stages.tune)
app.command()(stages.report)
app.command()(plan.plan)
app.command()(units.status)
app.command()(checks.doctor)
app.command()(demo.demo)
data = typer.Typer(help="Look at the data of a mixture.", no_args_is_help=True)
data.command("check")(checks.data_check)
app.add_typer(data, name="data")
for _command in (units.unit, units.export):
    app.command()(_command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 2 for a mistake in the input, or 1 for a bug."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    token = debugging.set("--debug" in given or os.environ.get("COTBAL_DEBUG") == "1")
    if "--debug" in given:
        # For the units' commands.
        os.environ["COTBAL_DEBUG"] = "1"
    try:
        app(
            args=[argument for argument in given if argument != "--debug"],
            prog_name="cotbal",
            standalone_mode=True,
        )
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else 1
    except Exception as error:
        return _explain(error)
    finally:
        debugging.reset(token)
        if "--debug" in given:
            del os.environ["COTBAL_DEBUG"]
    return 0


def _explain(error: Exception) -> int:
    ours = _is_mistake_of_input(error)
    console = Console(stderr=True, soft_wrap=True)
    if debugging.get() or not ours:
        traceback.print_exception(error)
    if ours:
        console.print("[red]error:[/red]", end=" ")
        console.print(printable(_told(error)), highlight=False, markup=False)
        return 2
    console.print("[red]This is an error inside cotbal or a package it uses; the traceback is above.[/red]")
    return 1


def _told(error: Exception) -> str:
    """The error's text; where the disk is at fault, with what to do about it."""
    text = str(error)
    # Where transformers could not read a model's files, the disk's error is what ours came from.
    chain: BaseException | None = error
    remedy = None
    while chain is not None and remedy is None:
        remedy = _OF_DISKS.get(chain.errno or 0) if isinstance(chain, OSError) else None
        chain = chain.__cause__ or chain.__context__
    # An error that has its own advice says that already.
    if remedy is None or "goes on" in text:
        return text
    return f"{text}. {remedy}; the same command then goes on from what is finished"


def _is_mistake_of_input(error: Exception) -> bool:
    """Whether the error is a file's, a missing extra's, or a ValueError or TypeError that our own checks raise."""
    if isinstance(error, (OSError, MissingExtraError)):
        return True
    if not isinstance(error, (ValueError, TypeError)):
        return False
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and frames[-1].f_globals.get("__name__", "").split(".")[0] in (
        "cotbal",
        "cotbal_kernels",
    )
