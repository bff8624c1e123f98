"""The estimate of a whole schedule, and what does not fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cotbal.config.schema import Config
from cotbal.config.yaml_file import ConfigError
from cotbal.estimates.batch import longest_batch
from cotbal.estimates.disk import Disk, checkpoint_bytes, model_bytes, score_bytes
from cotbal.estimates.machine import device_of, free_disk
from cotbal.estimates.memory import Device, Memory, NotEstimatedError, estimate_memory, show_bytes
from cotbal.estimates.pace import Pace, pace_of
from cotbal.units.batches import BatchLayout, batch_layout, processes_per_unit
from cotbal.units.launch.local import places
from cotbal.units.mixture import Mixture
from cotbal.units.schedule import STAGES, Stage, Unit, make_schedule
from cotbal.units.store import OutputFolder

__all__ = ["ScheduleEstimate", "UnitEstimate", "estimate_schedule", "refuse_what_cannot_fit"]

Settings = Mapping[Stage, Mapping[str, Any]]


@dataclass(frozen=True)
class UnitEstimate:
    """What one unit takes.

    Attributes:
        state: `planned`, `trained` or `scored`, as in its manifest.
        samples: that its whole training sees.
        steps: optimizer steps.
        scored: samples that it is scored on.
        memory: of each process; None where it could not be estimated.
        seconds: that are left; None until something has been timed.
    """

    unit: Unit
    state: str
    samples: int
    steps: int
    scored: int
    memory: Memory | None
    disk: Disk
    seconds: float | None


@dataclass(frozen=True)
class ScheduleEstimate:
    """What a schedule takes, and whether it fits.

    Attributes:
        device: what each process trains on.
        batch: shape of the micro-batch on which memory is estimated: rows, and tokens of each.
        at_once: how many units run side by side.
        free: bytes that are free on the disk of the output folder.
        notes: what the figures do not say.
    """

    units: tuple[UnitEstimate, ...]
    layouts: Mapping[Stage, BatchLayout]
    device: Device
    batch: tuple[int, int]
    at_once: int
    free: int
    pace: Pace
    notes: tuple[str, ...]

    @property
    def disk(self) -> int:
        """Bytes that are still to be written, at the fullest."""
        waiting = [item.disk for item in self.units if item.state != "scored"]
        beside = sorted((disk.most - disk.left for disk in waiting), reverse=True)
        return sum(disk.left for disk in waiting) + sum(beside[: self.at_once])

    @property
    def seconds(self) -> float | None:
        """Until all is done; None until something has been timed."""
        left = [item.seconds for item in self.units if item.state != "scored"]
        known = [seconds for seconds in left if seconds is not None]
        return None if len(known) < len(left) else sum(known) / self.at_once

    @property
    def faults(self) -> tuple[str, ...]:
        """What does not fit, in sentences."""
        found: list[str] = []
        waiting = [item for item in self.units if item.state == "planned" and item.memory is not None]
        limit = self.device.memory
        if waiting and limit is not None:
            largest = max(waiting, key=lambda item: _needed(item.memory))
            needed = _needed(largest.memory)
            if needed > limit:
                found.append(
                    f"memory: {largest.unit.name} needs about {show_bytes(needed)} per process, and there are "
                    f"{show_bytes(limit)} ({self.device.named}). {_remedy(largest.memory)}"
                )
        if self.disk > self.free:
            found.append(
                f"disk: about {show_bytes(self.disk)} are still to be written, and {show_bytes(self.free)} "
                "are free. Give another `output`, set `preparation.keep_models: false` or a lower "
                "`training.save_total_limit`"
            )
        return tuple(found)


def _needed(memory: Memory | None) -> int:
    return 0 if memory is None else memory.needed


def _remedy(memory: Memory | None) -> str:
    if memory is None:
        return ""
    parts = {
        "the activations are most of it: a lower `training.per_device_train_batch_size`, "
        "`training.gradient_checkpointing: true` or a lower `max_length`": memory.activations,
        "weights, gradients and optimizer are most of it: more processes with `training.fsdp: true`, adapters "
        "(`model.adapter`), or an `optim` with less state": memory.weights
        + memory.gradients
        + memory.optimizer,
    }
    return "Here " + max(parts, key=lambda words: parts[words])


def estimate_schedule(
    config: Config,
    mixture: Mixture,
    settings: Settings,
    processor: Callable[[], Any],
    *,
    memory: float | None = None,
) -> ScheduleEstimate:
    """Estimate all units of a config.

    Args:
        mixture: the config's data.
        settings: training settings by stage.
        processor: gives the processor; called once.
        memory: GiB of each process, in place of what this machine's devices have.

    Raises:
        ConfigError: the config cannot be run at all.
    """
    schedule = make_schedule(config)
    folder = OutputFolder(config.output)
    processes = processes_per_unit(config)
    stages = [stage for stage in STAGES if schedule.of(stage)]
    layouts = {stage: batch_layout(settings[stage], processes) for stage in stages}
    device = device_of(config, settings[stages[-1]], memory)
    made = processor()
    # As they were read: what cannot be used is skipped here, and told of by the check of the data.
    sets = [mixture.read(task.name, "train").records for task in config.tasks]
    rows = max(layout.per_device for layout in layouts.values())
    batch = longest_batch(config, made, sets, rows)
    memories, notes = _memories(config, settings, layouts, batch, device)
    sizes = {
        unit.name: _size(config, mixture, unit, settings[unit.stage], layouts) for unit in schedule.units
    }
    pace = pace_of(folder, {name: (steps, samples) for name, (samples, steps, _) in sizes.items()})
    models: dict[Stage, int] = {stage: model_bytes(config.model, settings[stage], made) for stage in stages}
    units: list[UnitEstimate] = []
    for unit in schedule.units:
        samples, steps, scored = sizes[unit.name]
        manifest = folder.unit(unit.name).manifest()
        state = "planned" if manifest is None else manifest.state
        spent = memories[unit.stage]
        disk = _disk(config, mixture, unit, settings[unit.stage], models[unit.stage], spent, steps, processes)
        left = _seconds(pace, state, samples, scored)
        units.append(UnitEstimate(unit, state, samples, steps, scored, spent, disk, left))
    at_once = _at_once(config, processes)
    shape = tuple(batch["input_ids"].shape)
    free = free_disk(config.output)
    return ScheduleEstimate(
        tuple(units), layouts, device, (shape[0], shape[1]), at_once, free, pace, tuple(notes)
    )


def _at_once(config: Config, processes: int) -> int:
    try:
        return len(places(processes, config.launch.side_by_side))
    except ConfigError:
        # Of a machine that has fewer devices than the one it is planned for.
        return config.launch.side_by_side or 1


def _memories(
    config: Config,
    settings: Settings,
    layouts: Mapping[Stage, BatchLayout],
    batch: Mapping[str, Any],
    device: Device,
) -> tuple[dict[Stage, Memory | None], list[str]]:
    found: dict[Stage, Memory | None] = {}
    notes: list[str] = []
    done: list[tuple[Mapping[str, Any], BatchLayout, Memory | None]] = []
    for stage, layout in layouts.items():
        given = {key: value for key, value in settings[stage].items() if key not in _NO_MATTER}
        known = next((each for each in done if each[:2] == (given, layout)), None)
        if known is None:
            try:
                memory = estimate_memory(config.model, settings[stage], layout, batch, device)
            except NotEstimatedError as error:
                memory = None
                notes.append(f"memory is not estimated: {error}")
            known = (given, layout, memory)
            done.append(known)
        found[stage] = known[2]
    return found, notes


_NO_MATTER = ("num_train_epochs", "max_steps", "learning_rate", "save_steps", "logging_steps", "warmup_steps")


def _size(
    config: Config,
    mixture: Mixture,
    unit: Unit,
    settings: Mapping[str, Any],
    layouts: Mapping[Stage, BatchLayout],
) -> tuple[int, int, int]:
    """Samples of the training, its steps, and samples to be scored."""
    count, batch = len(mixture.training_set(unit)), layouts[unit.stage].samples
    scored = sum(len(mixture.records(task, unit.split)) for task in unit.scored_tasks)
    limit = int(settings.get("max_steps", -1))
    if limit > 0:
        return limit * batch, limit, scored
    epochs = float(settings["num_train_epochs"])
    return math.ceil(epochs * count), math.ceil(epochs * math.ceil(count / batch)), scored


def _disk(
    config: Config,
    mixture: Mixture,
    unit: Unit,
    settings: Mapping[str, Any],
    model: int,
    memory: Memory | None,
    steps: int,
    processes: int,
) -> Disk:
    records = [record for task in unit.scored_tasks for record in mixture.records(task, unit.split)]
    kept = unit.stage == "tune" or config.preparation.keep_models
    whole = (
        checkpoint_bytes(model, memory, processes, sharded=bool(settings.get("fsdp"))) if memory else model
    )
    checkpoints = whole * _checkpoints(settings, steps)
    scores = score_bytes(records)
    return Disk(model if kept else 0, scores, checkpoints, 0 if kept else model)


def _checkpoints(settings: Mapping[str, Any], steps: int) -> int:
    """How many checkpoints lie side by side: a new one is written before the oldest is deleted."""
    if settings.get("save_strategy", "steps") == "no":
        return 0
    every = float(settings.get("save_steps", 500))
    every = math.ceil(every * steps) if every < 1 else every
    limit = settings.get("save_total_limit")
    made = max(1, math.ceil(steps / max(1.0, every)))
    return made if limit is None else min(made, int(limit) + 1)


def _seconds(pace: Pace, state: str, samples: int, scored: int) -> float | None:
    if state == "scored":
        return 0.0
    if pace.train is None:
        return None
    # Until something has been scored, scoring is taken to be half as long as training, sample by sample.
    scoring = scored * (pace.train / 2 if pace.score is None else pace.score)
    return scoring + (0.0 if state == "trained" else samples * pace.train)


def refuse_what_cannot_fit(estimate: ScheduleEstimate, config: Config, say: Callable[[str], None]) -> None:
    """Stop before anything runs, or warn where the config says so.

    Raises:
        ConfigError: a unit does not fit the memory of its device, or the schedule the disk.
    """
    for note in estimate.notes:
        say(f"note: {note}")
    if not estimate.faults:
        return
    lines = "\n  ".join(estimate.faults)
    if config.launch.fit == "warn":
        say(f"warning: by the estimate this does not fit\n  {lines}")
        return
    raise ConfigError(
        f"by the estimate this cannot fit, and nothing was started\n  {lines}\n"
        "`cotbal plan` shows the figures. To run it all the same, set `launch: {fit: warn}`; if the memory is "
        "another machine's, set `launch.memory`."
    )
