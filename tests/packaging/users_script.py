"""What a user might write; `test_types.py` has mypy look at it, nobody runs it."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from transformers import AutoModelForCausalLM, TrainingArguments

import cotbal
import cotbal_kernels as ck
from cotbal.data import Record, read_records


def weigh(path: str) -> cotbal.TaskWeights:
    measurement = cotbal.measure(cotbal.ScoreTable.from_csv(path))
    return cotbal.weigh(measurement, temperature=0.5)


def own_loop(steps: Iterable[list[dict[str, torch.Tensor]]], weights: cotbal.TaskWeights) -> list[float]:
    model = AutoModelForCausalLM.from_pretrained("model")
    handle = cotbal.balance(model, weights)
    losses: list[float] = []
    for batches in steps:
        cotbal.begin_step(handle, batches)
        for batch in batches:
            model(**batch).loss.backward()
        sums = cotbal.end_step(handle)
        losses += (sums.loss / sums.tokens).tolist()
    return losses


def trainer(model: torch.nn.Module, records: list[Record]) -> cotbal.TaskBalancedTrainer:
    return cotbal.TaskBalancedTrainer(
        model,
        TrainingArguments("out"),
        tasks=["caption", "vqa"],
        task_weights={"caption": 0.5, "vqa": 1.5},
        train_dataset=records,
    )


def own_head(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    out = ck.linear_cross_entropy(hidden, weight, labels, shift=True)
    return out.loss + out.task_loss.sum()


def strategies() -> list[cotbal.strategies.Strategy]:
    return [cotbal.strategies.get("dwa", 3, window=10), cotbal.strategies.RandomLossWeighting(3, seed=1)]


def scores(records: str) -> list[float]:
    read = read_records(records)
    metric = cotbal.metrics.get("exact_match")
    answers = [record.references for record in read.records]
    return list(metric.score([first for first, *_ in answers], answers))
