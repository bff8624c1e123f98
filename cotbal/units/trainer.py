"""The trainer of a unit: the same samples in every optimizer step on any number of processes, sharded or not."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import Sampler
from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers import TrainingArguments as Arguments
from transformers.trainer import SCHEDULER_NAME

from cotbal.models.sharding import check_sharded, load_sharded_optimizer, name_blocks, shard_on_cpus
from cotbal.tune.resuming import STATE_FILE
from cotbal.tune.trainer import TaskBalancedTrainer
from cotbal.units.batches import BatchLayout, StepSampler
from cotbal.units.faults import plain_faults
from cotbal.units.stopping import StopHandler

__all__ = ["StopOnSignal", "UnitTrainer"]


class UnitTrainer(TaskBalancedTrainer):
    """`TaskBalancedTrainer` whose steps do not depend on how many processes share them.

    Args:
        layout: how the samples of a step are spread; see `batch_layout`.
        lengths: of the records, where steps are to hold samples of similar length; None: any order.
        **options: of `TaskBalancedTrainer`.
    """

    def __init__(
        self, *args: Any, layout: BatchLayout, lengths: Sequence[int] | None = None, **options: Any
    ) -> None:
        self._layout = layout
        self._lengths = lengths
        super().__init__(*args, **options)
        self.add_callback(_Sharded(self))

    def create_accelerator_and_postprocess(self) -> None:
        """The stock accelerator; FSDP on CPUs too, and over the blocks of every part of the model."""
        super().create_accelerator_and_postprocess()
        shard_on_cpus(self)
        name_blocks(self)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        dataset: Any = self.train_dataset if train_dataset is None else train_dataset
        return StepSampler(
            len(dataset),
            self._layout.samples,
            self.args.data_seed if self.args.data_seed is not None else self.args.seed,
            self._lengths,
            shuffled=self.args.train_sampling_strategy != "sequential",
        )

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        with plain_faults(Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"):
            super()._save_checkpoint(model, trial)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or not self.is_fsdp_enabled:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        folder = Path(checkpoint)
        load_sharded_optimizer(self, folder)
        if self.lr_scheduler is None:  # pragma: no cover - made before a checkpoint is loaded
            raise RuntimeError("there is no learning rate schedule to resume")
        self.lr_scheduler.load_state_dict(torch.load(folder / SCHEDULER_NAME, weights_only=True))
        self._load_strategy(folder / STATE_FILE)


class _Sharded(TrainerCallback):
    """Checks, once the model is wrapped, that it is spread as the config asks."""

    def __init__(self, trainer: UnitTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Arguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        check_sharded(self.trainer)


class StopOnSignal(TrainerCallback):
    """SIGTERM, from a scheduler or a person, ends the training after the step in hand, with a checkpoint.

    The processes agree on the step by one all-reduce of one number per step, since the signal reaches them at
    different moments.

    Attributes:
        stopped: whether training ended for this reason.
    """

    def __init__(self) -> None:
        self.asked = False
        self.stopped = False
        self._earlier: Any = None

    def take_over(self) -> None:
        """Note the signal from here on. An exception that is raised amid torch's own code may abort the process."""
        self._earlier = signal.signal(signal.SIGTERM, StopHandler(self._note)) or signal.SIG_DFL

    def on_step_end(self, args: Arguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self._anyone_asked(args):
            self.stopped = state.global_step < state.max_steps
            control.should_save = True
            control.should_training_stop = True

    def restore(self) -> None:
        """Hand the signal back, however the training ended."""
        if self._earlier is not None:
            signal.signal(signal.SIGTERM, self._earlier)

    def pass_on(self) -> None:
        """Raise a signal again that came too late to stop the training."""
        if self.asked and not self.stopped:
            signal.raise_signal(signal.SIGTERM)

    def _note(self) -> None:
        self.asked = True

    def _anyone_asked(self, args: Arguments) -> bool:
        if args.world_size == 1 or not dist.is_initialized():
            return self.asked
        asked = torch.tensor(float(self.asked), device=args.device)
        dist.all_reduce(asked)
        return bool(asked > 0)
