"""The command line `cotbal`: one command for the whole job, one for each of its stages."""

from __future__ import annotations

import os
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from cotbal import __version__
from cotbal.extras import MissingExtraError, check_extras
from cotbal.terminal import printable

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
        "Balance the tasks of multi-task visual instruction tuning.\n\n"
        "Measures how much each task helps the others and how hard it is, turns that into one weight per task, "
        "and tunes with the weights in the loss. Start with\n\n"
        "    [bold]cotbal demo[/bold]                   the whole method on a small mixture, in minutes on a CPU\n\n"
        "    [bold]cotbal run my-mixture.yaml[/bold]    the same on your own model and data\n\n"
        "You can stop any command at any time; call it again, and it continues. "
        "After an error, add [bold]--debug[/bold] for the traceback."
    ),
)

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
    """Take the options of every command; `main` reads `--debug` itself, at any position."""


@app.command()
def run(
    config: ConfigPath,
    output: OutputPath = None,
    redo: Redo = False,
    allow_code: AllowCode = False,
    allow_remote: AllowRemote = False,
) -> None:
    """Prepare, weigh, tune and report, in this order; does only what is missing.

    Example: [bold]cotbal run examples/llava-1.5-7b.yaml[/bold]
    """
    check_extras("cotbal run", "train", "report")
    from cotbal.units import stages

    settings = _allowed(_load(config, output), allow_code, allow_remote)
    with _working(settings) as progress:
        stages.run_stages(settings, progress, redo=redo)
        values, page = stages.write_report(settings)
    _summarise(values, page)


@app.command()
def prepare(
    config: ConfigPath,
    output: OutputPath = None,
    redo: Redo = False,
    allow_code: AllowCode = False,
    allow_remote: AllowRemote = False,
) -> None:
    """Train and validate the N + 1 units of the preparation: mini, and plus_<task> for every task.

    Writes scores.csv. Example: [bold]cotbal prepare my-mixture.yaml[/bold]
    """
    check_extras("cotbal prepare", "train")
    from cotbal.units import stages

    settings = _allowed(_load(config, output), allow_code, allow_remote)
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
        float | None,
        typer.Option("--temperature", "-T", help="Softmax temperature (default: the config's, else 0.5)."),
    ] = None,
    lower_is_better: Annotated[
        list[str] | None,
        typer.Option(
            "--lower-is-better", metavar="TASK", help="A task whose metric is better when lower (CSV)."
        ),
    ] = None,
) -> None:
    """Turn scores into one weight per task; writes weights.json.

    Scores from other tools work too: a CSV with the models mini and plus_<task> on every task.
    Example: [bold]cotbal weigh scores.csv --temperature 0.5 -o weights.json[/bold]
    """
    from cotbal.units import stages

    with _plain_warnings():
        weights, path = stages.weigh_source(source, output, temperature, lower_is_better or [])
    _show_weights(weights)
    _say(f"weights: {path}")


