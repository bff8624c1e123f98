"""A loss over a head that is spread over several processes of one machine, with gloo between them."""

from __future__ import annotations

import traceback
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from support.kernels.loss_contract import always_chunks
from support.kernels.loss_strategies import LossCase

import cotbal_kernels as ck


def ranges(classes: int, ranks: int) -> list[tuple[int, int]]:
    """Unequal shares: the first rank has most classes."""
    sizes = [1] * ranks
    sizes[0] += classes - ranks
    for rank in range(1, ranks):
        moved = (classes // ranks) // 2
        sizes[0] -= moved
        sizes[rank] += moved
    stops = torch.tensor(sizes).cumsum(0).tolist()
    return [(stop - size, stop) for stop, size in zip(stops, sizes, strict=True)]


def _one(case: LossCase, rank: int, shares: list[tuple[int, int]], impl: str, options: dict[str, Any]) -> Any:
    assert case.weight is not None
    start, stop = shares[rank]
    hidden = case.scores.clone().requires_grad_()
    weight = case.weight[start:stop].clone().requires_grad_()
    bias = None if case.bias is None else case.bias[start:stop].clone().requires_grad_()
    plan = ck.plan(case.labels, **case.plan_options, capacity=case.capacity)
    with always_chunks():
        out = ck.linear_cross_entropy(
            hidden,
            weight,
            None,
            bias=bias,
            plan=plan,
            impl=impl,
            vocab_range=(start, stop),
            memory_budget=case.memory_budget,
            **(case.loss_options | options),
        )
    out.loss.backward(case.upstream.to(out.loss.dtype))
    found = {name: value.detach() for name, value in out._asdict().items() if value is not None}
    grads = {"hidden": hidden.grad, "weight": weight.grad, "bias": None if bias is None else bias.grad}
    return found, grads


def _work(
    rank: int, ranks: int, folder: str, cases: list[LossCase], impl: str, options: dict[str, Any]
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=ranks,
        timeout=timedelta(seconds=120),
    )
    made: list[Any] = []
    for case in cases:
        try:
            made.append(
                _one(case, rank, options.get("ranges", ranges(case.classes, ranks)), impl, _rest(options))
            )
        except Exception:
            made.append(traceback.format_exc())
    torch.save(made, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def _rest(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name != "ranges"}


def run_ranks(folder: Path, ranks: int, cases: list[LossCase], impl: str, **options: Any) -> list[list[Any]]:
    """Of each rank and case the outputs and gradients, or the text of what it raised."""
    mp.spawn(_work, args=(ranks, str(folder), cases, impl, options), nprocs=ranks)  # type: ignore[no-untyped-call]
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(ranks)]
