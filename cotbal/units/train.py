"""Training one unit with the Hugging Face Trainer, from its last whole checkpoint where there is one."""

from __future__ import annotations

import gc
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from transformers import PreTrainedModel, PrinterCallback, TrainerCallback, TrainerControl, TrainerState
from transformers import TrainingArguments as Arguments

from cotbal.config.schema import Config
from cotbal.data.collate import TaskCollator, mixes_images
from cotbal.data.records import Record
from cotbal.strategies.base import Strategy
from cotbal.tune.trainer import TaskBalancedTrainer
from cotbal.units.arguments import training_arguments
from cotbal.units.checkpoints import discard_incomplete, last_complete, mark_complete, step_of
from cotbal.units.loading import load_model
from cotbal.units.mixture import RecordDataset
from cotbal.units.schedule import Unit
from cotbal.units.store import UnitFolder

__all__ = ["Trained", "release_memory", "train"]


@dataclass(frozen=True)
class Trained:
    """What a training took: optimizer steps and samples in all, seconds of this call."""

    steps: int
    samples: int
    seconds: float


class _Watch(TrainerCallback):
    """Marks finished checkpoints and passes progress on, in samples."""

    def __init__(self, advance: Callable[[int], None], samples: int) -> None:
        self.advance = advance
        self.samples = samples
        self.told = 0

    def on_train_begin(self, args: Arguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        # A resumed unit's earlier steps were told by the caller.
        self.told = self._done(state)

    def on_step_end(self, args: Arguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        done = self._done(state)
        self.advance(done - self.told)
        self.told = done

    def on_save(self, args: Arguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            mark_complete(Path(str(args.output_dir)) / f"checkpoint-{state.global_step}")

    def _done(self, state: TrainerState) -> int:
        return self.samples * state.global_step // max(1, state.max_steps)


def train(
    unit: Unit,
    config: Config,
    settings: dict[str, Any],
    records: Sequence[Record],
    processor: Any,
    strategy: Strategy,
    folder: UnitFolder,
    *,
    samples: int,
    begin: Callable[[int], None],
    advance: Callable[[int], None],
) -> Trained:
    """Train a unit and save its model in ``folder.model``.

    The result is the same, bit for bit on one machine, whether or not the training was interrupted: data order and
    every random state come from the unit's seed or from the checkpoint.

    Args:
        samples: how many samples the whole training sees, for progress.
        begin: told how many of them earlier calls have seen.
        advance: told how many more were seen.
    """
    started = time.monotonic()
    discard_incomplete(folder.checkpoints)
    checkpoint = last_complete(folder.checkpoints)
    arguments = training_arguments(settings, folder.checkpoints, unit.seed)
    # From the checkpoint by our own loader: the Trainer's matches the names in the file with the model's own, and
    # families whose files use other names (LLaVA's) would go on from the weights they started with, in silence.
    model = load_model(config.model, checkpoint)
    watch = _Watch(advance, samples)
    trainer = TaskBalancedTrainer(
        model=model,
        args=arguments,
        train_dataset=RecordDataset(records),
        data_collator=TaskCollator(
            processor,
            unit.train_tasks,
            max_length=config.max_length,
            on_bad=config.bad_records,
            blank_image=arguments.world_size > 1 and mixes_images(records),
            skipped_file=folder.skipped,
        ),
        strategy=strategy,
        tasks=unit.train_tasks,
        callbacks=[watch],
    )
    trainer.remove_callback(PrinterCallback)
    if checkpoint is None:
        begin(0)
        trainer.train()
    else:
        state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        begin(samples * state.global_step // max(1, state.max_steps))
        if step_of(checkpoint) < state.max_steps:
            trainer.train(resume_from_checkpoint=str(checkpoint))
        else:
            # The Trainer would take one step too many from a checkpoint of the last step in mid-epoch.
            trainer.state = state
    _save(cast(PreTrainedModel, trainer.model), processor, folder)
    folder.write_log(trainer.state.log_history)
    return Trained(trainer.state.global_step, samples, time.monotonic() - started)


def _save(model: PreTrainedModel, processor: Any, folder: UnitFolder) -> None:
    """Save model and processor beside their final place, then move them there in one step."""
    unfinished = folder.path / "model.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    model.save_pretrained(unfinished)
    processor.save_pretrained(unfinished)
    shutil.rmtree(folder.model, ignore_errors=True)
    unfinished.rename(folder.model)


def release_memory() -> None:
    """Give back what an ended unit held, before the next one is loaded."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
