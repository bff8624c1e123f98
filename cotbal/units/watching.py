"""What a training leaves to look at while it runs: its log, where it stands, and files of TensorBoard and W&B."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers import TrainingArguments as Arguments

from cotbal.output.standing import Standing
from cotbal.output.store import UnitFolder, json_line
from cotbal.units import ranks

__all__ = ["TrainingLog", "run_name", "tracked"]

_WRITE_SECONDS = 1.0
_TENSORBOARD = "TENSORBOARD_LOGGING_DIR"


class TrainingLog(TrainerCallback):
    """Appends each entry of the Trainer's log to the unit's `log.jsonl`, and notes where the training stands.

    A training that resumes first puts the log back to where its checkpoint was, so that no entry comes twice.

    Args:
        folder: the unit's.
        standing: the file of `cotbal.output.standing`.
    """

    def __init__(self, folder: UnitFolder, standing: Path) -> None:
        self.folder = folder
        self.standing = standing
        self._began = (time.monotonic(), 0)
        self._written = 0.0

    def on_train_begin(self, args: Arguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            self.folder.write_log(state.log_history)
            self._began = (time.monotonic(), state.global_step)
            self._note(state, now=True)

    def on_step_end(self, args: Arguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            self._note(state)

    def on_log(self, args: Arguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            self.folder.append_log(json_line(state.log_history[-1]))

    def on_train_end(self, args: Arguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            self._note(state, now=True)

    def _note(self, state: TrainerState, *, now: bool = False) -> None:
        if not now and time.monotonic() - self._written < _WRITE_SECONDS:
            return
        self._written = time.monotonic()
        began, first = self._began
        done = state.global_step - first
        left = None if done <= 0 else (self._written - began) / done * (state.max_steps - state.global_step)
        values = Standing(state.global_step, state.max_steps, left)
        self.standing.parent.mkdir(parents=True, exist_ok=True)
        # Not synced: it vouches for nothing.
        unfinished = self.standing.with_name(f".{self.standing.name}.{os.getpid()}")
        unfinished.write_text(json.dumps(asdict(values)), encoding="utf-8")
        unfinished.replace(self.standing)


def run_name(settings: Mapping[str, Any], unit: str) -> str:
    """The name of a unit's run in W&B and others: the unit's, after the settings' `run_name` if there is one."""
    given = settings.get("run_name")
    return unit if given is None else f"{given}-{unit}"


@contextmanager
def tracked(folder: UnitFolder, unit: str, arguments: Arguments) -> Iterator[None]:
    """While open, TensorBoard writes into the unit's folder, and W&B into one run of this unit's alone.

    The Trainer must be made inside. Files of TensorBoard stay when the checkpoints are deleted; below
    `TENSORBOARD_LOGGING_DIR` if that is set. A resumed unit goes on with its run in W&B.
    """
    given = os.environ.get(_TENSORBOARD)
    os.environ[_TENSORBOARD] = str(folder.tensorboard if given is None else Path(given) / unit)
    begun = (
        "wandb" in (arguments.report_to or ()) and ranks.is_first() and _begin_wandb(folder, unit, arguments)
    )
    try:
        yield
    finally:
        if given is None:
            os.environ.pop(_TENSORBOARD, None)
        else:
            os.environ[_TENSORBOARD] = given
        if begun:
            # Or the next unit that this process trains would go on with it.
            importlib.import_module("wandb").finish()


def _begin_wandb(folder: UnitFolder, unit: str, arguments: Arguments) -> bool:
    """Begin the unit's run, which the Trainer then finds; its id is the same whenever the unit is resumed."""
    wandb: Any = importlib.import_module("wandb")
    if wandb.run is not None:
        return False
    place = hashlib.sha256(str(folder.path.absolute()).encode("utf-8", "surrogateescape")).hexdigest()
    wandb.init(
        project=os.environ.get("WANDB_PROJECT", "huggingface"),
        name=arguments.run_name,
        id=f"{unit[:48]}-{place[:8]}",
        resume="allow",
    )
    return True
