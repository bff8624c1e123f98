"""Units as tasks of a Ray cluster, which decides where they run and starts them again when a node dies.

A task asks for one GPU per process and runs on one node. Its process starts the unit's command as a child.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from cotbal.config.schema import Config
from cotbal.config.yaml_file import ConfigError
from cotbal.extras import extras_named
from cotbal.output.store import OutputFolder
from cotbal.units.launch.command import UnitCommand
from cotbal.units.launch.remote import RemoteUnit, remote_unit
from cotbal.units.launch.side_by_side import WITHDRAWN, Ending

__all__ = ["UnitInterruptedError", "cluster_address", "ray_engine", "wanted_resources"]

_OURS = {
    "num_returns": "a unit returns how it ended",
    "max_retries": "set `launch.retries`",
    "retry_exceptions": "set `launch.retries`",
    "max_calls": "a unit is one call",
    "name": "it is the unit's name",
}


class UnitInterruptedError(Exception):
    """A unit's command was killed or asked to stop on its node; Ray starts the task again."""


@contextmanager
def ray_engine(config: Config, folder: OutputFolder, processes: int) -> Iterator[_RayEngine]:
    """Connect to the cluster, and give the engine that submits units to it.

    Args:
        processes: per unit.

    Raises:
        ConfigError: no cluster answers, or Ray refuses the options.
        MissingExtraError: Ray is not installed.
    """
    launch = config.launch
    for name in launch.options:
        if name in _OURS:
            raise ConfigError(f"launch.options.{name}: cannot be set here; {_OURS[name]}")
    with extras_named("launch.engine: ray"):
        ray: Any = import_module("ray")
    options = {
        **_default_resources(config, processes),
        "max_retries": launch.retries,
        "retry_exceptions": [UnitInterruptedError],
        **launch.options,
    }
    address = cluster_address(launch.cluster)
    earlier = {kind: signal.getsignal(kind) for kind in (signal.SIGTERM, signal.SIGINT)}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="error")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"launch.cluster: no Ray cluster answers at '{address}' ({error}); start one with `ray start`, or "
            "give its address here or in RAY_ADDRESS"
        ) from error
    try:
        # Ray puts a handler of its own in the place of ours.
        for kind, handler in earlier.items():
            signal.signal(kind, handler)
        _check_room(ray.nodes(), wanted_resources(config, processes))
        try:
            task = ray.remote(**options)(_make_unit)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"launch.options: Ray refuses them: {error}") from error
        yield _RayEngine(ray, task, folder, launch.side_by_side)
    finally:
        ray.shutdown()


def cluster_address(given: str | None) -> str:
    """The address of the cluster: the config's, `$RAY_ADDRESS`, or that of which this machine is part."""
    return given or os.environ.get("RAY_ADDRESS") or "auto"


def _default_resources(config: Config, processes: int) -> dict[str, int]:
    workers = int(config.training.get("dataloader_num_workers", 0))
    # Tasks that need no GPU must not ask for one, or they would wait for it forever.
    on_cpu = bool(config.training.get("use_cpu"))
    return {"num_cpus": processes * (1 + workers), "num_gpus": 0 if on_cpu else processes}


def wanted_resources(config: Config, processes: int) -> dict[str, float]:
    """What a unit asks one node for, by the names of `ray.nodes()`.

    Args:
        processes: per unit.
    """
    options = {**_default_resources(config, processes), **config.launch.options}
    wanted = {"CPU": options["num_cpus"], "GPU": options["num_gpus"], **(options.get("resources") or {})}
    if options.get("accelerator_type"):
        # So Ray marks the nodes that have such GPUs; a task takes a thousandth of the mark.
        wanted[f"accelerator_type:{options['accelerator_type']}"] = 0.001
    return {name: amount for name, amount in wanted.items() if amount}


def _check_room(nodes: list[dict[str, Any]], wanted: Mapping[str, float]) -> None:
    """Refuse units that no node of the cluster has room for: they would wait forever, in silence."""
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    if any(all(node.get(name, 0) >= amount for name, amount in wanted.items()) for node in alive):
        return
    shown = ", ".join(f"{amount:g} {name}" for name, amount in wanted.items())
    largest = {name: max((node.get(name, 0) for node in alive), default=0) for name in wanted}
    has = ", ".join(f"{amount:g} {name}" for name, amount in largest.items())
    raise ConfigError(
        f"launch: each unit asks one node for {shown}, which none of the {len(alive)} nodes of the Ray cluster has "
        f"(at most {has}); change launch.processes, launch.options, or the cluster"
    )


def _make_unit(unit: RemoteUnit) -> Ending:
    """The task: make a unit here."""
    refusal = unit.refusal()
    if refusal:
        return Ending(1, refusal)
    running = unit.start()
    try:
        ending = running.wait()
    except KeyboardInterrupt:
        # So Ray cancels a task.
        running.stop()
        return running.wait()
    if ending.interrupted:
        raise UnitInterruptedError(f"its command ended with code {ending.code} {ending.words}")
    return ending


class _RayEngine:
    """Submits units as tasks; those for which there is no room wait in the cluster."""

    # Ray starts an interrupted task again by itself.
    retries = 0

    def __init__(self, ray: Any, task: Any, folder: OutputFolder, side_by_side: int | None) -> None:
        self._ray = ray
        self._task = task
        self._folder = folder
        self._limit = side_by_side
        self._submitted: list[_RayTask] = []

    def start(self, command: UnitCommand) -> _RayTask | None:
        self._submitted = [task for task in self._submitted if not task.is_done]
        if self._limit is not None and len(self._submitted) >= self._limit:
            return None
        unit = remote_unit(command, self._folder)
        reference = self._task.options(name=command.unit).remote(unit)
        task = _RayTask(self._ray, reference, unit)
        self._submitted.append(task)
        return task


@dataclass
class _RayTask:
    ray: Any
    reference: Any
    unit: RemoteUnit
    is_done: bool = False

    @property
    def command(self) -> UnitCommand:
        return self.unit.command

    def ended(self) -> Ending | None:
        ready, _ = self.ray.wait([self.reference], timeout=0)
        if not ready:
            return None
        self.is_done = True
        try:
            ending: Ending = self.ray.get(self.reference)
        except self.ray.exceptions.TaskCancelledError:
            return WITHDRAWN
        except self.ray.exceptions.RayTaskError as error:
            cause = error.cause
            return Ending(1, f"in its Ray task: {type(cause).__name__}: {cause}")
        except self.ray.exceptions.RayError as error:
            return Ending(1, f"Ray says: {' '.join(str(error).split())}")
        return ending

    def stop(self) -> None:
        with suppress(self.ray.exceptions.RayError):
            self.ray.cancel(self.reference, force=False)

    def withdraw(self) -> None:
        if not self.unit.has_begun:
            self.stop()
