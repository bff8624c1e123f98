"""Checkpoints that resume exactly: the strategy's state beside the stock files, and every weight loaded back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainerState

from cotbal.strategies.base import Strategy
from cotbal.tune.head import BalanceHandle
from cotbal.tune.loss_window import (
    loss_window,
    mean_training_loss,
    restore_loss_window,
    scale_learning_rate,
    summary_of_the_finished,
)
from cotbal.tune.whole_model import check_saved_adapters, load_whole
from cotbal.tune.window import LogWindow

STATE_FILE = "task_balance.pt"


class ResumableTrainer(Trainer):
    """The stock Trainer's saving and loading, with what `TaskBalancedTrainer` needs to resume."""

    tasks: tuple[str, ...]
    strategy: Strategy
    balance_handle: BalanceHandle
    learning_rate_scale: float = 1.0
    """What the learning rate of `args` has been multiplied by; a checkpoint made with another is brought to it."""
    _window: LogWindow
    _loss_window: dict[str, Any] | None = None

    def train(self, *args: Any, **options: Any) -> Any:
        """Train as usual; the loss that is returned is, as `train_loss` in the log, the mean over all steps."""
        output = super().train(*args, **options)
        return output._replace(training_loss=output.metrics["train_loss"])

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as usual; `train_loss` is the mean over all steps, also those that were taken before a resume."""
        if "train_loss" in logs:
            # In place, as the Trainer returns these figures too.
            logs["train_loss"] = mean_training_loss(self)
        super().log(logs, start_time)

    def take_over_finished(self, checkpoint: Path) -> None:
        """Stand where a checkpoint of the training's last step ends, and log what follows that step.

        `train` would take one step too many from such a checkpoint when its step is not the last of an epoch.
        """
        self.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        saved = torch.load(checkpoint / STATE_FILE, map_location="cpu", weights_only=True)
        self.log(summary_of_the_finished(self, saved["loss_window"]))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self.check_finite()
        losses = loss_window(self)
        # Before the stock files: a checkpoint that has trainer_state.json then has the strategy's state too.
        if self.args.should_save and not self.args.save_only_model:
            folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
            folder.mkdir(parents=True, exist_ok=True)
            state = {
                "tasks": list(self.tasks),
                "normalize": self.balance_handle.normalize,
                "strategy": type(self.strategy).name,
                "state": {name: value.cpu() for name, value in self.strategy.state_dict().items()},
                "window": self._window.state_dict(),
                "loss_window": losses,
                "learning_rate_scale": self.learning_rate_scale,
            }
            temporary = folder / f"{STATE_FILE}.tmp"
            torch.save(state, temporary)
            os.replace(temporary, folder / STATE_FILE)
        super()._save_checkpoint(model, trial)

    def check_finite(self) -> None:
        """Refuse to go on with losses or parameters that are not finite; see `TaskBalancedTrainer`."""

    def resume_logging(self) -> None:
        """Take up the running loss of the checkpoint, if there is one; called when the training has begun."""
        window, self._loss_window = self._loss_window, None
        if window is not None:
            restore_loss_window(self, window)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self._loading_from: str | None = resume_from_checkpoint
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        check_saved_adapters(self.accelerator.unwrap_model(model or self.model), resume_from_checkpoint)

    def _load_best_model(self) -> None:
        self._loading_from = self.state.best_model_checkpoint
        super()._load_best_model()

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        # The stock Trainer matches the names in the file with the model's own, and only warns where they differ.
        # Families whose files use other names (LLaVA's) would continue from the weights they started with.
        if load_result.missing_keys or load_result.unexpected_keys:
            self._load_by_from_pretrained(str(self._loading_from))

    def _load_by_from_pretrained(self, folder: str) -> None:
        base = self.accelerator.unwrap_model(self.model)
        loaded = load_whole(type(base), folder, remedy="It cannot be resumed from", dtype=base.dtype)
        base.load_state_dict(loaded.state_dict())
        base.tie_weights()

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self._load_strategy(Path(checkpoint) / STATE_FILE)

    def _load_strategy(self, path: Path) -> None:
        if not path.is_file():
            raise ValueError(
                f"{path} is missing: the checkpoint was not written by TaskBalancedTrainer (or with "
                "save_only_model=True), so the strategy cannot continue. Start from the model's weights instead of "
                "resume_from_checkpoint"
            )
        saved = torch.load(path, map_location="cpu", weights_only=True)
        found = (tuple(saved["tasks"]), saved["normalize"], saved["strategy"])
        wanted = (self.tasks, self.balance_handle.normalize, type(self.strategy).name)
        for what, old, new in zip(("tasks", "normalize", "strategy"), found, wanted, strict=True):
            if old != new:
                raise ValueError(
                    f"{path} was saved with {what} {old!r}, but this trainer has {new!r}; use the same"
                )
        self.strategy.load_state_dict(saved["state"])
        if "window" in saved:
            self._window.load_state_dict(saved["window"])
        self._loss_window = saved.get("loss_window")
        factor = self.learning_rate_scale / saved.get("learning_rate_scale", 1.0)
        if factor != 1.0:
            scale_learning_rate(self.optimizer, self.lr_scheduler, factor)
