"""An estimate as tables, and as values for JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cotbal.config.schema import Config
from cotbal.estimates.memory import Memory
from cotbal.estimates.result import ScheduleEstimate, UnitEstimate
from cotbal.terminal import show_bytes
from cotbal.units.display import show_time

__all__ = ["estimate_table", "estimate_values"]

_STATES = {"planned": "", "trained": "trained", "scored": "done"}


def estimate_table(config: Config, estimate: ScheduleEstimate) -> RenderableType:
    """One row per unit, then what the memory of each stage is made of, and whether all of it fits."""
    return Group(
        _units(config, estimate),
        Text(""),
        *_memory(estimate),
        *(Text(line) for line in _lines(estimate)),
        *(Text(f"note: {note}", style="yellow") for note in estimate.notes),
        *(Text(f"does not fit: {fault}", style="red") for fault in estimate.faults),
        *([] if estimate.faults or estimate.notes else [Text("all of it fits", style="green")]),
    )


def _units(config: Config, estimate: ScheduleEstimate) -> Table:
    """Columns that would be empty in every row are left out."""
    columns: dict[str, list[str]] = {
        "unit": [item.unit.name for item in estimate.units],
        "stage": [item.unit.stage for item in estimate.units],
        "samples": [f"{item.work.samples:,}" for item in estimate.units],
        "steps": [f"{item.work.steps:,}" for item in estimate.units],
        "scored on": [f"{item.work.scored:,}" for item in estimate.units],
        "token accuracies": [f"{item.work.forced:,}" if item.work.forced else "" for item in estimate.units],
        "memory": [_needed(item) for item in estimate.units],
        "disk": ["" if item.disk is None else show_bytes(item.disk.left) for item in estimate.units],
        "time left": [_left(estimate, item) for item in estimate.units],
        "state": [_STATES[item.state] for item in estimate.units],
    }
    shown = {name: cells for name, cells in columns.items() if any(cells)}
    table = Table(title=str(config.output), title_justify="left", box=None, pad_edge=False)
    for name in shown:
        left = name in ("unit", "stage", "state")
        table.add_column(name, justify="left" if left else "right", no_wrap=name != "unit", overflow="fold")
    for cells in zip(*shown.values(), strict=True):
        table.add_row(*map(Text, cells))
    return table


def _needed(item: UnitEstimate) -> str:
    return "" if item.memory is None or item.state != "planned" else show_bytes(item.memory.needed)


def _left(estimate: ScheduleEstimate, item: UnitEstimate) -> str:
    seconds = estimate.time.units.get(item.unit.name)
    return "" if seconds is None else show_time(seconds)


def _memory(estimate: ScheduleEstimate) -> list[RenderableType]:
    """What each process holds at its fullest, stage by stage; once where the stages do not differ."""
    stages: dict[str, Memory] = {
        item.unit.stage: item.memory for item in estimate.units if item.memory is not None
    }
    if not stages:
        return []
    if len({*stages.values()}) == 1:
        stages = {"each process": next(iter(stages.values()))}
    parts = {
        "weights": [each.weights for each in stages.values()],
        "gradients": [each.gradients for each in stages.values()],
        "optimizer": [each.optimizer for each in stages.values()],
        "DDP": [each.buckets for each in stages.values()],
        "activations": [each.activations for each in stages.values()],
        "libraries": [each.runtime for each in stages.values()],
    }
    shown = {name: sizes for name, sizes in parts.items() if any(sizes)}
    table = Table(title="memory", title_justify="left", box=None, pad_edge=False)
    table.add_column("")
    for name in (*shown, "in all"):
        table.add_column(name, justify="right")
    for number, (stage, memory) in enumerate(stages.items()):
        sizes = [sizes[number] for sizes in shown.values()]
        table.add_row(stage, *map(show_bytes, sizes), show_bytes(memory.needed))
    counts = {(each.trained, each.parameters) for each in stages.values()}
    trained = [
        f"{few / 1e6:,.1f} of {all_ / 1e6:,.1f} million parameters are trained" for few, all_ in counts
    ]
    return [table, Text(""), *map(Text, trained)]


def _lines(estimate: ScheduleEstimate) -> list[str]:
    layout = next(iter(estimate.layouts.values()))
    many = f"{layout.processes} processes" if layout.processes > 1 else "1 process"
    lines = [f"a step: {layout.samples} samples over {many}, {layout.accumulation} micro-batches each"]
    if estimate.batch is not None:
        rows, tokens = estimate.batch
        lines.append(f"the largest micro-batch: {rows} x {tokens:,} tokens")
    limit = estimate.device.memory
    if limit is not None:
        lines.append(f"memory: {show_bytes(limit)} {estimate.device.named}")
    else:
        lines.append("memory: not known here; give that of the GPUs as `launch.memory` or --memory")
    lines.append(f"disk: {show_bytes(estimate.disk)} to be written, {show_bytes(estimate.free)} free")
    return [*lines, str(estimate.time)]


def estimate_values(estimate: ScheduleEstimate) -> dict[str, Any]:
    """All figures, in bytes and seconds."""
    return {
        "device": asdict(estimate.device),
        "batch": None
        if estimate.batch is None
        else dict(zip(("rows", "tokens"), estimate.batch, strict=True)),
        "layouts": {stage: asdict(layout) for stage, layout in estimate.layouts.items()},
        "at_once": estimate.time.at_once,
        "units": [_unit_values(estimate, item) for item in estimate.units],
        "disk": {"needed": estimate.disk, "free": estimate.free},
        "seconds": estimate.time.seconds,
        "faults": list(estimate.faults),
        "notes": list(estimate.notes),
    }


def _unit_values(estimate: ScheduleEstimate, item: UnitEstimate) -> dict[str, Any]:
    memory, disk = item.memory, item.disk
    return {
        "name": item.unit.name,
        "stage": item.unit.stage,
        "state": item.state,
        "samples": item.work.samples,
        "steps": item.work.steps,
        "scored": item.work.scored,
        "forced": item.work.forced,
        "memory": memory and asdict(memory) | {"activations": memory.activations, "needed": memory.needed},
        "disk": disk and asdict(disk) | {"left": disk.left, "most": disk.most},
        "seconds": estimate.time.units.get(item.unit.name),
    }
