"""Training runs whose every optimizer step is written down: its gradients before the optimizer sees them."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from support.tune.step_oracle import Gradients, gradients_of
from torch import nn
from transformers import TrainerCallback, TrainingArguments


@dataclass
class Recorder(TrainerCallback):
    """Keeps, for each optimizer step, the gradients it got and, if wanted, a copy of the parameters before it."""

    keep_parameters: bool = False
    gradients: list[Gradients] = field(default_factory=list)
    parameters: list[dict[str, torch.Tensor]] = field(default_factory=list)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        model: nn.Module = kwargs["model"]
        self.gradients.append(gradients_of(model))
        if self.keep_parameters:
            self.parameters.append({name: p.detach().clone() for name, p in model.named_parameters()})


def training_arguments(
    folder: Any, *, kind: type[TrainingArguments] = TrainingArguments, **options: Any
) -> TrainingArguments:
    """Quiet arguments for a run on the CPU: plain SGD, no clipping, nothing saved."""
    return kind(
        **{
            "output_dir": str(folder),
            "use_cpu": True,
            "report_to": [],
            "disable_tqdm": True,
            "save_strategy": "no",
            "logging_steps": 1,
            "max_grad_norm": 0.0,
            "optim": "sgd",
            "learning_rate": 0.05,
            "lr_scheduler_type": "constant",
            "train_sampling_strategy": "sequential",
            "per_device_train_batch_size": 1,
            "per_device_eval_batch_size": 1,
            "num_train_epochs": 1,
            **options,
        }
    )


class MicroBatches(torch.utils.data.Dataset):
    """Ready-made micro-batches as a data set; `single` is the collator that hands them on one by one."""

    def __init__(self, batches: list[dict[str, Any]]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return dict(self.batches[index])


def single(items: list[dict[str, Any]]) -> dict[str, Any]:
    """The only item: micro-batches are made beforehand."""
    (item,) = items
    return copy.copy(item)
