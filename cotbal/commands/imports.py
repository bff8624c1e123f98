"""`cotbal import`: score tables from what other tools wrote."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from cotbal.commands.session import plain_warnings, say

__all__ = ["import_"]


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
    with plain_warnings():
        scores = import_scores(
            sources,
            keys=_pairs("--score", score),
            metrics=_pairs("--metric", metric),
            lower_is_better=lower_is_better or (),
        )
    scores.save(output)
    table = scores.table
    for name, higher in zip(table.tasks, table.higher_is_better, strict=True):
        say(f"  {name}: {len(scores.ids[name])} samples, {'higher' if higher else 'lower'} is better")
    say(f"{len(sources)} files of {len(table.models)} models on {len(table.tasks)} tasks: {output}")
    missing = scores.missing()
    say(f"missing for weighing: {', '.join(missing)}" if missing else f"next: cotbal weigh {output}")


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
