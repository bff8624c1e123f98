"""What must hold over several ranks besides the set-ups; each check runs on every rank of one torchrun job.

A check raises where it fails. `CHECKS` maps names to them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState
from support.models.tiny_models import random_batch, tiny_llama, tiny_llava
from support.tune.engines import TASKS, _shard
from support.tune.recorded_steps import MicroBatches, single, training_arguments
from support.tune.setup_data import make_batch
from torch import nn

from cotbal import strategies
from cotbal.tune import TaskBalancedTrainer, balance, begin_step, end_step

WEIGHTS = (0.5, 2.0, 0.1)


def _near(found: float, expected: float, relative: float = 1e-6) -> None:
    if not abs(found - expected) <= relative * abs(expected):
        raise AssertionError(f"found {found}, expected {expected}")


@contextlib.contextmanager
def _refused(words: str) -> Any:
    try:
        yield
    except ValueError as error:
        if words not in str(error):
            raise
    else:
        raise AssertionError(f"nothing was refused with {words!r}")


def self_check(folder: Path) -> None:
    """`handle.verify` under DDP and FSDP2, with tasks spread unevenly and one rank without a token."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    for wrap in ("ddp", "fsdp2", "fsdp2, head apart"):
        for kind in ("one task a micro-batch", "an empty rank"):
            bare = tiny_llava()[0].train()
            handle = balance(bare, WEIGHTS)
            batch = make_batch(bare, kind, rank, 0)
            if wrap == "ddp":
                model = nn.parallel.DistributedDataParallel(bare, find_unused_parameters=True)
            else:
                _shard(bare, head_apart="apart" in wrap, low=False)
                model = bare
            found = handle.verify(batch, model=model)
            if not found.passed or len(found.normalizers) != ranks or len(set(found.normalizers)) != 1:
                raise AssertionError(f"{wrap}, {kind}: {found}")


