"""The command line `cotbal`: one command for the whole job, one for each of its stages."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from cotbal import __version__

if TYPE_CHECKING:
    from cotbal.config.schema import Config
    from cotbal.method.weights import TaskWeights
    from cotbal.report.inputs import ReportInput
    from cotbal.units.progress import ScheduleProgress

__all__ = ["app", "main"]

_debug: ContextVar[bool] = ContextVar("debug", default=False)

app = typer.Typer(
    name="cotbal",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Balance the tasks of a multi-task visual instruction tuning.\n\n"
        "Measures how much each task helps the others and how hard each is, turns that into one weight a task, "
        "and tunes with the weights in the loss. Start with\n\n"
        "    [bold]cotbal demo[/bold]                   the whole method on a small mixture, in minutes on a CPU\n\n"
        "    [bold]cotbal run my-mixture.yaml[/bold]    the same on your own model and data\n\n"
        "Every command can be stopped at any time and called again: it goes on where it was. "
        "After an error, add [bold]--debug[/bold] for the traceback."
    ),
)

ConfigPath = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="The mixture: a YAML file.", show_default=False)
]
OutputPath = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="DIR", help="Work here, not in the config's `output`.", show_default=False
    ),
]
Redo = Annotated[
    bool, typer.Option("--redo", help="Discard results that no longer fit the config, and redo them.")
]


def _show_version(wanted: bool) -> None:
    if wanted:
        _say(f"cotbal {__version__}")
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
    """Options that every command shares; `main` reads ``--debug`` itself, wherever it stands."""


@app.command()
def run(config: ConfigPath, output: OutputPath = None, redo: Redo = False) -> None:
    """Prepare, weigh, tune and report, in this order; does only what is missing.

    Example: [bold]cotbal run examples/llava-1.5-7b.yaml[/bold]
    """
    from cotbal.units import stages

    settings = _load(config, output)
    with _working(settings) as progress:
        stages.run_stages(settings, progress, redo=redo)
        values, page = stages.write_report(settings)
    _summarise(values, page)


@app.command()
def prepare(config: ConfigPath, output: OutputPath = None, redo: Redo = False) -> None:
    """Train and validate the N + 1 units of the preparation: mini, and plus_<task> for every task.

    Writes scores.csv. Example: [bold]cotbal prepare my-mixture.yaml[/bold]
    """
    from cotbal.units import stages

    settings = _load(config, output)
    with _working(settings) as progress:
        table = stages.prepare(settings, progress, redo=redo)
    _say(f"{len(table.models)} models scored on {len(table.tasks)} tasks: {settings.output / 'scores.csv'}")


@app.command()
def weigh(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="A config, its output folder, or a CSV of scores with the columns model, task, score.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Where to write the weights.", show_default=False
        ),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", "-T", help="Of the softmax; 0.5 unless the config says.")
    ] = None,
    lower_is_better: Annotated[
        list[str] | None,
        typer.Option(
            "--lower-is-better", metavar="TASK", help="A task whose metric is better when lower (CSV)."
        ),
    ] = None,
) -> None:
    """Turn scores into one weight a task; writes weights.json.

    Scores made with other tools will do: a CSV with the models mini and plus_<task> on every task.
    Example: [bold]cotbal weigh scores.csv --temperature 0.5 -o weights.json[/bold]
    """
    from cotbal.units import stages

    with _plain_warnings():
        weights, path = stages.weigh_source(source, output, temperature, lower_is_better or [])
    _show_weights(weights)
    _say(f"weights: {path}")


@app.command()
def tune(
    config: ConfigPath,
    output: OutputPath = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights",
            metavar="FILE",
            help="Measured weights, if not the output folder's.",
            show_default=False,
        ),
    ] = None,
    redo: Redo = False,
) -> None:
    """Tune with the weights, and what `comparison` sets beside it; scores every result on the test sets.

    Example: [bold]cotbal tune my-mixture.yaml --weights weights.json[/bold]
    """
    from cotbal.method.weights import TaskWeights
    from cotbal.units import stages

    settings = _load(config, output)
    given = None if weights is None else TaskWeights.load(weights)
    with _working(settings) as progress:
        units = stages.tune(settings, progress, weights=given, redo=redo)
    for unit in units:
        _say(f"{unit.name}: {settings.output / 'units' / unit.name / 'model'}")


@app.command()
def report(config: ConfigPath, output: OutputPath = None) -> None:
    """Write report.md, report.html and report.json from what has been done so far.

    Example: [bold]cotbal report my-mixture.yaml[/bold]
    """
    from cotbal.units import stages

    settings = _load(config, output)
    with _plain_warnings():
        values, page = stages.write_report(settings)
    _summarise(values, page)


@app.command()
def status(config: ConfigPath, output: OutputPath = None) -> None:
    """Show how far each unit is and what is left to do; changes nothing.

    Example: [bold]cotbal status my-mixture.yaml[/bold]
    """
    from cotbal.units.status import status_table

    settings = _load(config, output)
    Console().print(status_table(settings))


@app.command()
def doctor(
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            metavar="CONFIG",
            help="Also prove on one batch of this mixture that task weights act.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Say what is installed, which loss kernels can run here, and why the others cannot.

    With a config, one batch goes through its own model and training settings; one task's weight is doubled, and the
    gradient has to move by the formula. Start it as you start your training, and it checks that too:
    [bold]torchrun --nproc-per-node 8 -m cotbal doctor --config my-mixture.yaml[/bold]
    """
    from cotbal.doctor import examine

    first = os.environ.get("RANK", "0") == "0"
    if first:
        Console(soft_wrap=True).print(examine())
    if config is not None and not _weights_act(_load(config, None), tell=first):
        raise typer.Exit(1)


