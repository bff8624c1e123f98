"""Train one unit with the Hugging Face Trainer, from its last complete checkpoint if there is one."""

from __future__ import annotations

import gc
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState
from transformers import TrainingArguments as Arguments

from cotbal.atomic import sync
from cotbal.config.schema import Config
from cotbal.data.collate import TaskCollator
from cotbal.data.packed import PackedRecords, mixes_images
from cotbal.data.records import Record
from cotbal.models.loading import load_model, save_processor
from cotbal.models.sharding import check_resumable, is_sharded, whole_state_dict
from cotbal.output.checkpoints import last_complete, mark_complete, step_of, usable_checkpoint
from cotbal.output.seals import sync_folder
from cotbal.output.store import UnitFolder
from cotbal.strategies.base import Strategy
from cotbal.units import ranks
from cotbal.units.arguments import training_arguments
from cotbal.units.batches import batch_layout
from cotbal.units.faults import plain_faults
from cotbal.units.mixture import RecordDataset
from cotbal.units.schedule import Unit
from cotbal.units.stopping import UnitStoppedError
from cotbal.units.trainer import StopOnSignal, UnitTrainer
from cotbal.units.watching import TrainingLog, run_name, tracked

__all__ = ["Trained", "release_memory", "train"]


@dataclass(frozen=True)
class Trained:
    """What a training took: optimizer steps in all, seconds of this call; and the seals of its files."""

    steps: int
    seconds: float
    files: Mapping[str, str]


