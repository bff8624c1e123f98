"""Prove with one batch of a config's own data, model and training settings that the weights act."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from transformers import PrinterCallback

from cotbal.config.schema import Config
from cotbal.config.yaml_file import ConfigError
from cotbal.data.collate import TaskCollator
from cotbal.data.packed import mixes_images
from cotbal.data.records import Record
from cotbal.models.loading import load_model, load_processor
from cotbal.tune.trainer import TaskBalancedTrainer
from cotbal.tune.verification import Verification
from cotbal.units.arguments import training_arguments, training_settings
from cotbal.units.mixture import Mixture, RecordDataset

__all__ = ["check_weights"]

# The check is one batch: nothing is accumulated, saved or logged.
_ONE_STEP: dict[str, Any] = {
    "max_steps": 1,
    "gradient_accumulation_steps": 1,
    "global_batch_size": None,
    "train_sampling_strategy": "sequential",
    "save_strategy": "no",
    "logging_strategy": "no",
    "report_to": "none",
}


class _Finished(Exception):
    """The check is done, which ends the training that it was part of."""


class _CheckingTrainer(TaskBalancedTrainer):
    """Verifies instead of the first training step, with the model wrapped, sharded and cast as in training."""

    verification: Verification | None = None

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        batch = self._prepare_inputs(inputs)
        self.verification = self.balance_handle.verify(batch, model=model, backward=self.accelerator.backward)
        raise _Finished


def check_weights(config: Config, weights: Mapping[str, float] | None = None) -> tuple[Verification, str]:
    """Double one task's weight on a batch of the config's first records, and compare the gradient with the formula.

    The batch takes the path of a real tuning of this config: its model, processor, adapters and `training` settings,
    under the launcher that started this process (torchrun, accelerate launch). Every process must call. Nothing is
    trained, and nothing is written except to a temporary folder.

    Args:
        config: the mixture.
        weights: the weight of every task of the mixture (default: 1 for all).

    Returns:
        The result, and the name of the task whose weight was doubled.

    Raises:
        ConfigError: transformers refuses the settings.
        ValueError: see `cotbal.tune.verify`.
    """
    tasks = [task.name for task in config.tasks]
    settings = training_settings(config, "tune") | _ONE_STEP
    with tempfile.TemporaryDirectory() as folder:
        arguments = training_arguments(settings, Path(folder), config.seed)
        records = first_records(config, arguments.world_size * arguments.per_device_train_batch_size)
        trainer = _CheckingTrainer(
            model=load_model(config.model, seed=config.seed),
            args=arguments,
            train_dataset=RecordDataset(records),
            data_collator=TaskCollator(
                load_processor(config.model),
                tasks,
                max_length=config.max_length,
                on_bad=config.bad_records,
                blank_image=arguments.world_size > 1 and mixes_images(records),
            ),
            tasks=tasks,
            task_weights=dict(weights) if weights is not None else dict.fromkeys(tasks, 1.0),
        )
        trainer.remove_callback(PrinterCallback)
        try:
            trainer.train()
        except _Finished:
            # Not after an error: the other ranks may be waiting for something else.
            if dist.is_initialized():
                dist.barrier()
    if trainer.verification is None:
        raise ConfigError("the training ended before its first step; are there records to train on?")
    return trainer.verification, tasks[trainer.verification.task]


def first_records(config: Config, count: int) -> Sequence[Record]:
    """Return at least `count` training records, one of each task in turn."""
    mixture = Mixture(config)
    each = -(-count // len(config.tasks))
    lists = [mixture.first_records(task.name, each) for task in config.tasks]
    turns = itertools.chain.from_iterable(zip(*(itertools.cycle(records) for records in lists), strict=True))
    return list(itertools.islice(turns, max(count, len(lists))))
