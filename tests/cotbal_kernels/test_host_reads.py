"""What a call with a plan reads on the host: nothing.

Tensors without data (device "meta") take the accelerators' way, and cannot be read: `item`, `tolist`, `bool` and each
operator whose shape depends on values raise. `test_on_gpu.py` asks the same of a GPU that must not wait.
"""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

import cotbal_kernels as ck
from cotbal_kernels import checks

CLASSES, WIDTH = 11, 5


def empty(*shape: int, dtype: torch.dtype = torch.float32, learns: bool = False) -> Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta", requires_grad=learns)


def labels() -> Tensor:
    made = torch.randint(0, CLASSES, (3, 4))
    made[:, :2] = -100
    return made


OPTIONS: list[dict[str, Any]] = [
    {},
    {"softcap": 3.0, "logit_scale": 0.5},
    {"label_smoothing": 0.1, "lse_square_scale": 1e-4},
    {"class_weights": empty(CLASSES)},
    {"token_outputs": ("log_probabilities", "entropy")},
    {"token_outputs": ("entropy",), "token_gradients": True},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("capacity", [None, 9])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("linear", [True, False])
def test_a_call_with_a_plan_reads_nothing(
    linear: bool, reduction: str, capacity: int | None, dtype: torch.dtype, options: dict[str, Any]
) -> None:
    plan = ck.plan(labels(), torch.tensor([0, 1, 0]), num_tasks=2, capacity=capacity).to("meta")
    common: dict[str, Any] = {
        "plan": plan,
        "task_weights": empty(2, learns=True),
        "reduction": reduction,
        "normalizer": empty((), dtype=torch.float64) if reduction == "mean" else None,
        "impl": "torch",
        **options,
    }
    hidden, weight, bias = (
        empty(*shape, dtype=dtype, learns=True) for shape in ((3, 4, WIDTH), (CLASSES, WIDTH), (CLASSES,))
    )
    if linear:
        for budget in (None, 0):
            out = ck.linear_cross_entropy(hidden, weight, bias=bias, memory_budget=budget, **common)
            out.loss.sum().backward()
        assert all(each.grad is not None for each in (hidden, weight, bias, common["task_weights"]))
    else:
        logits = empty(3, 4, CLASSES, dtype=dtype, learns=True)
        ck.cross_entropy(logits, **common).loss.sum().backward()
        assert logits.grad is not None


@pytest.mark.parametrize("given", ["task_weights", "normalizer"])
def test_a_host_read_would_be_seen(given: str) -> None:
    """The same call does read what the CPU holds, and reading the device's is an error."""
    plan = ck.plan(labels(), torch.tensor([0, 1, 0]), num_tasks=2).to("meta")
    hidden, weight = empty(3, 4, WIDTH), empty(CLASSES, WIDTH)
    wrong = {given: torch.tensor([1.0, -1.0]) if given == "task_weights" else torch.tensor(-1.0)}
    with pytest.raises(ValueError, match=given):
        ck.linear_cross_entropy(hidden, weight, plan=plan, impl="torch", **wrong)
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        bool(hidden.sum() == 0)
    with pytest.raises((RuntimeError, NotImplementedError)):
        hidden.sum().item()


def test_labels_on_a_device_are_read_where_it_is_documented_and_nowhere_else() -> None:
    """Without a plan there is one read: that of the plan."""
    with pytest.raises((RuntimeError, NotImplementedError)) as caught:
        ck.linear_cross_entropy(empty(3, 4, WIDTH), empty(CLASSES, WIDTH), labels().to("meta"), impl="torch")
    assert [entry.name for entry in caught.traceback if "cotbal_kernels" in str(entry.path)][-1] == "plan"


def test_labels_on_a_device_beside_their_plan_are_not_read() -> None:
    """They are compared by shape alone; see docs/loss.md."""
    made = labels()
    plan = ck.plan(made).to("meta")
    hidden, weight = empty(3, 4, WIDTH), empty(CLASSES, WIDTH)
    ck.linear_cross_entropy(hidden, weight, made.to("meta"), plan=plan, impl="torch")
    with pytest.raises(ValueError, match="labels has shape"):
        ck.linear_cross_entropy(hidden, weight, made[:2].to("meta"), plan=plan, impl="torch")
    with pytest.raises(ValueError, match="not those the plan was made from"):
        ck.linear_cross_entropy(hidden, weight, made + (made >= 0), plan=plan, impl="torch")


def test_what_comes_from_the_host_is_pinned_and_sent_without_waiting() -> None:
    """Weights and a normalizer that live on the CPU, with hidden states on a GPU."""
    sent: list[tuple[str, Any]] = []
    value = torch.ones(2)

    def pin(self: Tensor) -> Tensor:
        sent.append(("pinned", self is value))
        return self

    def to(self: Tensor, device: torch.device, non_blocking: bool = False) -> Tensor:
        sent.append((device.type, non_blocking))
        return self

    with mock.patch.object(Tensor, "pin_memory", pin), mock.patch.object(Tensor, "to", to):
        checks.moved(value, torch.device("cuda"))
    assert sent == [("pinned", True), ("cuda", True)]
