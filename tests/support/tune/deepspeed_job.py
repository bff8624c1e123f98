"""One rank of a job under DeepSpeed's ZeRO-3: steps against the oracle, and the self-check; writes FOUND.json.

DS_ACCELERATOR=cpu torchrun --nproc-per-node 2 tests/support/tune/deepspeed_job.py FOUND.json
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.utils import safe_get_full_grad
from support.tune.deepspeed_cases import CASES, THE_TRAINER
from support.tune.recorded_steps import MicroBatches, single, training_arguments
from support.tune.run_setups import WEIGHTS, build
from support.tune.setup_data import make_batch
from support.tune.setups import SetUp
from support.tune.step_oracle import Gradients, largest_deviation, oracle_step
from transformers import TrainerCallback

from cotbal.tune import TaskBalancedTrainer, balance, begin_step, end_step

ACCUMULATION = 2
STEPS = 2
CONFIG: dict[str, Any] = {
    "train_micro_batch_size_per_gpu": 1,
    "gradient_accumulation_steps": ACCUMULATION,
    # Every parameter is split, however small.
    "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
    "zero_allow_untested_optimizer": True,
    "zero_force_ds_cpu_optimizer": False,
}


class Steps:
    """The losses and gradients of a run's steps, compared with the oracle's."""

    def __init__(self, setup: SetUp) -> None:
        self.setup = setup
        self.stock = build(setup)
        numbers = range(STEPS * ACCUMULATION)
        self.batches = [
            [make_batch(self.stock, setup.data, rank, number) for number in numbers]
            for rank in range(dist.get_world_size())
        ]

    def of(self, step: int) -> list[list[dict[str, Any]]]:
        """Each rank's micro-batches of a step."""
        first = step * ACCUMULATION
        return [own[first : first + ACCUMULATION] for own in self.batches]

    def deviation(self, losses: list[float], gradients: list[Gradients]) -> dict[str, Any]:
        """The largest over the steps; `losses` are this rank's part of them."""
        worst = {"loss": 0.0, "gradient": 0.0}
        for step, (part, found) in enumerate(zip(losses, gradients, strict=True)):
            total = torch.tensor(part, dtype=torch.float64)
            dist.all_reduce(total)
            together = [batch for own in self.of(step) for batch in own]
            expected, true = oracle_step(self.stock, together, WEIGHTS)
            worst["loss"] = max(worst["loss"], abs(float(total) - expected) / expected)
            worst["gradient"] = max(worst["gradient"], largest_deviation(found, true))
        return worst


def whole_gradients(model: torch.nn.Module) -> Gradients:
    """Put together from the ranks' parts, after the last backward pass of a step and before the optimizer's."""
    found = {name: safe_get_full_grad(p) for name, p in model.named_parameters() if p.requires_grad}
    return {name: gradient.clone() for name, gradient in found.items() if gradient is not None}


def own_loop(setup: SetUp) -> dict[str, Any]:
    """DeepSpeed's engine in a loop of one's own, with a self-check after each step, which must change nothing."""
    steps = Steps(setup)
    rank, averaged_over = dist.get_rank(), dist.get_world_size() * ACCUMULATION
    model = build(setup)
    handle = balance(model, WEIGHTS)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.0)
    engine = deepspeed.initialize(model=model, optimizer=optimizer, config=CONFIG)[0]
    assert all(parameter.numel() == 0 for parameter in model.parameters())
    losses, gradients = [], []
    for step in range(STEPS):
        own = steps.of(step)[rank]
        begin_step(handle, own, averaged_over=averaged_over)
        losses.append(0.0)
        for number, batch in enumerate(own):
            loss = engine(**batch).loss
            engine.backward(loss)
            losses[-1] += float(loss) / averaged_over
            if number == len(own) - 1:
                gradients.append(whole_gradients(model))
            engine.step()
        end_step(handle)
        check = handle.verify(own[0], model=engine, backward=engine.backward)
    return {**steps.deviation(losses, gradients), "passed": check.passed, "self-check": str(check)}


def by_the_trainer(setup: SetUp) -> dict[str, Any]:
    """`TaskBalancedTrainer` with the Trainer's own argument `deepspeed`."""
    steps = Steps(setup)
    model = build(setup)  # before the arguments: from then on new models are split as they are made
    losses: list[float] = []
    gradients: list[Gradients] = []

    class Recorder(TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            gradients.append(whole_gradients(model))

    class LossRecorder(TaskBalancedTrainer):
        def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            loss = super().training_step(*args, **kwargs)
            losses.append(float(loss) / dist.get_world_size())
            return loss

    with tempfile.TemporaryDirectory() as folder:
        arguments = training_arguments(
            folder, deepspeed=CONFIG, gradient_accumulation_steps=ACCUMULATION, learning_rate=0.0
        )
        trainer = LossRecorder(
            model,
            arguments,
            tasks=("first", "second", "third"),
            task_weights=WEIGHTS,
            train_dataset=MicroBatches([batch for row in zip(*steps.batches, strict=True) for batch in row]),
            data_collator=single,
            callbacks=[Recorder()],
        )
        trainer.train()
    assert type(trainer.model_wrapped).__name__ == "DeepSpeedEngine"
    added = [sum(losses[first : first + ACCUMULATION]) for first in range(0, len(losses), ACCUMULATION)]
    return steps.deviation(added, gradients)


def main(found: Path) -> None:
    torch.set_num_threads(1)
    deepspeed.init_distributed("gloo")
    outcomes = {}
    for name, options in CASES.items():
        run = by_the_trainer if name == THE_TRAINER else own_loop
        outcomes[name] = run(SetUp(name, "ZeRO-3", precision="float32", **options))
        if dist.get_rank() == 0:
            print(name, outcomes[name], flush=True)
    if dist.get_rank() == 0:
        found.write_text(json.dumps(outcomes))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
