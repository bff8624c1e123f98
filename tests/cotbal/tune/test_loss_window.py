"""A run that is resumed between two logs logs what the undisturbed one does, at the learning rate it is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.models.tiny_models import random_batch, tiny_llama
from support.tune.recorded_steps import MicroBatches, single, training_arguments

from cotbal.tune import TaskBalancedTrainer

STOCK = ("loss", "grad_norm", "learning_rate", "epoch", "step")


def trainer(folder: Path, *, rate: float = 0.05, **arguments: Any) -> TaskBalancedTrainer:
    model = tiny_llama()[0]
    batches = []
    for number in range(9):
        batch = random_batch(model, batch_size=1, seed=number, supervised=0.5)
        batch["loss_task_index"] = torch.tensor([number % 2])
        batches.append(batch)
    return TaskBalancedTrainer(
        model,
        training_arguments(
            folder, logging_steps=4, learning_rate=rate, max_steps=9, lr_scheduler_type="cosine", **arguments
        ),
        tasks=("a", "b"),
        strategy="ew",
        train_dataset=MicroBatches(batches),
        data_collator=single,
    )


def run(
    folder: Path, resume: Path | None = None, *, scale: float = 1.0, **options: Any
) -> list[dict[str, Any]]:
    running = trainer(folder, **options)
    running.learning_rate_scale = scale
    running.train(resume_from_checkpoint=None if resume is None else str(resume))
    return running.state.log_history


def timeless(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key != "train_runtime" and "per_second" not in key}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(folder, save_strategy="steps", save_steps=1)


@pytest.mark.parametrize("step", [3, 4, 6])
def test_the_logged_loss_is_the_undisturbed_runs(
    tmp_path: Path, whole: tuple[Path, list[dict[str, Any]]], step: int
) -> None:
    folder, entries = whole
    again = run(tmp_path, folder / f"checkpoint-{step}")
    steady = [{key: entry[key] for key in STOCK} for entry in entries if "loss" in entry]
    assert [{key: entry[key] for key in STOCK} for entry in again if "loss" in entry] == steady
    assert len(steady) == 2


@pytest.mark.parametrize("step", [3, 4, 6, 8])
def test_the_summary_is_of_the_whole_training(
    tmp_path: Path, whole: tuple[Path, list[dict[str, Any]]], step: int
) -> None:
    folder, entries = whole
    again = run(tmp_path, folder / f"checkpoint-{step}")
    assert [timeless(entry) for entry in again] == [timeless(entry) for entry in entries]


def test_the_loss_that_is_returned_is_of_the_whole_training(tmp_path: Path) -> None:
    made = trainer(tmp_path, save_strategy="steps", save_steps=7).train()
    resumed = trainer(tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-7"))
    assert resumed.training_loss == made.training_loss == resumed.metrics["train_loss"]
    assert 1.0 < made.training_loss < 20.0


def test_a_finished_training_is_taken_over_with_its_summary(
    tmp_path: Path, whole: tuple[Path, list[dict[str, Any]]]
) -> None:
    folder, entries = whole
    after = trainer(tmp_path)
    after.take_over_finished(folder / "checkpoint-9")
    found = after.state.log_history
    assert [timeless(entry) for entry in found] == [timeless(entry) for entry in entries]
    assert found[-1].keys() == entries[-1].keys()


def test_a_lower_rate_holds_from_the_checkpoint_to_the_end_and_in_later_ones(
    tmp_path: Path, whole: tuple[Path, list[dict[str, Any]]]
) -> None:
    folder, entries = whole
    rates = {entry["step"]: entry["learning_rate"] for entry in entries if "loss" in entry}
    halved = run(
        tmp_path, folder / "checkpoint-5", scale=0.5, rate=0.025, save_strategy="steps", save_steps=1
    )
    found = {entry["step"]: entry["learning_rate"] for entry in halved if "loss" in entry}
    assert found == {4: rates[4], 8: pytest.approx(rates[8] / 2)}
    # A later checkpoint of that run already has the lower rate: it is not halved again.
    later = run(tmp_path / "later", tmp_path / "checkpoint-7", scale=0.5, rate=0.025)
    assert {entry["step"]: entry["learning_rate"] for entry in later if "loss" in entry} == found
    # Without a checkpoint the arguments' rate is all there is.
    fresh = run(tmp_path / "fresh", scale=0.5, rate=0.025)
    assert next(entry["learning_rate"] for entry in fresh if "loss" in entry) == pytest.approx(rates[4] / 2)
