"""Absurd sizes are refused or cost nothing: no call asks for memory beyond the order of what it is given."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import cotbal_kernels as ck

HUGE, BEYOND = 2**40, 2**70
# Beyond what the process has mapped; one number of a huge tensor each would be thousands of times as much.
ALLOWANCE = 2**30


@pytest.fixture(autouse=True)
def _little_memory() -> Iterator[None]:
    """An allocation that does not fit fails at once, instead of bringing the machine down."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("this system does not tell what a process has mapped")
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    mapped = int(statm.read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + ALLOWANCE, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def labels() -> Tensor:
    return torch.tensor([[1, 2, -100]])


def linear(*arguments: Any, **options: Any) -> ck.LossOutput:
    hidden, weight = torch.randn(1, 3, 4, requires_grad=True), torch.randn(5, 4, requires_grad=True)
    out = ck.linear_cross_entropy(hidden, weight, *arguments, **options)
    out.loss.backward()
    return out


def logits(*arguments: Any, **options: Any) -> ck.LossOutput:
    return ck.cross_entropy(torch.randn(1, 3, 5), *arguments, **options)


def aligned(**options: Any) -> Tensor:
    return ck.head_alignment(torch.randn(1, 3, 4), torch.randn(5, 4), labels(), torch.randn(5, 4), **options)


def test_the_limit_holds() -> None:
    with pytest.raises(RuntimeError, match="allocate"):
        torch.empty(2 * ALLOWANCE, dtype=torch.uint8)


task = torch.tensor([0])
REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "plan: tasks": (lambda: ck.plan(labels(), task, num_tasks=HUGE), "num_tasks is 1099511627776"),
    "plan: tasks beyond 64 bits": (lambda: ck.plan(labels(), task, num_tasks=BEYOND), "num_tasks is"),
    "linear: tasks": (lambda: linear(labels(), task, num_tasks=HUGE), "num_tasks is"),
    "logits: tasks": (lambda: logits(labels(), task, num_tasks=HUGE), "num_tasks is"),
    "alignment: tasks": (lambda: aligned(task_ids=task, num_tasks=HUGE), "num_tasks is"),
    "plan: task weights": (lambda: ck.plan(labels(), task, torch.ones(1).expand(HUGE)), "task_weights has"),
    "linear: task weights": (lambda: linear(labels(), task, torch.ones(1).expand(HUGE)), "task_weights has"),
    "plan: sample ids": (
        lambda: ck.plan(labels(), sample_ids=torch.tensor([[2**62, 2**62, 0]])),
        r"sample_ids\[0, 0\] is 4611686018427387904: statistics",
    ),
    "plan: the largest sample id": (
        lambda: ck.plan(labels(), sample_ids=torch.tensor([[0, 1, 2**63 - 1]])),
        r"sample_ids\[0, 2\]",
    ),
    "linear: sample ids": (
        lambda: linear(labels(), sample_ids=torch.tensor([[0, HUGE, 0]])),
        r"sample_ids\[0, 1\]",
    ),
    "plan: sample ids and a capacity": (
        lambda: ck.plan(labels(), sample_ids=torch.tensor([[0, HUGE, 0]]), capacity=3),
        r"sample_ids\[0, 1\]",
    ),
    "plan: capacity": (lambda: ck.plan(labels(), capacity=HUGE), "capacity is"),
    "plan: classes beyond 64 bits": (lambda: ck.plan(labels(), vocab_size=BEYOND), "vocab_size is"),
    "plan: ignored label beyond 64 bits": (lambda: ck.plan(labels(), ignore_index=BEYOND), "ignore_index is"),
    "plan: task ids": (lambda: ck.plan(labels(), torch.tensor([2**62]), num_tasks=3), r"task_ids\[0, 0\]"),
    "linear: labels": (lambda: linear(torch.tensor([[2**62, 1, 2]])), r"labels\[0, 0\]"),
    "linear: labels of a plan": (lambda: linear(plan=ck.plan(torch.tensor([[2**62, 1, 2]]))), "plan holds"),
    "plan: labels that repeat": (lambda: ck.plan(torch.tensor(1).expand(HUGE)), "labels shows 1 numbers"),
    "logits that repeat": (
        lambda: ck.cross_entropy(
            torch.zeros(5).expand(2**20, 2**20, 5), torch.tensor(1).expand(2**20, 2**20)
        ),
        "logits shows 5 numbers",
    ),
    "logits of repeating classes": (
        lambda: ck.cross_entropy(torch.zeros(1, 3, 1).expand(1, 3, HUGE), labels()),
        "logits shows 3 numbers",
    ),
    "hidden states that repeat": (
        lambda: ck.linear_cross_entropy(
            torch.zeros(4).expand(2**20, 2**20, 4), torch.zeros(5, 4), torch.tensor(1).expand(2**20, 2**20)
        ),
        "hidden shows 4 numbers",
    ),
    "a head that repeats": (
        lambda: ck.linear_cross_entropy(torch.zeros(1, 3, 4), torch.zeros(4).expand(HUGE, 4), labels()),
        "weight shows 4 numbers",
    ),
    "a head that repeats, with a plan": (
        lambda: ck.linear_cross_entropy(
            torch.zeros(1, 3, 4), torch.zeros(4).expand(HUGE, 4), plan=ck.plan(labels())
        ),
        "weight shows 4 numbers",
    ),
    "warming of a head that repeats": (lambda: ck.warm_up(torch.zeros(4).expand(HUGE, 4)), "weight shows 4"),
    "plan: token weights that repeat": (
        lambda: ck.plan(labels(), token_weights=torch.ones(1).expand(2**20, 2**20)),
        "token_weights",
    ),
    "class weights": (lambda: linear(labels(), class_weights=torch.ones(1).expand(HUGE)), "class_weights"),
    "vocabulary range": (
        lambda: linear(labels(), vocab_range=(2**62, 2**62 + HUGE)),
        "vocab_range is",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_by_name(name: str) -> None:
    call, words = REFUSED[name]
    with pytest.raises(ValueError, match=words):
        call()


ACCEPTED: dict[str, Callable[[], object]] = {
    "budget": lambda: linear(labels(), memory_budget=2**62),
    "budget beyond 64 bits": lambda: linear(labels(), memory_budget=BEYOND),
    "budget of an alignment": lambda: aligned(memory_budget=BEYOND),
    "classes": lambda: ck.plan(labels(), vocab_size=2**62),
    "sample ids of a large data set": lambda: linear(
        labels(), sample_ids=torch.tensor([[600_000, 599_999, 0]])
    ),
    "ids where nothing is supervised": lambda: ck.plan(labels(), torch.tensor([[0, 0, 2**62]]), num_tasks=1),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_it_costs_nothing(name: str) -> None:
    ACCEPTED[name]()
