"""Divergence: NaN and infinity stop a training in their step, by name, and are never logged as something else."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from support.models.tiny_models import random_batch, tiny_llama
from support.tune.recorded_steps import MicroBatches, single, training_arguments
from transformers import TrainerCallback

from cotbal.tune import TaskBalancedTrainer
from cotbal.tune.counts import StepSums
from cotbal.tune.divergence import DivergedError, DivergenceWatch, check_parameters

TASKS = ("caption", "vqa")


def make_trainer(
    folder: Path, model: torch.nn.Module, *, callbacks: Any = (), **options: Any
) -> TaskBalancedTrainer:
    batches = []
    for number in range(6):
        batch = random_batch(model, batch_size=1, seed=number, supervised=0.5)
        batch["loss_task_index"] = torch.tensor([number % 2])
        batches.append(batch)
    trainer_options = {key: options.pop(key) for key in ("stop_on_divergence",) if key in options}
    return TaskBalancedTrainer(
        model,
        training_arguments(folder, **options),
        tasks=TASKS,
        strategy="ew",
        train_dataset=MicroBatches(batches),
        data_collator=single,
        callbacks=list(callbacks),
        **trainer_options,
    )


class Poison(TrainerCallback):
    """After a step: a parameter becomes NaN, as after a fault of the machine."""

    def __init__(self, step: int, name: str, value: float = math.nan) -> None:
        self.step, self.name, self.value = step, name, value

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step - 1:
            with torch.no_grad():
                kwargs["model"].get_parameter(self.name).fill_(self.value)


def finite(entries: list[dict[str, Any]]) -> bool:
    return all(math.isfinite(value) for entry in entries for value in entry.values())


def test_a_learning_rate_that_blows_up_stops_at_once_with_what_is_known(tmp_path: Path) -> None:
    trainer = make_trainer(
        tmp_path, tiny_llama()[0], learning_rate=1e30, logging_steps=100, save_strategy="steps", save_steps=1
    )
    with pytest.raises(DivergedError) as caught:
        trainer.train()
    error = caught.value
    assert error.step == 2
    assert error.losses.keys() == {"caption"}
    assert error.losses["caption"][1] == 1
    assert 0 < error.losses["caption"][0] < 20
    for part in ("diverged", "loss of vqa is not finite", "step 2", "caption ", "(step 1)", "learning_rate"):
        assert part in str(error)
    assert {path.name for path in tmp_path.glob("checkpoint-*")} <= {"checkpoint-1"}


def test_a_gradient_that_is_not_finite_stops_before_its_log(tmp_path: Path) -> None:
    model = tiny_llama()[0]
    trainer = make_trainer(tmp_path, model)

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        return gradient * math.inf if trainer.state.global_step == 2 else gradient

    model.model.layers[0].self_attn.q_proj.weight.register_hook(spoil)
    with pytest.raises(DivergedError, match=r"the gradient norm is (nan|inf) at step 3"):
        trainer.train()
    assert len(trainer.state.log_history) == 2
    assert finite(trainer.state.log_history)


def test_a_parameter_that_is_not_finite_is_never_saved(tmp_path: Path) -> None:
    """This one takes no part in any batch, so no loss and no gradient tells."""
    model = tiny_llama()[0]
    model.register_parameter("spare", torch.nn.Parameter(torch.zeros(3)))
    trainer = make_trainer(
        tmp_path, model, callbacks=[Poison(3, "spare")], save_strategy="steps", save_steps=2
    )
    with pytest.raises(DivergedError, match=r"parameters are not finite \(spare\) at step 4"):
        trainer.train()
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]
    with pytest.raises(DivergedError):
        trainer.check_finite()


def test_going_on_all_the_same_logs_nan_as_nan(tmp_path: Path) -> None:
    """The stock Trainer logs the mean of the steps before, or 0.0, in its place."""
    name = "model.norm.weight"
    trainer = make_trainer(tmp_path, tiny_llama()[0], callbacks=[Poison(2, name)], stop_on_divergence=False)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert math.isfinite(losses[0])
    assert all(math.isnan(loss) for loss in losses[1:])


def test_checking_changes_nothing_that_is_trained(tmp_path: Path) -> None:
    def run(folder: Path, **options: Any) -> tuple[dict[str, torch.Tensor], list[Any]]:
        trainer = make_trainer(folder, tiny_llama()[0], max_grad_norm=1.0, **options)
        trainer.train()
        return trainer.model.state_dict(), [entry.get("loss") for entry in trainer.state.log_history]

    watched, unwatched = run(tmp_path / "a"), run(tmp_path / "b", stop_on_divergence=False)
    assert all(torch.equal(value, unwatched[0][name]) for name, value in watched[0].items())
    assert watched[1] == unwatched[1]


def sums(*losses: float) -> StepSums:
    ones = torch.ones(len(losses), dtype=torch.int64)
    return StepSums(torch.tensor(losses, dtype=torch.float64), ones, ones)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_watch_names_the_step_and_the_tasks(value: float) -> None:
    watch = DivergenceWatch(TASKS)
    watch.note(1, sums(2.0, 3.0), 1.0)
    watch.note(2, sums(2.5, value), torch.tensor(1.0))
    with pytest.raises(
        DivergedError, match=r"loss of vqa .* step 2\. .*caption 2 \(step 1\), vqa 3 \(step 1\)"
    ):
        watch.check()


def test_a_norm_that_means_nothing_is_not_looked_at() -> None:
    watch = DivergenceWatch(TASKS)
    watch.note(1, sums(2.0, 3.0), None)
    watch.check()
    watch.check_log(1, {"loss": 1.0, "grad_norm": math.inf}, norm=False)
    with pytest.raises(DivergedError, match="grad_norm is inf at step 1"):
        watch.check_log(1, {"loss": 1.0, "grad_norm": math.inf}, norm=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_parameters_are_searched_whatever_their_type_and_size(dtype: torch.dtype) -> None:
    model = torch.nn.ModuleDict({"fine": torch.nn.Linear(3, 2), "broken": torch.nn.Linear(3, 2)}).to(dtype)
    model.register_parameter("empty", torch.nn.Parameter(torch.zeros(0)))
    model.register_parameter(
        "whole", torch.nn.Parameter(torch.ones(2, dtype=torch.int8), requires_grad=False)
    )
    assert check_parameters(model) == ()
    with torch.no_grad():
        model["broken"].weight[1, 2] = math.nan
    assert check_parameters(model) == ("broken.weight",)