def figures(folder: Path) -> None:
    """Logged per-task figures and the strategy's statistics are sums over all ranks and micro-batches."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    model = tiny_llama()[0].train()
    all_batches = [
        [random_batch(model, batch_size=1, num_tasks=1, seed=10 * r + n) for n in range(3)]
        for r in range(ranks)
    ]
    for r, own in enumerate(all_batches):
        for n, batch in enumerate(own):
            batch["loss_task_index"] = torch.tensor([min(r + n, 2)])
    seen: list[Any] = []

    class Spy(strategies.EqualWeights):
        def end_step(self, task_loss_sum: torch.Tensor, task_tokens: torch.Tensor) -> None:
            seen.append((task_loss_sum.tolist(), task_tokens.tolist()))

    trainer = TaskBalancedTrainer(
        model,
        training_arguments(
            folder / str(rank), learning_rate=0.0, gradient_accumulation_steps=3, ddp_backend="gloo"
        ),
        tasks=TASKS,
        strategy=Spy(3),
        train_dataset=MicroBatches([own[n] for n in range(3) for own in all_batches]),
        data_collator=single,
    )
    trainer.train()
    handle = trainer.balance_handle
    handle.remove()
    alone = balance(model, [1.0] * 3)
    for own in all_batches:
        for batch in own:
            model(**batch)
    sums = alone.statistics()
    log = next(entry for entry in trainer.state.log_history if "loss" in entry)
    for index, task in enumerate(TASKS):
        tokens = int(sums.tokens[index])
        assert log[f"tokens/{task}"] == tokens, (log, tokens)
        _near(log[f"loss/{task}"], float(sums.loss[index]) / tokens)
        _near(log[f"accuracy/{task}"] + 1, float(sums.correct[index]) / tokens + 1)
        _near(seen[0][0][index], float(sums.loss[index]))
    assert seen[0][1] == sums.tokens.tolist()


def evaluation(folder: Path) -> None:
    """Per-task evaluation over a data set that does not divide by the ranks counts every sample once."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    model = tiny_llama()[0]
    samples = [random_batch(model, batch_size=1, seed=seed) for seed in range(2 * 2 * ranks + 3)]
    for number, sample in enumerate(samples):
        sample["loss_task_index"] = torch.tensor([number % 3])

    def together(items: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        return {name: torch.cat([item[name] for item in items]) for name in items[0]}

    trainer = TaskBalancedTrainer(
        model,
        training_arguments(folder / str(rank), per_device_eval_batch_size=2, ddp_backend="gloo"),
        tasks=TASKS,
        task_weights=WEIGHTS,
        eval_dataset=MicroBatches(samples),
        data_collator=together,
    )
    metrics = trainer.evaluate()
    trainer.balance_handle.remove()
    model.train()
    alone = balance(model, [1.0] * 3)
    for sample in samples:
        model(**sample)
    sums = alone.statistics()
    for index, task in enumerate(TASKS):
        tokens = int(sums.tokens[index])
        assert metrics[f"eval_tokens/{task}"] == tokens, (metrics, tokens)
        _near(metrics[f"eval_loss/{task}"], float(sums.loss[index]) / tokens)


def refusals(folder: Path) -> None:
    """Settings under which the ranks' normalizers would differ."""
    arguments = training_arguments(folder, average_tokens_across_devices=False, ddp_backend="gloo")
    with _refused("average_tokens_across_devices=False with"):
        TaskBalancedTrainer(tiny_llama()[0], arguments, tasks=TASKS, task_weights=WEIGHTS)
    if torch.cuda.is_available():
        return
    # Asked for GPUs where there are none, the Trainer takes itself to be alone.
    AcceleratorState._reset_state(reset_partial_state=True)
    arguments = training_arguments(folder, use_cpu=False)
    try:
        with _refused("has 2 ranks, but the Trainer knows of 1"):
            TaskBalancedTrainer(tiny_llama()[0], arguments, tasks=TASKS, task_weights=WEIGHTS)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


def own_loop(folder: Path) -> None:
    """begin_step and end_step with a strategy: every rank gets the same weights, from global statistics."""
    rank = dist.get_rank()
    model = tiny_llama()[0].train()
    handle = balance(model, [1.0] * 3)
    strategy = strategies.get("dwa", 3, window=1)
    given = []
    for step in range(6):
        # Rank 0 has two micro-batches, rank 1 one, any other none: all must call.
        batches = [
            make_batch(model, "one task a micro-batch", rank, 2 * step + n) for n in range(max(0, 2 - rank))
        ]
        begin_step(handle, batches, strategy=strategy)
        for batch in batches:
            model(**batch).loss.backward()
        end_step(handle, strategy=strategy)
        given.append(handle.weights)
    mine = torch.stack(given)
    theirs = mine.clone()
    dist.broadcast(theirs, src=0)
    assert torch.equal(mine, theirs)
    assert len({tuple(row.tolist()) for row in mine}) > 1


def trl_figures(folder: Path) -> None:
    """With equal weights TRL's accuracy, token counts and loss are those of its own trainer on the same ranks."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from cotbal.tune.sft import TaskBalancedSFTTrainer

    rows = []
    for seed in range(12):
        batch = random_batch(tiny_llama()[0], batch_size=1, length=16 + seed, seed=seed)
        row = {name: batch[name][0].tolist() for name in ("input_ids", "labels")}
        rows.append({**row, "task": TASKS[seed % 3]})
    histories = []
    for kind, options in ((SFTTrainer, {}), (TaskBalancedSFTTrainer, {"tasks": TASKS, "strategy": "ew"})):
        model, tokenizer = tiny_llama()
        plain = {"bf16": False, "gradient_checkpointing": False, "loss_type": "nll"}
        trainer = kind(
            model,
            args=training_arguments(
                folder,
                kind=SFTConfig,
                gradient_accumulation_steps=2,
                learning_rate=0.5,
                num_train_epochs=2,
                ddp_backend="gloo",
                **plain,
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            **options,
        )
        trainer.train()
        histories.append([entry for entry in trainer.state.log_history if "loss" in entry])
    theirs, ours = histories
    assert any(entry["mean_token_accuracy"] > 0 for entry in theirs), theirs
    for stock, own in zip(theirs, ours, strict=True):
        assert own["num_tokens"] == stock["num_tokens"], (own, stock)
        for name in ("loss", "grad_norm", "mean_token_accuracy"):
            assert abs(own[name] - stock[name]) <= 1e-5 * abs(stock[name]), (name, own, stock)


CHECKS: dict[str, Callable[[Path], None]] = {
    "self-check": self_check,
    "figures": figures,
    "evaluation": evaluation,
    "refusals": refusals,
    "own loop": own_loop,
    "TRL's figures": trl_figures,
}
