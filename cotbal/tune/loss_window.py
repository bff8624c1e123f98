"""The stock Trainer's running loss, and its learning rate, carried over from one process to the next.

The Trainer adds up its losses in memory alone: after a resume between two logs, its next log would divide the sum of
the new steps by their number and forget the others, and its summary would tell of the steps of its own process.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from transformers import Trainer
from transformers.trainer_utils import speed_metrics

from cotbal.tune.counts import reduce_over_ranks

__all__ = [
    "loss_window",
    "mean_training_loss",
    "restore_loss_window",
    "scale_learning_rate",
    "summary_of_the_finished",
]


def loss_window(trainer: Trainer) -> dict[str, Any]:
    """What the Trainer has added up: each rank's sum and the steps since its last log, and the sum of all logs.

    Every rank must call it.
    """
    losses = torch.zeros(trainer.args.world_size, dtype=torch.float64, device=trainer.args.device)
    losses[trainer.args.process_index] = trainer._tr_loss
    reduce_over_ranks(losses)
    return {
        "losses": losses.tolist(),
        "steps": int(trainer.state.global_step - trainer._globalstep_last_logged),
        "logged": float(trainer._total_loss_scalar),
    }


def restore_loss_window(trainer: Trainer, window: dict[str, Any]) -> None:
    """Go on from `loss_window`; called when the Trainer has begun and has set its sums to 0.

    With another number of ranks than the window's, each gets the mean, which the log takes anyhow.
    """
    losses = [float(loss) for loss in window["losses"]]
    mean = sum(losses) / len(losses)
    own = losses[trainer.args.process_index] if len(losses) == trainer.args.world_size else mean
    trainer._tr_loss = torch.tensor(own, device=trainer.args.device)
    trainer._globalstep_last_logged = trainer.state.global_step - int(window["steps"])
    trainer._total_loss_scalar = float(window["logged"])


def mean_training_loss(trainer: Trainer) -> float:
    """`train_loss` of a finished training: the mean over all its steps, whichever process took them."""
    return float(trainer._total_loss_scalar) / max(trainer.state.global_step, 1)


def summary_of_the_finished(trainer: Trainer, window: dict[str, Any]) -> dict[str, float]:
    """What the Trainer would have logged at its end, for one whose every step is in a checkpoint; no time in it.

    Args:
        trainer: has the checkpoint's state.
        window: that of the checkpoint.
    """
    restore_loss_window(trainer, window)
    trainer._total_loss_scalar += trainer._tr_loss.item()
    times = speed_metrics("train", time.time(), num_samples=0, num_steps=0)  # type: ignore[no-untyped-call]
    loss = mean_training_loss(trainer)
    return {**times, "total_flos": trainer.state.total_flos, "train_loss": loss}


def scale_learning_rate(optimizer: Any, scheduler: Any, factor: float) -> None:
    """Multiply the learning rate of now and of all steps to come."""
    for group in optimizer.param_groups:
        for name in ("lr", "initial_lr"):
            if name in group:
                group[name] = group[name] * factor
    inner = getattr(scheduler, "scheduler", scheduler)
    for name in ("base_lrs", "_last_lr"):
        if hasattr(inner, name):
            setattr(inner, name, [rate * factor for rate in getattr(inner, name)])
