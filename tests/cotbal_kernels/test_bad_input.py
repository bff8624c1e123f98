"""What cannot be computed is refused with the argument, the value found and where it stands."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.autograd.forward_ad as fwAD
from torch import Tensor

import cotbal_kernels as ck

HIDDEN = torch.zeros(2, 3, 4)
WEIGHT = torch.zeros(7, 4)
LABELS = torch.tensor([[-100, 5, 6], [-100, -100, 3]])
TASKS = torch.tensor([0, 1])
LOGITS = torch.zeros(2, 3, 7)


def linear(
    hidden: Any = HIDDEN, weight: Any = WEIGHT, labels: Any = LABELS, *rest: Any, **options: Any
) -> Any:
    return ck.linear_cross_entropy(hidden, weight, labels, *rest, **options)


def logits(values: Any = LOGITS, labels: Any = LABELS, *rest: Any, **options: Any) -> Any:
    return ck.cross_entropy(values, labels, *rest, **options)


def changed(value: Tensor, at: tuple[int, ...], to: float) -> Tensor:
    value = value.clone()
    value[at] = to
    return value


BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    # labels and ids out of range, with value and position
    "label too large": (
        lambda: linear(labels=changed(LABELS, (0, 2), 7)),
        ValueError,
        "labels[0, 2] is 7: outside [0, 7)",
    ),
    "label negative": (lambda: logits(labels=changed(LABELS, (1, 2), -5)), ValueError, "labels[1, 2] is -5"),
    "label too large, flat": (
        lambda: logits(LOGITS.view(6, 7), changed(LABELS.view(6), (5,), 99)),
        ValueError,
        "labels[5] is 99",
    ),
    "label of a plan too large": (
        lambda: linear(labels=None, plan=ck.plan(changed(LABELS, (0, 1), 7))),
        ValueError,
        "plan holds the label 7, outside [0, 7)",
    ),
    "task id too large": (
        lambda: linear(HIDDEN, WEIGHT, LABELS, torch.tensor([0, 2]), num_tasks=2),
        ValueError,
        "task_ids[1, 2] is 2: outside [0, 2)",
    ),
    "task id negative": (
        lambda: logits(LOGITS, LABELS, torch.tensor([-1, 0]), num_tasks=2),
        ValueError,
        "task_ids[0, 1] is -1",
    ),
    "sample id negative": (
        lambda: linear(sample_ids=torch.tensor([[0, 0, 0], [1, 1, -1]])),
        ValueError,
        "sample_ids[1, 2] is -1: negative at a supervised token",
    ),
    # weights
    "task weight NaN": (
        lambda: linear(HIDDEN, WEIGHT, LABELS, TASKS, [1.0, float("nan")]),
        ValueError,
        "task_weights[1] is nan",
    ),
    "task weight infinite": (
        lambda: linear(HIDDEN, WEIGHT, LABELS, TASKS, torch.tensor([torch.inf, 1.0])),
        ValueError,
        "task_weights[0] is inf",
    ),
    "task weight negative": (
        lambda: logits(LOGITS, LABELS, TASKS, [1.0, -2.0]),
        ValueError,
        "task_weights[1] is -2.0: not a finite number >= 0",
    ),
    "task weight of a call with a plan": (
        lambda: linear(labels=None, plan=ck.plan(LABELS, TASKS, num_tasks=2), task_weights=[1.0, -2.0]),
        ValueError,
        "task_weights[1] is -2.0",
    ),
    "token weight negative": (
        lambda: linear(token_weights=changed(torch.ones(2, 3), (0, 1), -1.0)),
        ValueError,
        "token_weights[0, 1] is -1.0",
    ),
    "token weight NaN": (
        lambda: linear(token_weights=changed(torch.ones(2, 3), (0, 2), torch.nan)),
        ValueError,
        "token_weights[0, 2] is nan",
    ),
    "token weights of integers": (
        lambda: linear(token_weights=torch.ones(2, 3, dtype=torch.int64)),
        TypeError,
        "token_weights has dtype torch.int64",
    ),
    "complex task weights": (
        lambda: linear(HIDDEN, WEIGHT, LABELS, TASKS, torch.ones(2, dtype=torch.complex64)),
        TypeError,
        "task_weights has dtype torch.complex64",
    ),
    # numbers of tasks
    "no task weights": (
        lambda: linear(HIDDEN, WEIGHT, LABELS, TASKS, []),
        ValueError,
        "task_weights is empty",
    ),
    "no tasks": (lambda: linear(HIDDEN, WEIGHT, LABELS, TASKS, num_tasks=0), ValueError, "num_tasks is 0"),
    "unknown number of tasks": (lambda: linear(HIDDEN, WEIGHT, LABELS, TASKS), ValueError, "pass num_tasks"),
    "two numbers of tasks": (
        lambda: linear(HIDDEN, WEIGHT, LABELS, TASKS, [1.0, 2.0], num_tasks=3),
        ValueError,
        "num_tasks is 3, but task_weights has 2 entries",
    ),
    "weights without ids": (
        lambda: linear(HIDDEN, WEIGHT, LABELS, None, [1.0, 2.0]),
        ValueError,
        "2 tasks but no task_ids",
    ),
    "weights of two dimensions": (
        lambda: linear(HIDDEN, WEIGHT, LABELS, TASKS, torch.ones(2, 1)),
        ValueError,
        "task_weights has shape (2, 1)",
    ),
    # shapes
    "hidden size": (lambda: linear(torch.zeros(2, 3, 5)), ValueError, "hidden has shape (2, 3, 5)"),
    "hidden of one dimension": (lambda: linear(torch.zeros(4)), ValueError, "hidden has shape (4,)"),
    "labels of another shape": (
        lambda: linear(torch.zeros(2, 4, 4)),
        ValueError,
        "labels has shape (2, 3), but hidden has shape (2, 4, 4)",
    ),
    "labels that are a scalar": (lambda: ck.plan(torch.tensor(3)), ValueError, "labels is a scalar"),
    "weight of three dimensions": (
        lambda: linear(weight=torch.zeros(1, 7, 4)),
        ValueError,
        "weight has shape",
    ),
    "no classes": (lambda: linear(weight=torch.zeros(0, 4)), ValueError, "weight has shape (0, 4)"),
    "logits without classes": (
        lambda: logits(torch.zeros(2, 3, 0)),
        ValueError,
        "logits has shape (2, 3, 0)",
    ),
    "bias": (lambda: linear(bias=torch.zeros(8)), ValueError, "bias has shape (8,); accepted: (7,)"),
    "task ids": (
        lambda: linear(HIDDEN, WEIGHT, LABELS, torch.tensor([0, 1, 0]), num_tasks=2),
        ValueError,
        "task_ids has shape (3,) for labels of shape (2, 3)",
    ),
    "task ids of flat labels": (
        lambda: ck.plan(LABELS.view(6), TASKS, num_tasks=2),
        ValueError,
        "accepted: (6,) (per token)",
    ),
    "sample ids": (
        lambda: linear(sample_ids=torch.zeros(2, dtype=torch.int64)),
        ValueError,
        "sample_ids has shape",
    ),
    "token weights": (
        lambda: linear(token_weights=torch.zeros(3)),
        ValueError,
        "token_weights has shape (3,)",
    ),
    "plan of another shape": (
        lambda: linear(torch.zeros(2, 4, 4), labels=None, plan=ck.plan(LABELS)),
        ValueError,
        "plan has shape (2, 3), but hidden has shape (2, 4, 4)",
    ),
    "labels not those of the plan": (
        lambda: linear(labels=torch.zeros(3, 2, dtype=torch.int64), plan=ck.plan(LABELS)),
        ValueError,
        "labels has shape (3, 2), but the plan was made for (2, 3)",
    ),
    # types and dtypes
    "labels of floats": (lambda: linear(labels=LABELS.double()), TypeError, "labels has dtype torch.float64"),
    "labels a list": (lambda: linear(labels=[[1]]), TypeError, "labels is a list; a torch.Tensor is needed"),
    "task ids of floats": (
        lambda: linear(HIDDEN, WEIGHT, LABELS, TASKS.float(), num_tasks=2),
        TypeError,
        "task_ids has dtype torch.float32",
    ),
    "hidden of integers": (lambda: linear(HIDDEN.long()), TypeError, "hidden has dtype torch.int64"),
    "hidden an array": (lambda: linear(HIDDEN.numpy()), TypeError, "hidden is a ndarray"),
    "hidden of eight bits": (
        lambda: linear(HIDDEN.to(torch.float8_e5m2), WEIGHT.to(torch.float8_e5m2)),
        TypeError,
        "hidden has dtype torch.float8_e5m2; accepted are",
    ),
    "two dtypes": (
        lambda: linear(HIDDEN.bfloat16()),
        TypeError,
        "weight is torch.float32, but hidden is torch.bfloat16",
    ),
    "bias of another dtype": (lambda: linear(bias=torch.zeros(7).half()), TypeError, "bias is torch.float16"),
    # devices
    "weight elsewhere": (
        lambda: linear(weight=WEIGHT.to("meta")),
        ValueError,
        "weight is on meta, but hidden is on cpu",
    ),
    "task ids elsewhere": (
        lambda: linear(HIDDEN, WEIGHT, LABELS, TASKS.to("meta"), num_tasks=2),
        ValueError,
        "task_ids is on meta, but labels is on cpu",
    ),
    # options
    "reduction": (
        lambda: linear(reduction="average"),
        ValueError,
        "reduction is 'average'; accepted are 'mean'",
    ),
    "impl": (lambda: linear(impl="cuda"), ValueError, "impl is 'cuda'; accepted are 'auto', 'triton'"),
    "softcap": (lambda: linear(softcap=0.0), ValueError, "softcap is 0.0"),
    "softcap NaN": (lambda: linear(softcap=float("nan")), ValueError, "softcap is nan"),
    "logit scale": (lambda: linear(logit_scale=float("inf")), ValueError, "logit_scale is inf"),
    "memory budget": (lambda: linear(memory_budget=-1), ValueError, "memory_budget is -1"),
    "normalizer of a sum": (
        lambda: linear(reduction="sum", normalizer=2.0),
        ValueError,
        "normalizer came with reduction 'sum'",
    ),
    "normalizer of many": (lambda: linear(normalizer=torch.ones(2)), ValueError, "normalizer has shape (2,)"),
    "trainable normalizer": (
        lambda: linear(normalizer=torch.ones((), requires_grad=True)),
        ValueError,
        "normalizer requires gradients",
    ),
    "normalizer zero": (lambda: linear(normalizer=0.0), ValueError, "normalizer is 0.0; a finite number > 0"),
    "normalizer negative": (lambda: logits(normalizer=torch.tensor(-2.0)), ValueError, "normalizer is -2.0"),
    "normalizer NaN": (lambda: linear(normalizer=float("nan")), ValueError, "normalizer is nan"),
    "normalizer infinite": (lambda: logits(normalizer=float("inf")), ValueError, "normalizer is inf"),
    "labels that are not the plan's": (
        lambda: linear(labels=LABELS.flip(0), plan=ck.plan(LABELS)),
        ValueError,
        "labels are not those the plan was made from",
    ),
    "one label that is not the plan's": (
        lambda: logits(labels=changed(LABELS, (1, 2), 4), plan=ck.plan(LABELS)),
        ValueError,
        "labels are not those the plan was made from",
    ),
    "nothing to plan": (lambda: linear(labels=None), ValueError, "labels are missing"),
    "plan and task ids": (
        lambda: linear(labels=None, task_ids=TASKS, plan=ck.plan(LABELS)),
        ValueError,
        "task_ids came with a plan",
    ),
    "plan and shift": (
        lambda: linear(plan=ck.plan(LABELS), shift=True),
        ValueError,
        "shift came with a plan",
    ),
    "plan of other tasks": (
        lambda: linear(plan=ck.plan(LABELS), num_tasks=2),
        ValueError,
        "num_tasks is 2, but the plan was made for 1",
    ),
    "capacity too small": (lambda: ck.plan(LABELS, capacity=2), ValueError, "capacity is 2 for 3 supervised"),
    "capacity too large": (lambda: ck.plan(LABELS, capacity=7), ValueError, "capacity is 7"),
    "normalize": (lambda: ck.plan(LABELS).normalizer(normalize="rows"), ValueError, "normalize is 'rows'"),
    "weights of a plan": (
        lambda: ck.plan(LABELS).row_weights([1.0, 2.0]),
        ValueError,
        "task_weights has shape (2,) for 1 tasks",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name: str) -> None:
    call, error, message = BAD[name]
    with pytest.raises(error, match=re.escape(message)):
        call()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_nothing_is_corrupted_by_a_refused_call(device: str) -> None:
    hidden = torch.randn(2, 3, 4, device=device, requires_grad=True)
    before = hidden.detach().clone()
    with pytest.raises(ValueError, match=r"labels\[0, 2\] is 7"):
        linear(hidden, WEIGHT.to(device), changed(LABELS, (0, 2), 7).to(device))
    assert torch.equal(hidden, before)
    assert torch.isfinite(linear(hidden, WEIGHT.to(device), LABELS.to(device)).loss).item()


def test_an_empty_batch_is_no_error() -> None:
    out = linear(torch.zeros(0, 3, 4, requires_grad=True), labels=torch.zeros(0, 3, dtype=torch.int64))
    assert out.loss.item() == 0.0
    assert out.sample_tokens.shape == (0,)
    out.loss.backward()


@pytest.mark.parametrize(("dtype", "ignored"), [(torch.uint8, -100), (torch.int8, 300), (torch.uint8, -1)])
def test_an_ignore_index_beyond_the_labels_dtype_ignores_nothing(dtype: torch.dtype, ignored: int) -> None:
    """-100 in 8 bits without a sign is 156, and 300 with one 44: both are classes."""
    values = torch.tensor([3, ignored % 256 if dtype == torch.uint8 else ignored - 256, 5])
    plan = ck.plan(values.to(dtype), ignore_index=ignored)
    assert plan.targets.tolist() == values.tolist()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own forward mode
def test_forward_mode_is_refused() -> None:
    """Tangents that were dropped would make every directional derivative 0."""
    tangent = torch.ones_like(HIDDEN)
    for recording in (False, True):
        hidden = HIDDEN.clone().requires_grad_(recording)
        with fwAD.dual_level():
            dual = fwAD.make_dual(hidden, tangent)
            with pytest.raises(NotImplementedError, match="forward-mode"):
                linear(dual)
            with pytest.raises(NotImplementedError, match="forward-mode"):
                logits(fwAD.make_dual(LOGITS, torch.ones_like(LOGITS)))
    with pytest.raises((NotImplementedError, RuntimeError)):
        torch.func.jvp(lambda each: linear(each).loss, (HIDDEN,), (tangent,))


def test_float64_stays_float64_with_narrower_weights() -> None:
    """Token weights in f32 must not round an f64 loss."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(2, 3, 7, generator=generator, dtype=torch.float64)
    weights = torch.tensor([[1.0, 1 / 3, 0.7], [0.1, 0.2, 0.3]])
    out = ck.cross_entropy(values, LABELS, token_weights=weights, impl="torch")
    nll = torch.nn.functional.cross_entropy(values.flatten(0, 1), LABELS.flatten(), reduction="none")
    each = weights.double().flatten() * (LABELS.flatten() != -100)
    assert out.loss.dtype == torch.float64
    assert abs(out.loss.item() - ((each * nll).sum() / each.sum()).item()) < 1e-15
    by_token = ck.cross_entropy(values, LABELS, token_weights=weights, reduction="none", impl="torch")
    torch.testing.assert_close(by_token.loss.flatten(), each * nll, rtol=1e-15, atol=0)
