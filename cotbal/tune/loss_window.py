"""The stock Trainer's running loss, and its learning rate, carried over from one process to the next.

The Trainer adds up the losses since its last log in memory alone: after a resume between two logs, its next log
would divide the sum of the new steps by their number and forget the others.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import Trainer

from cotbal.tune.counts import reduce_over_ranks

__all__ = ["loss_window", "restore_loss_window", "scale_learning_rate"]


def loss_window(trainer: Trainer) -> dict[str, Any]:
    """What the Trainer has added up since its last log: each rank's sum, and the steps. Every rank must call it."""
    losses = torch.zeros(trainer.args.world_size, dtype=torch.float64, device=trainer.args.device)
    losses[trainer.args.process_index] = trainer._tr_loss
    reduce_over_ranks(losses)
    return {
        "losses": losses.tolist(),
        "steps": int(trainer.state.global_step - trainer._globalstep_last_logged),
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
    # `train_loss` is the mean over the steps of this call: what is carried over has to leave it again.
    trainer._total_loss_scalar = -mean


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