def _weights_act(config: Config, *, tell: bool) -> bool:
    from cotbal.units import stages

    _quiet()
    if tell:
        _say(f"\nchecking the task weights on one batch, with {config.model.name}")
    with _plain_warnings():
        verification, task = stages.check_weights(config)
    if tell or not verification.passed:
        rank = "" if tell else f"rank {os.environ['RANK']}: "
        _say(f"{rank}{verification}\n  task {verification.task} is {task}")
    return verification.passed


@app.command()
def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Where data, model and results go.")
    ] = Path("demo"),
) -> None:
    """The whole method on a small mixture of real pictures, on a CPU: `cotbal run` on a shipped config.

    Example: [bold]cotbal demo --output /tmp/demo[/bold]
    """
    from cotbal.demo.build import prepare_demo

    _quiet()
    config = prepare_demo(output)
    run(config, None, False)


data = typer.Typer(help="Look at the data of a mixture.", no_args_is_help=True)
app.add_typer(data, name="data")


@data.command("check")
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
) -> None:
    """Check every record as training would meet it; writes a page with samples. `run` begins with the same check.

    Example: [bold]cotbal data check my-mixture.yaml[/bold]
    """
    from cotbal.units.data_check import check_and_show

    settings = _load(config, output)
    if quick:
        settings = settings.model_copy(update={"check": "quick"})
    with _working(settings) as progress:
        usable = check_and_show(settings, progress, Console(), workers=workers)
    if not usable:
        raise typer.Exit(1)


@app.command(hidden=True)
def unit(
    config: ConfigPath,
    name: Annotated[str, typer.Argument(help="Name of the unit, as `status` shows it.")],
    output: OutputPath = None,
) -> None:
    """Run one unit in this process; for launchers."""
    from cotbal.units import stages

    settings = _load(config, output)
    with _working(settings, lock=False) as progress:
        stages.run_unit(settings, name, progress)


def _load(path: Path, output: Path | None) -> Config:
    from cotbal.config.schema import load_config

    return load_config(path, output=output)


@contextmanager
def _working(config: Config, *, lock: bool = True) -> Iterator[ScheduleProgress]:
    """Progress on the terminal, the output folder locked, and other packages' chatter off."""
    from cotbal.units.display import LineProgress, RichProgress
    from cotbal.units.store import OutputFolder

    _quiet()
    console = Console()
    progress = RichProgress(console) if console.is_terminal else LineProgress(console)
    with _plain_warnings():
        try:
            with OutputFolder(config.output).locked() if lock else nullcontext():
                yield progress
        except KeyboardInterrupt:
            _say("stopped; the same command goes on from here")
            raise typer.Exit(130) from None


def _quiet() -> None:
    """Other packages' notes and progress bars only with --debug."""
    if not _debug.get():
        from cotbal.units.loading import quieten

        quieten()


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Our own warnings as plain sentences; those of other packages only with --debug."""
    if _debug.get():
        yield
        return
    console = Console(stderr=True, soft_wrap=True)

    def show(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, *rest: Any, **more: Any
    ) -> None:
        if category.__module__.split(".")[0] == "cotbal":
            console.print(f"[yellow]warning:[/yellow] {message}", highlight=False)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = show
        yield


def _summarise(values: ReportInput, page: Path) -> None:
    """The path of the report, a table, and who was ahead as the last line."""
    from cotbal.report.console import summary

    _say(f"\nreport: {page}\n")
    Console().print(summary(values))


def _show_weights(weights: TaskWeights) -> None:
    width = max(map(len, weights.tasks))
    for task, weight in weights.as_dict().items():
        _say(f"  {task:<{width}}  {weight:.3f}")


def _say(message: str) -> None:
    Console(soft_wrap=True).print(message, highlight=False, markup=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 2 for a mistake of the user's, 1 for one of ours."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    token = _debug.set("--debug" in given)
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
        _debug.reset(token)
    return 0


def _explain(error: Exception) -> int:
    ours = _is_mistake_of_input(error)
    console = Console(stderr=True, soft_wrap=True)
    if _debug.get() or not ours:
        traceback.print_exception(error)
    if ours:
        console.print("[red]error:[/red]", end=" ")
        console.print(str(error), highlight=False, markup=False)
        return 2
    console.print("[red]This is an error inside cotbal or a package it uses; the traceback is above.[/red]")
    return 1


def _is_mistake_of_input(error: Exception) -> bool:
    """Whether an error is one of our own checks, a ValueError or TypeError raised by a line of ours, or a file's."""
    if isinstance(error, OSError):
        return True
    if not isinstance(error, (ValueError, TypeError)):
        return False
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and frames[-1].f_globals.get("__name__", "").split(".")[0] in (
        "cotbal",
        "cotbal_kernels",
    )
