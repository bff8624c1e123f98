"""`cotbal run` and the commands of its stages: prepare, weigh, tune, report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from cotbal.commands.options import AllowCode, AllowRemote, ConfigPath, OutputPath, Redo, WeightsPath
from cotbal.commands.plan import refuse_unfit
from cotbal.commands.session import allowed, load, load_weights, plain_warnings, say, working
from cotbal.extras import check_extras

if TYPE_CHECKING:
    from cotbal.method.weights import TaskWeights
    from cotbal.report.inputs import ReportInput

__all__ = ["prepare", "report", "run", "tune", "weigh"]


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

    settings = allowed(load(config, output), allow_code, allow_remote)
    with working(settings) as progress:
        stages.run_stages(settings, progress, redo=redo, approve=refuse_unfit(settings))
        values, page = stages.write_report(settings)
    _summarise(values, page)


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

    settings = allowed(load(config, output), allow_code, allow_remote)
    with working(settings) as progress:
        table = stages.prepare(settings, progress, redo=redo, approve=refuse_unfit(settings))
    say(f"{len(table.models)} models scored on {len(table.tasks)} tasks: {settings.output / 'scores.csv'}")


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
            "--output",
            "-o",
            metavar="FILE",
            help="Where to write the weights; with a config, the folder to work in, as for every command.",
            show_default=False,
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

    Scores from other tools work too: a CSV with the models mini and plus_<task> on every task. Intervals cover the
    validation samples only, until the scores are of several seeds (preparation.seeds, or a column seed).
    Example: [bold]cotbal weigh scores.csv --temperature 0.5 -o weights.json[/bold]
    """
    from cotbal.units import stages

    with plain_warnings():
        weights, path = stages.weigh_source(source, output, temperature, lower_is_better or [])
    _show_weights(weights)
    say(f"weights: {path}")


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

    settings = allowed(load(config, output), allow_code, allow_remote)
    given = load_weights(weights)
    with working(settings) as progress:
        units = stages.tune(settings, progress, weights=given, redo=redo, approve=refuse_unfit(settings))
    for unit in units:
        model = settings.output / "units" / unit.name / "model"
        say(f"{unit.name}: {model if model.is_dir() else 'scored; its model was not kept'}")


def report(config: ConfigPath, output: OutputPath = None) -> None:
    """Write report.md, report.html and report.json from what has been done so far.

    Example: [bold]cotbal report my-mixture.yaml[/bold]
    """
    check_extras("cotbal report", "report")
    from cotbal.units import stages

    settings = load(config, output)
    with plain_warnings():
        values, page = stages.write_report(settings)
    _summarise(values, page)


def _summarise(values: ReportInput, page: Path) -> None:
    """Show the report's path, a table, and last the verdict."""
    from cotbal.report.console import summary

    say(f"\nreport: {page}\n")
    Console().print(summary(values))


def _show_weights(weights: TaskWeights) -> None:
    width = max(map(len, weights.tasks))
    for task, weight in weights.as_dict().items():
        say(f"  {task:<{width}}  {weight:.3f}")
