"""An estimate as a table, and as values for JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cotbal.config.schema import Config
from cotbal.estimates.memory import Memory, show_bytes
from cotbal.estimates.schedule import ScheduleEstimate, UnitEstimate
from cotbal.units.display import show_time

__all__ = ["estimate_table", "estimate_values"]

_STATES = {"planned": "", "trained": "trained", "scored": "done"}


def estimate_table(config: Config, estimate: ScheduleEstimate) -> RenderableType:
    """One row per unit, then what the memory of each stage is made of, and whether all of it fits."""
    table = Table(title=str(config.output), title_justify="left", box=None, pad_edge=False)
    for name in ("unit", "stage", "state"):
        table.add_column(name, no_wrap=True)
    for name in ("samples", "steps", "scored on", "memory", "disk", "time left"):
        table.add_column(name, justify="right")
    for item in estimate.units:
        table.add_row(*_cells(item))
    lines = [Text(""), *_memory_lines(estimate)]
    rows, tokens = estimate.batch
    layout = next(iter(estimate.layouts.values()))
    lines += [
        Text(
            f"each process: micro-batches of {rows} x {tokens} tokens, the longest in the data; {layout.samples} "
            f"samples per step over {layout.processes} process{'es' if layout.processes > 1 else ''}"
        ),
        Text(f"disk: {show_bytes(estimate.disk)} still to be written, {show_bytes(estimate.free)} free"),
        Text(_time(estimate)),
        *(Text(f"note: {note}", style="yellow") for note in estimate.notes),
        *(Text(f"does not fit: {fault}", style="red") for fault in estimate.faults),
    ]
    return Group(table, *lines)


def _cells(item: UnitEstimate) -> list[str]:
    known = item.memory is not None and item.state == "planned"
    return [
        item.unit.name,
        item.unit.stage,
        _STATES[item.state],
        f"{item.samples:,}",
        f"{item.steps:,}",
        f"{item.scored:,}",
        show_bytes(item.memory.needed) if known and item.memory is not None else "",
        show_bytes(item.disk.left),
        "" if item.seconds is None or item.state == "scored" else show_time(item.seconds),
    ]


def _memory_lines(estimate: ScheduleEstimate) -> list[Text]:
    lines: list[Text] = []
    for stage, memory in _by_stage(estimate).items():
        parts = {
            "weights": memory.weights,
            "gradients": memory.gradients,
            "optimizer": memory.optimizer,
            "buckets of DDP": memory.buckets,
            "activations": memory.activations,
            "the device's libraries": memory.runtime,
        }
        said = ", ".join(f"{name} {show_bytes(size)}" for name, size in parts.items() if size)
        limit = estimate.device.memory
        against = "" if limit is None else f" of {show_bytes(limit)} ({estimate.device.named})"
        lines.append(
            Text(
                f"memory of each process, {stage}: {show_bytes(memory.needed)}{against}: {said}. "
                f"{memory.trained / 1e6:,.1f} of {memory.parameters / 1e6:,.1f} million parameters are trained"
            )
        )
    return lines


def _by_stage(estimate: ScheduleEstimate) -> dict[str, Memory]:
    """The memory of each stage; of both together where it is the same."""
    found: dict[str, Memory] = {}
    for item in estimate.units:
        if item.memory is not None:
            found[item.unit.stage] = item.memory
    return {"both stages": found["prepare"]} if len({*found.values()}) == 1 < len(found) else found


def _time(estimate: ScheduleEstimate) -> str:
    pace, left = estimate.pace, estimate.seconds
    if left is None or pace.train is None:
        return "time: unknown until some steps are made; start the run, and ask again"
    side = f", {estimate.at_once} units side by side" if estimate.at_once > 1 else ""
    return f"time: about {show_time(left)} left{side}, at {pace.train:.3g} s per sample of {pace.units} units so far"


def estimate_values(estimate: ScheduleEstimate) -> dict[str, Any]:
    """All figures, in bytes and seconds."""
    return {
        "device": asdict(estimate.device),
        "batch": {"rows": estimate.batch[0], "tokens": estimate.batch[1]},
        "layouts": {stage: asdict(layout) for stage, layout in estimate.layouts.items()},
        "units": [
            {
                "name": item.unit.name,
                "stage": item.unit.stage,
                "state": item.state,
                "samples": item.samples,
                "steps": item.steps,
                "scored": item.scored,
                "memory": None
                if item.memory is None
                else asdict(item.memory)
                | {"activations": item.memory.activations, "needed": item.memory.needed},
                "disk": asdict(item.disk) | {"left": item.disk.left, "most": item.disk.most},
                "seconds": item.seconds,
            }
            for item in estimate.units
        ],
        "disk": {"needed": estimate.disk, "free": estimate.free},
        "seconds": estimate.seconds,
        "faults": list(estimate.faults),
        "notes": list(estimate.notes),
    }
