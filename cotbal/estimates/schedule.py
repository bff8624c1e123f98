"""The estimate of a whole schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from cotbal.config.schema import Config
from cotbal.config.yaml_file import ConfigError
from cotbal.estimates.batch import longest_batch
from cotbal.estimates.disk import Disk, model_bytes, unit_disk
from cotbal.estimates.fit import faults_of
from cotbal.estimates.machine import Device, device_of, free_disk
from cotbal.estimates.memory import Memory, NotEstimatedError, estimate_memory
from cotbal.estimates.pace import Work, time_left
from cotbal.estimates.result import ScheduleEstimate, Settings, UnitEstimate
from cotbal.output.store import OutputFolder
from cotbal.units.batches import BatchLayout, batch_layout, processes_per_unit
from cotbal.units.launch.local import places
from cotbal.units.mixture import Mixture
from cotbal.units.schedule import STAGES, Stage, Unit, make_schedule

__all__ = ["estimate_schedule"]

Batch = Mapping[str, Any]
# Settings of a training that its memory does not depend on.
_NO_MATTER = ("num_train_epochs", "max_steps", "learning_rate", "save_steps", "logging_steps", "warmup_steps")


def estimate_schedule(
    config: Config,
    mixture: Mixture,
    settings: Settings,
    processor: Callable[[], Any],
    *,
    memory: float | None = None,
    units: Sequence[Unit] | None = None,
) -> ScheduleEstimate:
    """Estimate the units of a config. What cannot be estimated is left out, with a note that says why.

    Args:
        mixture: the config's data.
        settings: training settings by stage.
        processor: gives the processor; called once.
        memory: GiB of each process, in place of what this machine's devices have.
        units: some of the schedule's; None: all.

    Raises:
        ConfigError: the config cannot be run at all.
    """
    chosen = make_schedule(config).units if units is None else tuple(units)
    folder = OutputFolder(config.output)
    processes = processes_per_unit(config)
    stages = [stage for stage in STAGES if any(unit.stage == stage for unit in chosen)]
    layouts = {stage: batch_layout(settings[stage], processes) for stage in stages}
    in_use = any(folder.maker_of(unit.name) is not None for unit in chosen)
    device = device_of(config, settings[stages[-1]], memory, in_use=in_use)
    made = processor()
    notes: list[str] = []
    batch = _batch(config, mixture, made, max(layout.per_device for layout in layouts.values()), notes)
    memories = _memories(config, settings, layouts, batch, device, notes)
    models = _models(config, settings, stages, made, notes)
    estimated: list[UnitEstimate] = []
    for unit in chosen:
        work = _work(mixture, unit, settings[unit.stage], layouts[unit.stage])
        manifest = folder.unit(unit.name).manifest()
        spent = memories[unit.stage]
        disk = _disk(config, mixture, unit, settings[unit.stage], models.get(unit.stage), spent, work.steps)
        state = "planned" if manifest is None else manifest.state
        estimated.append(UnitEstimate(unit, state, work, spent, disk))
    time = time_left(folder, [item.work for item in estimated], _at_once(config, processes))
    shape = None if batch is None else tuple(batch["input_ids"].shape)
    estimate = ScheduleEstimate(
        tuple(estimated), layouts, device, shape, free_disk(config.output), time, tuple(notes)
    )
    return replace(estimate, faults=faults_of(estimate, config, settings))


def _at_once(config: Config, processes: int) -> int:
    try:
        return len(places(processes, config.launch.side_by_side))
    except ConfigError:
        # Of a machine that has fewer devices than the one it is planned for.
        return config.launch.side_by_side or 1


def _batch(config: Config, mixture: Mixture, processor: Any, rows: int, notes: list[str]) -> Batch | None:
    try:
        return longest_batch(config, mixture, processor, rows)
    except Exception as error:  # a processor refuses with anything
        notes.append(f"memory is not estimated: no batch could be made: {type(error).__name__}: {error}")
        return None


def _memories(
    config: Config,
    settings: Settings,
    layouts: Mapping[Stage, BatchLayout],
    batch: Batch | None,
    device: Device,
    notes: list[str],
) -> dict[Stage, Memory | None]:
    """The memory of each stage, estimated once where they do not differ."""
    found: dict[Stage, Memory | None] = {}
    done: list[tuple[Mapping[str, Any], BatchLayout, Memory | None]] = []
    for stage, layout in layouts.items():
        given = {key: value for key, value in settings[stage].items() if key not in _NO_MATTER}
        known = next((each for each in done if each[:2] == (given, layout)), None)
        if known is None:
            known = (given, layout, _memory(config, settings[stage], layout, batch, device, notes))
            done.append(known)
        found[stage] = known[2]
    return found


def _memory(
    config: Config,
    settings: Mapping[str, Any],
    layout: BatchLayout,
    batch: Batch | None,
    device: Device,
    notes: list[str],
) -> Memory | None:
    if batch is None:
        return None
    try:
        return estimate_memory(config.model, settings, layout, batch, device)
    except NotEstimatedError as error:
        notes.append(f"memory is not estimated: {error}")
        return None


def _models(
    config: Config, settings: Settings, stages: Sequence[Stage], processor: Any, notes: list[str]
) -> dict[Stage, int]:
    """The bytes of a unit's saved model, by stage."""
    try:
        return {stage: model_bytes(config.model, settings[stage], processor) for stage in stages}
    except ConfigError:
        raise
    except Exception as error:  # of transformers, peft and the model's own code
        notes.append(f"disk is not estimated: {type(error).__name__}: {error}")
        return {}


def _work(mixture: Mixture, unit: Unit, settings: Mapping[str, Any], layout: BatchLayout) -> Work:
    count = len(mixture.training_set(unit))
    scored, forced = (
        sum(len(mixture.records(task, unit.split)) for task in tasks)
        for tasks in (unit.scored_tasks, unit.forced_tasks)
    )
    limit = int(settings.get("max_steps", -1))
    if limit > 0:
        return Work(unit.name, limit * layout.samples, limit, scored, forced)
    epochs = float(settings["num_train_epochs"])
    steps = math.ceil(epochs * math.ceil(count / layout.samples))
    return Work(unit.name, math.ceil(epochs * count), steps, scored, forced)


def _disk(
    config: Config,
    mixture: Mixture,
    unit: Unit,
    settings: Mapping[str, Any],
    model: int | None,
    memory: Memory | None,
    steps: int,
) -> Disk | None:
    if model is None:
        return None
    section = config.preparation if unit.stage == "prepare" else config.comparison
    return unit_disk(
        model,
        [mixture.records(task, unit.split) for task in unit.scored_tasks],
        settings,
        steps,
        processes=processes_per_unit(config),
        state=0 if memory is None else memory.optimizer,
        kept=section.keep_models,
    )
