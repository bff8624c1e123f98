"""Units as Slurm jobs, through submitit: submitted, watched, requeued before a time limit, found again.

A job asks for one node with one GPU per process. Before its time limit Slurm sends it a signal; it then lets its unit
write a checkpoint, and is requeued.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from cotbal.config.borrowed import check_names
from cotbal.config.schema import Config
from cotbal.config.yaml_file import ConfigError
from cotbal.extras import extras_named
from cotbal.output.store import OutputFolder, write_text
from cotbal.units.launch.command import UnitCommand
from cotbal.units.launch.remote import RemoteUnit, UnitProcess, remote_unit
from cotbal.units.launch.side_by_side import WITHDRAWN, Ending

__all__ = ["SlurmEngine", "SlurmUnit", "slurm_engine"]

_OURS = {
    "job_name": "it is the unit's name",
    "nodes": "a unit runs on one node",
    "ntasks_per_node": "a unit is one task, which starts `launch.processes` processes",
    "num_gpus": "set `launch.processes`",
    "gpus_per_task": "set `launch.processes`, or give `gres`",
    "array_parallelism": "set `launch.side_by_side`",
    "dependency": "units are submitted when what they need is there",
}
STOP = "stop"
# Slurm kills a preempted or cancelled job after its grace time.
_DECIDED_SECONDS = 900.0
# In words of Slurm's accounting: it is queued, or works.
_ALIVE = ("READY", "PENDING", "RUNNING", "REQUEUED", "COMPLETING", "CONFIGURING", "SUSPENDED", "PREEMPTED")
_INTERRUPTED = ("NODE_FAIL", "BOOT_FAIL", "PREEMPTED")


def slurm_engine(config: Config, folder: OutputFolder, processes: int, workers: int) -> SlurmEngine:
    """The engine that submits units to Slurm; with `launch.cluster: local` to processes of this machine, to try it.

    Args:
        processes: per unit.
        workers: of the data loader, per process.

    Raises:
        ConfigError: Slurm is not here, or submitit refuses the options.
        MissingExtraError: submitit is not installed.
    """
    launch = config.launch
    with extras_named("launch.engine: slurm"):
        submitit: Any = import_module("submitit")
    if launch.cluster == "local":
        return SlurmEngine(submitit.LocalExecutor, _local_parameters(launch.options), config, folder)
    missing = [name for name in ("sbatch", "srun", "scancel", "sacct") if shutil.which(name) is None]
    if missing:
        raise ConfigError(
            f"launch.engine: slurm needs Slurm's commands, and this machine has no {', '.join(missing)}; start "
            "cotbal on a login node of the cluster"
        )
    parameters = slurm_parameters(config, processes, workers)
    engine = SlurmEngine(submitit.SlurmExecutor, parameters, config, folder)
    engine.check_parameters()
    return engine


def slurm_parameters(config: Config, processes: int, workers: int) -> dict[str, Any]:
    """What submitit's `SlurmExecutor` is told of every unit.

    Raises:
        ConfigError: an option is unknown or cotbal's own, or there is no time limit.
    """
    given = config.launch.options
    defaults = import_module("submitit.slurm.slurm")._get_default_parameters()
    check_names("launch.options", given, known=defaults, of="submitit's SlurmExecutor", ours=_OURS)
    if not isinstance(given.get("time"), int) or given["time"] <= 0:
        raise ConfigError(
            f"launch.options.time: found {given.get('time')!r}; expected: the time limit of each job, in minutes; a "
            "unit that needs longer is requeued and goes on from its checkpoint"
        )
    parameters: dict[str, Any] = {"nodes": 1, "ntasks_per_node": 1}
    if "cpus_per_gpu" not in given:
        cpus = given.get("cpus_per_task", processes * (1 + workers))
        # Newer versions of srun do not take it over from sbatch, and would bind the unit to one core.
        parameters |= {"cpus_per_task": cpus, "srun_args": [f"--cpus-per-task={cpus}"]}
    if not config.training.get("use_cpu") and "gres" not in given:
        parameters["gpus_per_node"] = processes
    # Long enough for a checkpoint of a large model.
    return {**parameters, "signal_delay_s": 300, "stderr_to_stdout": True, **given}


def _local_parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    known = ("timeout_min", "signal_delay_s", "gpus_per_node", "visible_gpus", "setup")
    check_names("launch.options", given, known=known, of="submitit's LocalExecutor", ours={})
    return {"timeout_min": 7 * 24 * 60, **given}


class SlurmUnit:
    """What a job runs: a unit's command, which its time limit ends with a checkpoint.

    Args:
        unit: the command and what it needs to see.
        stop: a file that is there once the one who submitted the job asks it to stop.
    """

    def __init__(self, unit: RemoteUnit, stop: Path) -> None:
        self.unit = unit
        self.stop = stop
        self._running: UnitProcess | None = None
        self._asked = False

    def __call__(self) -> Ending:
        refusal = self.unit.refusal()
        if refusal:
            return Ending(1, refusal)
        # From Slurm, where a job is cancelled or preempted, or from the one who stops all units.
        signal.signal(signal.SIGTERM, self._pass_on)
        self._running = self.unit.start()
        if self._asked:
            self._running.stop()
        ending = self._running.wait()
        if ending.interrupted and self._asked and os.environ.get("SUBMITIT_EXECUTOR") == "slurm":
            self._await_slurm()
        return ending

    def _await_slurm(self) -> None:
        """Until Slurm ends this job, to requeue it or not: a job that ends by itself counts as done for good."""
        deadline = time.monotonic() + _DECIDED_SECONDS
        while not self.stop.is_file() and time.monotonic() < deadline:
            time.sleep(1.0)

    def _pass_on(self, *_: object) -> None:
        self._asked = True
        if self._running is not None:
            self._running.stop()

    def checkpoint(self) -> Any:
        """submitit calls it before the time limit; what it returns runs when the job is started again."""
        if self._running is not None:
            self._running.stop()
            self._running.wait()
        return import_module("submitit.helpers").DelayedSubmission(SlurmUnit(self.unit, self.stop))


class SlurmEngine:
    """Submits units as jobs, and finds those again that an earlier call has submitted.

    Args:
        executor: submitit's class.
        parameters: of its `update_parameters`.
    """

    def __init__(
        self, executor: Any, parameters: Mapping[str, Any], config: Config, folder: OutputFolder
    ) -> None:
        self.retries = config.launch.retries
        self._executor = executor
        self._parameters = dict(parameters)
        self._folder = folder
        self._limit = config.launch.side_by_side
        self._jobs: list[_SlurmJob] = []

    def check_parameters(self) -> None:
        """Refuse before anything is submitted what submitit does not take.

        Raises:
            ConfigError: with submitit's message.
        """
        try:
            self._made(self._folder.running)
        except (ValueError, TypeError, RuntimeError) as error:
            raise ConfigError(f"launch.options: submitit refuses them: {error}") from error

    def start(self, command: UnitCommand) -> _SlurmJob | None:
        self._jobs = [job for job in self._jobs if not job.is_done]
        if self._limit is not None and len(self._jobs) >= self._limit:
            return None
        place = self._folder.running / command.unit / "jobs"
        record = place.with_name("job.json")
        found = self._found_again(command, place, record)
        if found is None:
            unit = remote_unit(command, self._folder)
            place.mkdir(parents=True, exist_ok=True)
            (place / STOP).unlink(missing_ok=True)
            executor = self._made(place)
            if executor.name() == "slurm":
                executor.update_parameters(job_name=f"cotbal-{command.unit}")
            submitted = executor.submit(SlurmUnit(unit, place / STOP))
            write_text(record, json.dumps({"cluster": executor.name(), "job": submitted.job_id}) + "\n")
            found = _SlurmJob(command, submitted)
        self._jobs.append(found)
        return found

    def _made(self, place: Path) -> Any:
        executor = self._executor(folder=place, max_num_timeout=self.retries)
        executor.update_parameters(**self._parameters)
        return executor

    def _found_again(self, command: UnitCommand, place: Path, record: Path) -> _SlurmJob | None:
        """The job that an earlier call has submitted, if it is queued or running still."""
        try:
            known = json.loads(record.read_bytes())
        except (OSError, ValueError):
            return None
        if self._executor.name() != "slurm" or not isinstance(known, dict) or known.get("cluster") != "slurm":
            return None
        job = self._executor.job_class(place, str(known.get("job")))
        state = str(job.watcher.get_state(job.job_id, mode="force")).upper()
        return _SlurmJob(command, job) if state in _ALIVE else None


@dataclass
class _SlurmJob:
    command: UnitCommand
    job: Any
    is_done: bool = False
    stopped: bool = False

    def ended(self) -> Ending | None:
        if not self.job.done():
            return None
        self.is_done = True
        if self.stopped and not self.job.paths.result_pickle.is_file():
            return WITHDRAWN
        try:
            ending: Ending = self.job.result()
        except Exception as error:  # of submitit's own, or of the job
            state, told = str(self.job.state).upper(), " ".join(str(error).split())
            return Ending(1, f"{self._name} (state {state}): {told[:500]}", interrupted=state in _INTERRUPTED)
        return ending

    @property
    def _name(self) -> str:
        return f"job {self.job.job_id}, whose output is in {self.job.paths.stdout}"

    def stop(self) -> None:
        self.stopped = True
        if self._is_slurm:
            self.job.paths.folder.joinpath(STOP).touch()
            # Not a plain scancel: it would kill the job before a large model is on the disk.
            self._scancel("--state=PENDING")
            self._scancel("--signal=TERM")
        elif self.job._process is not None:
            os.kill(self.job._process.pid, signal.SIGTERM)

    def withdraw(self) -> None:
        if self._is_slurm:
            self.stopped = True
            self._scancel("--state=PENDING")

    @property
    def _is_slurm(self) -> bool:
        return type(self.job).__name__ == "SlurmJob"

    def _scancel(self, option: str) -> None:
        subprocess.run(["scancel", option, self.job.job_id], check=False, capture_output=True)