@app.command("import")
def import_(
    patterns: Annotated[
        list[str],
        typer.Argument(
            metavar="PATTERN...",
            help="Paths of the files, with {model} and {task} in them, in quotation marks.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Where to write the score table.")
    ] = Path("scores.csv"),
    task: Annotated[
        list[str] | None,
        typer.Option(
            "--task", metavar="NAME=THEIRS", help="Take this task, by its name in the paths (repeatable)."
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", metavar="NAME=THEIRS", help="Take this model: mini=..., plus_vqa=..."),
    ] = None,
    score: Annotated[
        list[str] | None,
        typer.Option(
            "--score", metavar="TASK=NAME", help="Which score of the files, where there are several."
        ),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option("--metric", metavar="TASK=NAME", help="Score the answers by this metric of cotbal's."),
    ] = None,
    lower_is_better: Annotated[
        list[str] | None,
        typer.Option("--lower-is-better", metavar="TASK", help="A task whose score is better when lower."),
    ] = None,
) -> None:
    """Make a score table of what lmms-eval, VLMEvalKit, ms-swift or LLaMA-Factory wrote.

    Samples are paired over the models; what cannot be paired or has no score is refused by file and line.
    Example: [bold]cotbal import 'out/{model}/*_samples_{task}.jsonl' --task vqa=vqav2_val -o scores.csv[/bold]
    """
    from cotbal.imports.sources import find_sources
    from cotbal.imports.table import import_scores

    sources = find_sources(
        patterns, tasks=_pairs("--task", task, alone=True), models=_pairs("--model", model, alone=True)
    )
    with _plain_warnings():
        scores = import_scores(
            sources,
            keys=_pairs("--score", score),
            metrics=_pairs("--metric", metric),
            lower_is_better=lower_is_better or (),
        )
    scores.save(output)
    table = scores.table
    for name, higher in zip(table.tasks, table.higher_is_better, strict=True):
        _say(f"  {name}: {len(scores.ids[name])} samples, {'higher' if higher else 'lower'} is better")
    _say(f"{len(sources)} files of {len(table.models)} models on {len(table.tasks)} tasks: {output}")
    missing = scores.missing()
    _say(f"missing for weighing: {', '.join(missing)}" if missing else f"next: cotbal weigh {output}")


def _pairs(option: str, given: Sequence[str] | None, *, alone: bool = False) -> dict[str, str]:
    """`NAME=VALUE` options as a dictionary; `alone`: a NAME without a value stands for itself."""
    pairs: dict[str, str] = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        if not name or (equals and not value) or not (equals or alone):
            raise typer.BadParameter(f"found {text!r}; NAME=VALUE is needed", param_hint=option)
        if name in pairs:
            raise typer.BadParameter(f"{name!r} is given twice", param_hint=option)
        pairs[name] = value or name
    return pairs


@app.command()
def tune(
    config: ConfigPath,
    output: OutputPath = None,
    weights: WeightsPath = None,
    redo: Redo = False,
    allow_code: AllowCode = False,
    allow_remote: AllowRemote = False,
) -> None:
    """Tune with every strategy of `comparison`, and score the tuned models on the test sets.

    Example: [bold]cotbal tune my-mixture.yaml --weights weights.json[/bold]
    """
    check_extras("cotbal tune", "train")
    from cotbal.units import stages

    settings = _allowed(_load(config, output), allow_code, allow_remote)
    given = _load_weights(weights)
    with _working(settings) as progress:
        units = stages.tune(settings, progress, weights=given, redo=redo)
    for unit in units:
        _say(f"{unit.name}: {settings.output / 'units' / unit.name / 'model'}")


@app.command()
def report(config: ConfigPath, output: OutputPath = None) -> None:
    """Write report.md, report.html and report.json from what has been done so far.

    Example: [bold]cotbal report my-mixture.yaml[/bold]
    """
    check_extras("cotbal report", "report")
    from cotbal.units import stages

    settings = _load(config, output)
    with _plain_warnings():
        values, page = stages.write_report(settings)
    _summarise(values, page)


@app.command()
def status(config: ConfigPath, output: OutputPath = None) -> None:
    """Show which units are done and what is left to do; changes nothing.

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
        settings = _allowed(_load(config, None), allow_code, allow_remote)
        if not _weights_act(settings, tell=first):
            raise typer.Exit(1)


def _weights_act(config: Config, *, tell: bool) -> bool:
    check_extras("cotbal doctor --config", "train")
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

    _quiet()
    chosen = get_mixture(mixture)
    config = prepare_demo(output or Path("demo" if mixture == "shared" else f"demo-{mixture}"), chosen)
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
    allow_code: AllowCode = False,
    allow_remote: AllowRemote = False,
) -> None:
    """Check every record as training would meet it; writes a page with samples. `run` begins with the same check.

    Example: [bold]cotbal data check my-mixture.yaml[/bold]
    """
    check_extras("cotbal data check", "train")
    from cotbal.units.data_check import check_and_show

    settings = _allowed(_load(config, output), allow_code, allow_remote)
    if quick:
        settings = settings.model_copy(update={"check": "quick"})
    with _working(settings) as progress:
        usable = check_and_show(settings, progress, Console(), workers=workers)
    if not usable:
        raise typer.Exit(1)


@app.command()
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

    settings = _allowed(_load(config, output), allow_code, allow_remote)
    given = _load_weights(weights)
    folder = OutputFolder(settings.output)
    _quiet()
    with _plain_warnings(), _stoppable():
        progress = FileProgress(folder.progress_of(name)) if ranks.is_first() else NoProgress()
        stages.run_unit(settings, name, progress, given)


def _load_weights(path: Path | None) -> TaskWeights | None:
    from cotbal.method.weights import TaskWeights

    return None if path is None else TaskWeights.load(path)


def _load(path: Path, output: Path | None) -> Config:
    from cotbal.config.schema import load_config

    return load_config(path, output=output)


def _allowed(config: Config, allow_code: bool, allow_remote: bool) -> Config:
    """The config, if all it asks for has its user's word."""
    from cotbal.units.consent import require_consent

    require_consent(config, allow_code=allow_code, allow_remote=allow_remote)
    return config


@contextmanager
def _working(config: Config) -> Iterator[ScheduleProgress]:
    """Show progress on the terminal, lock the output folder, and silence other packages."""
    from cotbal.units.display import LineProgress, RichProgress
    from cotbal.units.store import OutputFolder

    _quiet()
    console = Console()
    progress = RichProgress(console) if console.is_terminal else LineProgress(console)
    with _plain_warnings(), _stoppable(), OutputFolder(config.output).locked():
        yield progress


@contextmanager
def _stoppable() -> Iterator[None]:
    """Ctrl-C and a SIGTERM end a command with a line, not with a traceback, and with exit codes of their own."""
    from cotbal.units.stopping import STOPPED, UnitStoppedError

    def stop(*_: object) -> None:
        raise UnitStoppedError("stopped; the same command continues from here")

    # A training takes the signal over while it lasts, to end with a checkpoint.
    earlier = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        _say("stopped; the same command continues from here")
        raise typer.Exit(130) from None
    except UnitStoppedError as stopped:
        _say(str(stopped))
        raise typer.Exit(STOPPED) from None
    finally:
        signal.signal(signal.SIGTERM, earlier)


def _quiet() -> None:
    """Show other packages' notes and progress bars only with --debug."""
    if not _debug.get():
        from cotbal.units.loading import quieten

        quieten()


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Show our own warnings as plain sentences, and those of other packages only with --debug."""
    if _debug.get():
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


def _summarise(values: ReportInput, page: Path) -> None:
    """Show the report's path, a table, and last the verdict."""
    from cotbal.report.console import summary

    _say(f"\nreport: {page}\n")
    Console().print(summary(values))


def _show_weights(weights: TaskWeights) -> None:
    width = max(map(len, weights.tasks))
    for task, weight in weights.as_dict().items():
        _say(f"  {task:<{width}}  {weight:.3f}")


def _say(message: str) -> None:
    Console(soft_wrap=True).print(printable(message), highlight=False, markup=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 2 for a mistake in the input, or 1 for a bug."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    token = _debug.set("--debug" in given or os.environ.get("COTBAL_DEBUG") == "1")
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
        _debug.reset(token)
        if "--debug" in given:
            del os.environ["COTBAL_DEBUG"]
    return 0


def _explain(error: Exception) -> int:
    ours = _is_mistake_of_input(error)
    console = Console(stderr=True, soft_wrap=True)
    if _debug.get() or not ours:
        traceback.print_exception(error)
    if ours:
        console.print("[red]error:[/red]", end=" ")
        console.print(printable(str(error)), highlight=False, markup=False)
        return 2
    console.print("[red]This is an error inside cotbal or a package it uses; the traceback is above.[/red]")
    return 1


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
