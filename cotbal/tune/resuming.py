"""Checkpoints that resume exactly: the strategy's state beside the stock files, and every weight loaded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Trainer

from cotbal.strategies.base import Strategy
from cotbal.tune.head import BalanceHandle
from cotbal.tune.window import LogWindow

STATE_FILE = "task_balance.pt"


class ResumableTrainer(Trainer):
    """The stock Trainer's saving and loading, with what `TaskBalancedTrainer` needs to resume."""

    tasks: tuple[str, ...]
    strategy: Strategy
    balance_handle: BalanceHandle
    _window: LogWindow

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
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
            }
            temporary = folder / f"{STATE_FILE}.tmp"
            torch.save(state, temporary)
            os.replace(temporary, folder / STATE_FILE)
        super()._save_checkpoint(model, trial)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self._loading_from: str | None = resume_from_checkpoint
        super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        self._loading_from = self.state.best_model_checkpoint
        super()._load_best_model()

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        # The stock Trainer matches the names in the file with the model's own and only warns where they differ.
        # Families whose files use other names (LLaVA's) would go on from the weights they started with.
        if load_result.missing_keys or load_result.unexpected_keys:
            self._load_by_from_pretrained(str(self._loading_from))

    def _load_by_from_pretrained(self, folder: str) -> None:
        base = self.accelerator.unwrap_model(self.model)
        loaded, found = type(base).from_pretrained(folder, dtype=base.dtype, output_loading_info=True)
        missing = sorted(found["missing_keys"])
        if missing:
            raise ValueError(
                f"{folder} lacks weights of {type(base).__name__}: {', '.join(missing[:3])}"
                f"{f' and {len(missing) - 3} more' if len(missing) > 3 else ''}; it cannot be resumed from"
            )
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
                "save_only_model=True), so the strategy cannot go on where it was. Start from the model's weights "
                "instead of resume_from_checkpoint"
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