class _Watch(TrainerCallback):
    """Marks finished checkpoints, and reports progress in samples."""

    def __init__(self, advance: Callable[[int], None], samples: int) -> None:
        self.advance = advance
        self.samples = samples
        self.told = 0

    def on_train_begin(self, args: Arguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        # The caller has already reported a resumed unit's earlier steps.
        self.told = self._done(state)

    def on_step_end(self, args: Arguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        done = self._done(state)
        self.advance(done - self.told)
        self.told = done

    def on_save(self, args: Arguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        # Complete is what every process has written.
        ranks.barrier()
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
    standing: Path,
    lengths: Mapping[tuple[Path, int], int] | None,
    begin: Callable[[int], None],
    advance: Callable[[int], None],
    validation: Sequence[Record] = (),
    learning_rate_scale: float = 1.0,
    say: Callable[[str], None] = lambda message: None,
) -> Trained:
    """Train a unit and save its model in `folder.model`.

    On one machine the result is the same, bit for bit, whether or not the training was interrupted: data order and
    all random states come from the unit's seed or from the checkpoint.

    Args:
        samples: how many samples the whole training sees, for progress.
        standing: file that tells which step the training is at.
        lengths: tokens of the records by file and index, where the settings group samples by length; else None.
        begin: told how many of them earlier calls have seen.
        advance: told how many more were seen.
        validation: what a strategy that aligns gradients looks at.
        learning_rate_scale: what the settings' learning rate is multiplied by.
        say: told of a checkpoint that is damaged.

    Raises:
        DivergedError: see `cotbal.tune.divergence`; what was logged before is in the unit's log.
    """
    started = time.monotonic()
    layout = batch_layout(settings, ranks.world_size())
    if ranks.is_first():
        checkpoint = usable_checkpoint(folder.checkpoints, say)
    ranks.barrier()
    if not ranks.is_first():
        checkpoint = last_complete(folder.checkpoints)
    rate = float(settings["learning_rate"]) * learning_rate_scale
    changed = {"learning_rate": rate, "run_name": run_name(settings, unit.name)}
    arguments = training_arguments({**settings, **changed}, folder.checkpoints, unit.seed)
    ranks.barrier()
    # From the checkpoint by our own loader: the Trainer's matches the names in the file with the model's own, and
    # families whose files use other names (LLaVA's) would go on from the weights they started with, in silence.
    sharded = checkpoint is not None and is_sharded(checkpoint)
    if checkpoint is not None:
        check_resumable(checkpoint, arguments)
    model = load_model(config.model, None if sharded else checkpoint, seed=unit.seed)
    watch = _Watch(advance, samples)
    stop = StopOnSignal()
    with tracked(folder, unit.name, arguments):
        trainer = UnitTrainer(
            model=model,
            layout=layout,
            lengths=None if lengths is None else _lengths(records, lengths, config.max_length),
            args=arguments,
            train_dataset=RecordDataset(records),
            eval_dataset=RecordDataset(validation) if validation else None,
            data_collator=TaskCollator(
                processor,
                unit.train_tasks,
                max_length=config.max_length,
                on_bad=config.bad_records,
                blank_image=arguments.world_size > 1 and mixes_images(records),
                length_exponent=strategy.length_exponent,
                skipped_file=folder.skipped,
            ),
            strategy=strategy,
            tasks=unit.train_tasks,
            callbacks=[watch, stop, TrainingLog(folder, standing)],
        )
        trainer.learning_rate_scale = learning_rate_scale
        trainer.remove_callback(PrinterCallback)
        stop.take_over()
        try:
            _run(trainer, checkpoint, samples, begin)
        except BaseException:
            # What was logged is kept where it can be; the error to tell is the one that ended the training.
            with suppress(OSError):
                _write_log(trainer, folder)
            raise
        finally:
            stop.restore()
        log = _write_log(trainer, folder)
    if stop.stopped:
        raise UnitStoppedError(f"{unit.name} stopped at step {trainer.state.global_step}, with a checkpoint")
    stop.pass_on()
    _save(trainer, processor, folder)
    files = {**log, **folder.seal_skipped(), **folder.seal_model()} if ranks.is_first() else {}
    return Trained(trainer.state.global_step, time.monotonic() - started, files)


def _lengths(
    records: Sequence[Record], known: Mapping[tuple[Path, int], int], limit: int | None
) -> list[int]:
    """Tokens of each record as it is trained on, cut at the limit."""
    places = (
        records.where()
        if isinstance(records, PackedRecords)
        else ((record.source, record.index) for record in records)
    )
    found = [known[place] for place in places]
    return found if limit is None else [min(length, limit) for length in found]


def _write_log(trainer: UnitTrainer, folder: UnitFolder) -> dict[str, str]:
    return folder.write_log(trainer.state.log_history) if ranks.is_first() else {}


def _run(trainer: UnitTrainer, checkpoint: Path | None, samples: int, begin: Callable[[int], None]) -> None:
    if checkpoint is None:
        begin(0)
        trainer.train()
    else:
        state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        begin(samples * state.global_step // max(1, state.max_steps))
        if step_of(checkpoint) < state.max_steps:
            trainer.train(resume_from_checkpoint=str(checkpoint))
        else:
            if is_sharded(checkpoint):
                _load_shards(trainer, checkpoint)
            trainer.take_over_finished(checkpoint)
    trainer.check_finite()


class _ShardsLoadedError(Exception):
    """All that was wanted of a training has been done."""


class _StopBeforeSteps(TrainerCallback):
    def on_train_begin(self, *_: object, **__: object) -> None:
        raise _ShardsLoadedError


def _load_shards(trainer: UnitTrainer, checkpoint: Path) -> None:
    """Spread the model as for training and load the checkpoint's shards, which only the Trainer's own loop does."""
    trainer.add_callback(_StopBeforeSteps())
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint))
    except _ShardsLoadedError:
        return


def _save(trainer: UnitTrainer, processor: Any, folder: UnitFolder) -> None:
    """Save model and processor beside their final place, then move them there in one step.

    However the model was spread, what is saved is whole: plain `from_pretrained` loads it.
    """
    state = whole_state_dict(trainer)
    if ranks.is_first():
        with plain_faults(folder.path / "model.unfinished"):
            _save_whole(trainer, processor, folder, state)
    ranks.barrier()


def _save_whole(
    trainer: UnitTrainer, processor: Any, folder: UnitFolder, state: dict[str, torch.Tensor] | None
) -> None:
    model = trainer.accelerator.unwrap_model(trainer.model)
    unfinished = folder.path / "model.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    # Embeddings that an adapter is on are the base model's; peft would save them along.
    options = {"save_embedding_layers": False} if hasattr(model, "peft_config") else {}
    model.save_pretrained(unfinished, state_dict=state, **options)
    save_processor(processor, unfinished)
    sync_folder(unfinished)
    shutil.rmtree(folder.model, ignore_errors=True)
    unfinished.rename(folder.model)
    sync(folder.path)


def release_memory() -> None:
    """Free the memory of an ended unit before the next one is loaded."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
