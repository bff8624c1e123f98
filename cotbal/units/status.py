"""Show in a table how far a config's units are; only reads."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cotbal.config.schema import Config
from cotbal.output.checkpoints import last_complete, step_of
from cotbal.output.holder import Holder
from cotbal.output.manifest import Manifest
from cotbal.output.score_file import DamagedFileError
from cotbal.output.standing import Standing, read_standing
from cotbal.output.store import OutputFolder, UnitFolder
from cotbal.output.unit_output import last_words
from cotbal.terminal import printable
from cotbal.units.display import show_time
from cotbal.units.schedule import Unit, make_schedule

__all__ = ["status_table"]

_HEADINGS = ("unit", "stage", "state", "steps", "training", "scoring", "last losses")
_LEFT = ("unit", "stage", "state", "last losses")


def status_table(config: Config) -> RenderableType:
    """Make a table with one row per unit, then what failed units said last, and the results that exist."""
    folder = OutputFolder(config.output)
    table = Table(title=str(folder.path), title_justify="left", box=None, pad_edge=False)
    for heading in _HEADINGS:
        table.add_column(heading, justify="left" if heading in _LEFT else "right")
    done = 0
    failed: list[Text] = []
    units = make_schedule(config).units
    for unit in units:
        place = folder.unit(unit.name)
        manifest = place.manifest()
        finished = manifest is not None and manifest.state == "scored"
        done += finished
        maker = None if finished else folder.maker_of(unit.name)
        standing = read_standing(folder.standing_of(unit.name))
        table.add_row(
            unit.name,
            unit.stage,
            _state(place, manifest, unit, maker, standing),
            *_figures(manifest, standing),
            _losses(place, manifest),
        )
        if not finished and maker is None:
            failed += _said(unit.name, last_words(folder.output_of(unit.name)))
    products = (folder.scores_csv, folder.weights_json, folder.report / "report.html")
    lines = [f"{path.name}: {'there' if path.is_file() else 'not yet'}" for path in products]
    return Group(table, *failed, Text(f"\n{done} of {len(units)} units done; " + ", ".join(lines)))


def _state(
    folder: UnitFolder, manifest: Manifest | None, unit: Unit, maker: Holder | None, standing: Standing | None
) -> Text:
    if maker is not None:
        return Text(f"{_doing(manifest, standing)}, by {maker}", style="cyan")
    if manifest is None:
        return Text("not begun", style="dim")
    if manifest.state == "scored":
        return Text("done" if unit.scored_tasks else "done (no test set)", style="green")
    if manifest.state == "trained":
        return Text("trained, to be scored", style="yellow")
    if manifest.stopped:
        return Text(f"stopped: {manifest.stopped.split('. ')[0]}", style="red")
    checkpoint = last_complete(folder.checkpoints)
    where = f"checkpoint at step {step_of(checkpoint)}" if checkpoint is not None else "no checkpoint yet"
    return Text(f"begun, {where}", style="yellow")


def _doing(manifest: Manifest | None, standing: Standing | None) -> str:
    if manifest is not None and manifest.state == "trained":
        return "scoring"
    left = None if standing is None else standing.seconds_left
    return "training" if left is None else f"training, {show_time(left)} left"


def _figures(manifest: Manifest | None, standing: Standing | None) -> tuple[str, str, str]:
    if manifest is None:
        return "", "", ""
    seconds = manifest.seconds
    steps = str(manifest.steps) if manifest.steps else ""
    if manifest.state == "planned" and standing is not None:
        steps = f"{standing.step} of {standing.steps}"
    training = show_time(seconds["train"]) if "train" in seconds else ""
    scoring = show_time(seconds["score"] + seconds.get("forced", 0.0)) if "score" in seconds else ""
    return steps, training, scoring


def _losses(folder: UnitFolder, manifest: Manifest | None) -> str:
    """The last logged loss of every task."""
    if manifest is None:
        return ""
    last: dict[str, float] = {}
    try:
        entries = folder.log()
    except DamagedFileError:
        return "log.jsonl is damaged"
    for entry in entries:
        last |= {
            name.removeprefix("loss/"): value
            for name, value in entry.items()
            if name.startswith("loss/") and isinstance(value, (int, float))
        }
    return ", ".join(f"{task} {loss:.3g}" for task, loss in last.items())


def _said(unit: str, lines: Sequence[str]) -> list[Text]:
    """The end of what a unit's command said before it ended without a result."""
    if not lines:
        return []
    return [
        Text(f"\n{unit} said last:", style="red"),
        *(Text(f"    {printable(line)}") for line in lines),
    ]
