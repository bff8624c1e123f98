"""Scores without generation: the share of each answer's tokens that a model ranks first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

import cotbal_kernels as ck
from cotbal.data.collate import TaskCollator
from cotbal.data.records import Record
from cotbal.units.evaluate import longest_first, to_model

__all__ = ["token_accuracies"]


def token_accuracies(model: Any, processor: Any, records: Sequence[Record], batch_size: int) -> list[float]:
    """Share of each record's answer tokens that the model ranks first, teacher-forced, in the records' order."""
    model.train(False)
    collate = TaskCollator(processor, [records[0].task])
    order = longest_first(records)
    found: dict[int, float] = {}
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = collate([records[row] for row in rows])
        labels = batch.pop("labels")
        inputs = {name: value for name, value in batch.items() if not name.startswith("loss_")}
        with torch.inference_mode():
            logits = model(**to_model(inputs, model)).logits
            each = torch.arange(len(rows))
            out = ck.cross_entropy(logits, labels, each, num_tasks=len(rows), shift=True, reduction="sum")
        found |= zip(rows, (out.task_correct / out.task_tokens).tolist(), strict=True)
    return [found[row] for row in range(len(records))]
