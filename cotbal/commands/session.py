"""What every command does around its work: read its config, speak, stop, and keep other packages quiet."""

from __future__ import annotations

import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from cotbal.terminal import printable

if TYPE_CHECKING:
    from cotbal.config.schema import Config
    from cotbal.method.weights import TaskWeights
    from cotbal.units.progress import ScheduleProgress

__all__ = [
    "allowed",
    "debugging",
    "load",
    "load_weights",
    "plain_warnings",
    "quieten_others",
    "say",
    "stoppable",
    "working",
]

debugging: ContextVar[bool] = ContextVar("debugging", default=False)
"""Whether `--debug` was given."""


def load_weights(path: Path | None) -> TaskWeights | None:
    from cotbal.method.weights import TaskWeights

    return None if path is None else TaskWeights.load(path)


def load(path: Path, output: Path | None) -> Config:
    from cotbal.config.schema import load_config

    return load_config(path, output=output)


def allowed(config: Config, allow_code: bool, allow_remote: bool) -> Config:
    """The config, if all it asks for has its user's word."""
    from cotbal.units.consent import require_consent

    require_consent(config, allow_code=allow_code, allow_remote=allow_remote)
    return config


@contextmanager
def working(config: Config) -> Iterator[ScheduleProgress]:
    """Show progress on the terminal, lock the output folder, and silence other packages."""
    from cotbal.output.store import OutputFolder
    from cotbal.units.display import LineProgress, RichProgress

    quieten_others()
    console = Console()
    progress = RichProgress(console) if console.is_terminal else LineProgress(console)
    with plain_warnings(), stoppable(), OutputFolder(config.output).locked():
        yield progress


@contextmanager
def stoppable() -> Iterator[None]:
    """Ctrl-C and a SIGTERM end a command with a line, not with a traceback, and with exit codes of their own."""
    from cotbal.units.stopping import STOPPED, StopHandler, UnitStoppedError

    def stop() -> None:
        raise UnitStoppedError("stopped; the same command continues from here")

    # A training takes the signal over while it lasts, to end with a checkpoint.
    earlier = signal.signal(signal.SIGTERM, StopHandler(stop))
    try:
        yield
    except KeyboardInterrupt:
        say("stopped; the same command continues from here")
        raise typer.Exit(130) from None
    except UnitStoppedError as stopped:
        say(str(stopped))
        raise typer.Exit(STOPPED) from None
    finally:
        signal.signal(signal.SIGTERM, earlier)


def quieten_others() -> None:
    """Show other packages' notes and progress bars only with --debug."""
    if not debugging.get():
        from cotbal.models.loading import quieten

        quieten()


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Show our own warnings as plain sentences, and those of other packages only with --debug."""
    if debugging.get():
        yield
        return
    console = Console(stderr=True, soft_wrap=True)

    def show(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, *rest: Any, **more: Any
    ) -> None:
        if category.__module__.split(".")[0] == "cotbal":
            console.print("[yellow]warning:[/yellow]", end=" ")
            console.print(printable(str(message)), highlight=False, markup=False)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = show
        yield


def say(message: str) -> None:
    Console(soft_wrap=True).print(printable(message), highlight=False, markup=False)
