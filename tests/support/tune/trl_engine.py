"""The steps of a set-up under `TaskBalancedSFTTrainer`, whose data sets must be those of the `datasets` library."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from support.models.tiny_models import tiny_llama
from support.tune.engines import TASKS, _dealt, _grouped, _LossRecorder, _over_ranks
from support.tune.recorded_steps import Recorder, training_arguments
from support.tune.step_oracle import Gradients
from trl import SFTConfig

from cotbal.tune import balance
from cotbal.tune.sft import TaskBalancedSFTTrainer

if TYPE_CHECKING:
    from support.tune.setups import SetUp


class _SFTLossRecorder(_LossRecorder, TaskBalancedSFTTrainer):
    """Both: TRL's trainer, and each micro-batch's loss kept."""


def train(
    setup: SetUp, build: Callable[..., Any], own: Sequence[Any], weights: Sequence[float], folder: Path
) -> list[tuple[float, Gradients]]:
    """Ready micro-batches go past TRL's preparation: the data set has their numbers, the collator the batches."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()  # the precision may differ from the last set-up's
    dealt = _dealt(own, setup.ranks)
    recorder = Recorder()
    with warnings.catch_warnings():
        # A field of SFTConfig's own, which transformers has renamed.
        warnings.filterwarnings("ignore", "`gradient_checkpointing` is deprecated")
        arguments = training_arguments(
            folder,
            kind=SFTConfig,
            loss_type="nll",
            gradient_checkpointing=False,
            learning_rate=0.0,
            gradient_accumulation_steps=setup.accumulation,
            bf16=setup.precision == "bf16",
            remove_unused_columns=False,
            dataset_kwargs={"skip_prepare_dataset": True},
            **({"ddp_backend": "gloo"} if setup.ranks > 1 else {}),
        )
    trainer = _SFTLossRecorder(
        build(setup, balance=lambda model: balance(model, weights) if setup.balanced_first else None),
        arguments,
        tasks=TASKS,
        task_weights=weights,
        normalize=setup.normalize,
        train_dataset=Dataset.from_dict({"number": list(range(len(dealt)))}),
        data_collator=lambda examples: dict(dealt[examples[0]["number"]]),
        processing_class=tiny_llama()[1],  # not used, but needed
        callbacks=[recorder],
    )
    trainer.train()
    losses = [
        _over_ranks(torch.stack(group).sum(), setup.ranks) / setup.ranks
        for group in _grouped(trainer.micro_losses, setup.accumulation)
    ]
    return list(zip(losses, recorder.gradients, strict=True))
