"""Micro-batches for the set-ups: which rank holds which tasks, tokens and images."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from support.models.tiny_families import FAMILIES, family_batch
from support.models.tiny_models import random_batch

import cotbal_kernels as ck

TASKS = 3
Batch = dict[str, Any]


def make_batch(model: Any, kind: str, rank: int, number: int) -> Batch:
    """Micro-batch `number` of `rank`, alike on every call; mostly of one task, with unevenly many tokens.

    Args:
        model: the stock model, for its sizes.
        kind: "one task a micro-batch"; "token weights" besides; "an empty rank": rank 1 (with one rank, every
            second micro-batch) has no supervised token; "a text-only rank": rank 1 has no images; "a blank image":
            the same, but with one more row, an image without supervised token; "packed": several samples of
            different tasks in each row; "padding-free": all of them in a single row, with a plan from sample ids.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    seed = 100 * rank + number
    odd = (rank if rank else number) % 2 == 1
    if kind in ("packed", "padding-free"):
        batch = _packed(base, seed, rows=1 if kind == "padding-free" else 2)
        if kind == "padding-free":
            batch["loss_plan"] = _plan_of_samples(batch)
    elif base.config.model_type in FAMILIES or base.config.model_type in ("paligemma", "gemma3"):
        batch = family_batch(_family(base), batch_size=1 + seed % 2, length=12 + seed % 4, seed=seed)
    else:
        batch = random_batch(
            base,
            batch_size=1 + seed % 2,
            length=18 + 2 * (seed % 4),
            supervised=0.1 + 0.25 * (seed % 4),
            images=not (kind == "a text-only rank" and odd),
            seed=seed,
        )
        if kind == "a blank image" and odd:
            batch = _text_and_blank(base, seed)
    if "loss_task_index" not in batch or batch["loss_task_index"].dim() == 1:
        batch["loss_task_index"] = torch.full((len(batch["labels"]),), (rank + number) % TASKS)
    if kind == "an empty rank" and odd:
        batch["labels"] = torch.full_like(batch["labels"], -100)
    if kind == "token weights":
        generator = torch.Generator().manual_seed(seed)
        batch["loss_token_weights"] = torch.rand(batch["labels"].shape, generator=generator)
    dtype = next(base.parameters()).dtype
    own = "loss_token_weights"
    return {
        name: value.to(dtype)
        if isinstance(value, torch.Tensor) and value.is_floating_point() and name != own
        else value
        for name, value in batch.items()
    }


def _family(base: Any) -> str:
    kinds = {"paligemma": "paligemma2", "gemma3": "gemma3"}
    return kinds.get(base.config.model_type, base.config.model_type)


def _packed(base: Any, seed: int, rows: int) -> Batch:
    """Rows of three samples of different tasks; positions start anew with each, its first token has no label."""
    batch = random_batch(base, batch_size=rows, length=24, supervised=0.6, images=False, seed=seed)
    del batch["attention_mask"]
    edges = [0, 6 + seed % 3, 15, 24]
    tasks = torch.zeros_like(batch["labels"])
    positions = torch.zeros_like(batch["labels"])
    for index, (start, end) in enumerate(itertools.pairwise(edges)):
        batch["labels"][:, start] = -100
        tasks[:, start:end] = (index + seed) % TASKS
        positions[:, start:end] = torch.arange(end - start)
    batch["position_ids"], batch["loss_task_index"] = positions, tasks
    batch["labels"] = torch.where(batch["input_ids"] == base.config.pad_token_id, -100, batch["labels"])
    return batch


def _plan_of_samples(batch: Batch) -> ck.Plan:
    starts = (batch["position_ids"] == 0).long()
    samples = starts.cumsum(dim=-1) - 1
    tasks = batch["loss_task_index"][starts.bool()]
    return ck.plan(batch["labels"], tasks, num_tasks=TASKS, sample_ids=samples, shift=True)


def _text_and_blank(base: Any, seed: int) -> Batch:
    """A row of text alone and an image that nothing is trained on, as the collator's blank_image makes them."""
    batch = random_batch(base, batch_size=2, length=20, seed=seed)
    ids, config = batch["input_ids"], base.config
    image = getattr(config, "image_token_id", None) or config.image_token_index
    ids[0, ids[0] == image] = 30
    batch["labels"][1] = -100
    batch["pixel_values"] = batch["pixel_values"][len(batch["pixel_values"]) // 2 :]
    if "image_grid_thw" in batch:
        batch["image_grid_thw"] = batch["image_grid_thw"][1:]
        ids[0, ids[0] == config.vision_start_token_id] = 30
        batch["mm_token_type_ids"] = (ids == image).long()
    return batch
