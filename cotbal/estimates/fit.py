"""What does not fit, in sentences that name the unit, the need, what there is, and what to change."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from typing import Any

from cotbal.config.schema import Config
from cotbal.config.yaml_file import ConfigError
from cotbal.estimates.machine import own_device
from cotbal.estimates.memory import Memory
from cotbal.estimates.result import ScheduleEstimate, Settings, UnitEstimate
from cotbal.terminal import show_bytes

__all__ = ["faults_of", "refuse_on_this_machine", "refuse_what_cannot_fit"]


def faults_of(estimate: ScheduleEstimate, config: Config, settings: Settings) -> tuple[str, ...]:
    """What does not fit: the memory of a process, the disk of the output folder."""
    found: list[str] = []
    limit = estimate.device.memory
    waiting = [(item, item.memory) for item in estimate.units if item.state == "planned" and item.memory]
    too_large = [pair for pair in waiting if limit is not None and pair[1].needed > limit]
    if too_large and limit is not None:
        item, memory = max(too_large, key=lambda pair: pair[1].needed)
        others = f" ({len(too_large)} units do not fit)" if len(too_large) > 1 else ""
        found.append(
            f"memory: {item.unit.name} needs about {show_bytes(memory.needed)} in each process, and there are "
            f"{show_bytes(limit)} ({estimate.device.named}){others}. {_remedy(item, memory, config, settings)}"
        )
    if estimate.disk > estimate.free:
        keep = "comparison" if config.preparation.keep_models is False else "preparation"
        found.append(
            f"disk: about {show_bytes(estimate.disk)} are still to be written to {config.output}, and "
            f"{show_bytes(estimate.free)} are free. Give another `output`, set `{keep}.keep_models: false`, or save "
            "fewer checkpoints (`training.save_total_limit: 1`)"
        )
    return tuple(found)


def _remedy(item: UnitEstimate, memory: Memory, config: Config, settings: Settings) -> str:
    """Settings that would lower the larger part of the memory, of those that are not in use."""
    training = settings[item.unit.stage]
    fixed = memory.weights + memory.gradients + memory.optimizer + memory.buckets
    activations = []
    if not training.get("gradient_checkpointing"):
        activations.append("`training.gradient_checkpointing: true`")
    if int(training.get("per_device_train_batch_size", 8)) > 1:
        activations.append(
            "a lower `training.per_device_train_batch_size` (with `global_batch_size`, for the same steps)"
        )
    activations.append("a lower `max_length`")
    states = []
    if config.model.adapter is None:
        states.append("LoRA (`model.adapter: {r: 16, target_modules: all-linear}`)")
    elif config.model.quantization is None:
        states.append("a base in 4 bits (`model.quantization: 4`)")
    if not training.get("fsdp") and config.model.quantization is None:
        states.append("more GPUs that share the model (`training.fsdp: true` and `launch.processes`)")
    elif training.get("fsdp"):
        states.append("more `launch.processes`")
    largest, words = (
        ("weights, gradients and optimizer", [*states, *activations])
        if fixed > memory.activations
        else ("activations", [*activations, *states])
    )
    *others, last = words
    return f"Most of it is {largest}. Set {', '.join(others)}{' or ' if others else ''}{last}"


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
        "`cotbal plan` shows the figures. To start all the same, set `launch: {fit: warn}` in the config; if the "
        "memory is another machine's, give it as `launch.memory`."
    )


def refuse_on_this_machine(
    unit: str, needed: int, config: Config, settings: Mapping[str, Any], say: Callable[[str], None]
) -> None:
    """Stop before a unit trains on a machine that has less memory than its whole schedule's estimate says it needs.

    Args:
        needed: bytes of each process, as estimated where the unit was started.
        settings: of its training.

    Raises:
        ConfigError: this machine has less, and the config does not say `launch: {fit: warn}`.
    """
    device = own_device(config, settings)
    if device.memory is None or needed <= device.memory:
        return
    fault = (
        f"{unit} needs about {show_bytes(needed)} in each process by the estimate, and {socket.gethostname()} has "
        f"{show_bytes(device.memory)} ({device.named})"
    )
    if config.launch.fit == "warn":
        say(f"warning: {fault}")
        return
    raise ConfigError(
        f"{fault}; the unit was not started there. Let `launch.options` ask for machines with more memory, lower "
        "what it needs (`cotbal plan` shows the parts), or set `launch: {fit: warn}` to start it all the same"
    )
