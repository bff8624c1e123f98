"""A balanced model's step reads nothing on the host: its tensors have no data here, so that a read is an error."""

from contextlib import nullcontext
from unittest import mock

import pytest
import torch
from support.models.tiny_models import random_batch, tiny_llama

import cotbal_kernels as ck
from cotbal.tune import balance, effective_weight, head
from cotbal.tune.step import begin_step


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_a_step_with_plans_reads_nothing(micro_batches: int) -> None:
    model = tiny_llama()[0].train()
    batches = []
    for seed in range(micro_batches):
        torch.manual_seed(seed)
        batch = random_batch(model, batch_size=3, num_tasks=3)
        plan = ck.plan(batch["labels"], batch["loss_task_index"], num_tasks=3, shift=True)
        batches.append({"input_ids": batch["input_ids"], "labels": batch["labels"], "loss_plan": plan})
    handle = balance(model, [1.0, 2.0, 1.0])
    # The first forward of a model finds how its logits are made, by looking at them.
    model(**batches[0]).loss.backward()
    handle.statistics()
    model.to("meta").zero_grad()
    begin_step(handle, batches)
    # A head without data is refused, and has no autocast: both lie beside the point here.
    with (
        mock.patch.object(effective_weight, "_dense", lambda weight: weight),
        mock.patch.object(head, "local_precision", lambda hidden: nullcontext(hidden.dtype)),
    ):
        for batch in batches:
            moved = {name: batch[name].to("meta") for name in ("input_ids", "labels")}
            model(**moved, loss_plan=batch["loss_plan"]).loss.backward()
    assert all(each.grad is not None for each in model.parameters())
    with pytest.raises((RuntimeError, NotImplementedError)):
        model.lm_head.weight.sum().item()
