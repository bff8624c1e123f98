"""How far the units of a config are, as a table; reads only."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cotbal.config.schema import Config
from cotbal.units.checkpoints import last_complete, step_of
from cotbal.units.display import show_time
from cotbal.units.schedule import Unit, make_schedule
from cotbal.units.store import Manifest, OutputFolder, UnitFolder

__all__ = ["status_table"]


def status_table(config: Config) -> RenderableType:
    """One row a unit, then the products of the stages that are there."""
    folder = OutputFolder(config.output)
    table = Table(title=str(folder.path), title_justify="left", box=None, pad_edge=False)
    for heading in ("unit", "stage", "state", "steps", "training", "scoring"):
        table.add_column(heading, justify="left" if heading in ("unit", "stage", "state") else "right")
    done = 0
    units = make_schedule(config).units
    for unit in units:
        place = folder.unit(unit.name)
        manifest = place.manifest()
        done += manifest is not None and manifest.state == "scored"
        table.add_row(unit.name, unit.stage, _state(place, manifest, unit), *_figures(manifest))
    products = (folder.scores_csv, folder.weights_json, folder.report / "report.html")
    lines = [f"{path.name}: {'there' if path.is_file() else 'not yet'}" for path in products]
    return Group(table, Text(f"\n{done} of {len(units)} units done; " + ", ".join(lines)))


def _state(folder: UnitFolder, manifest: Manifest | None, unit: Unit) -> Text:
    if manifest is None:
        return Text("not begun", style="dim")
    if manifest.state == "scored":
        return Text("done" if unit.scored_tasks else "done (no test set)", style="green")
    if manifest.state == "trained":
        return Text("trained, to be scored", style="yellow")
    checkpoint = last_complete(folder.checkpoints)
    where = f"checkpoint at step {step_of(checkpoint)}" if checkpoint is not None else "no checkpoint yet"
    return Text(f"begun, {where}", style="yellow")


def _figures(manifest: Manifest | None) -> tuple[str, str, str]:
    if manifest is None:
        return "", "", ""
    seconds = manifest.seconds
    steps = str(manifest.steps) if manifest.steps else ""
    training, scoring = (show_time(seconds[key]) if key in seconds else "" for key in ("train", "score"))
    return steps, training, scoring
