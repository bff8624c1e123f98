"""Small losses take one native call, agree with the general way, and leave to it whatever is out of the ordinary."""

from __future__ import annotations

import copy
import pickle
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import FrameType
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.kernels.launches import operators
from torch import Tensor

import cotbal_kernels as ck
from cotbal_kernels import small

pytestmark = pytest.mark.skipif(small._kind_of_rows() is None, reason="the native extension is not installed")
CLASSES, WIDTH = 11, 5


def batch(shift: bool = False, seed: int = 0, token_weights: Tensor | None = None) -> ck.Plan:
    dice = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (3, 4), generator=dice)
    labels[:, :2] = -100
    return ck.plan(labels, torch.tensor([0, 1, 0]), num_tasks=2, shift=shift, token_weights=token_weights)


def inputs(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, head and bias."""
    dice = torch.Generator().manual_seed(seed)
    shapes = ((3, 4, WIDTH), (CLASSES, WIDTH), (CLASSES,))
    hidden, weight, bias = (torch.randn(shape, generator=dice).requires_grad_() for shape in shapes)
    return hidden, weight, bias


def taken(function: str, call: Callable[[], ck.LossOutput]) -> tuple[ck.LossOutput, bool]:
    """The result of a call, and whether it came the short way."""
    answers = []
    original = getattr(small, function)

    def spy(*arguments: Any) -> ck.LossOutput | None:
        answers.append(original(*arguments))
        return answers[-1]  # type: ignore[no-any-return]

    with mock.patch.object(small, function, spy):
        result = call()
    return result, bool(answers) and answers[-1] is not None


@given(
    linear=st.booleans(),
    shift=st.booleans(),
    reduction=st.sampled_from(["mean", "sum"]),
    weights=st.sampled_from([None, torch.float32, torch.float64]),
    factors=st.sampled_from([None, torch.float32, torch.float64]),
    normalizer=st.sampled_from([None, 7, 2.5, torch.tensor(3.0), torch.tensor([4.0], dtype=torch.float64)]),
    with_bias=st.booleans(),
    logit_scale=st.sampled_from([1, 0.5]),
    softcap=st.sampled_from([None, 2.0]),
    learns=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    upstream=st.sampled_from([1.0, 3.0]),
    seed=st.integers(0, 99),
)
def test_results_are_those_of_the_general_way(
    linear: bool,
    shift: bool,
    reduction: str,
    weights: torch.dtype | None,
    factors: torch.dtype | None,
    normalizer: Any,
    with_bias: bool,
    logit_scale: float,
    softcap: float | None,
    learns: tuple[bool, bool, bool],
    upstream: float,
    seed: int,
) -> None:
    plan = batch(shift, seed, None if factors is None else torch.rand(3, 4, dtype=factors))
    options: dict[str, Any] = {
        "plan": plan,
        "task_weights": None if weights is None else torch.tensor([1.7, 0.4], dtype=weights),
        "normalizer": normalizer if reduction == "mean" else None,
        "reduction": reduction,
        "logit_scale": logit_scale,
        "softcap": softcap,
    }
    found = []
    for impl in ("auto", "torch"):
        leaves = list(inputs(seed))
        if not with_bias:
            leaves.pop()
        if not linear:
            leaves = [
                torch.randn(3, 4, CLASSES, generator=torch.Generator().manual_seed(seed)).requires_grad_()
            ]
        for leaf, wanted in zip(leaves, learns, strict=False):
            leaf.requires_grad_(wanted)
        if linear:
            bias = leaves[2] if with_bias else None
            out, short = taken(
                "linear_cross_entropy",
                lambda: ck.linear_cross_entropy(leaves[0], leaves[1], bias=bias, impl=impl, **options),  # noqa: B023
            )
        else:
            out, short = taken(
                "cross_entropy",
                lambda: ck.cross_entropy(leaves[0], impl=impl, **options),  # noqa: B023
            )
        assert short == (impl == "auto")
        assert out.loss.requires_grad == any(leaf.requires_grad for leaf in leaves)
        if out.loss.requires_grad:
            out.loss.backward(torch.tensor(upstream))
        found.append((*out[:6], *(leaf.grad for leaf in leaves)))
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=2e-5, atol=2e-6)


Bad = tuple[str, dict[str, Any]]
BAD: list[Bad] = [
    ("negative weight", {"task_weights": torch.tensor([1.0, -1.0])}),
    ("infinite weight", {"task_weights": torch.tensor([torch.inf, 1.0])}),
    ("three weights", {"task_weights": torch.ones(3)}),
    ("complex weights", {"task_weights": torch.ones(2, dtype=torch.complex64)}),
    ("normalizer of 0", {"normalizer": torch.tensor(0.0)}),
    ("normalizer not a number", {"normalizer": float("nan")}),
    ("two normalizers", {"normalizer": torch.ones(2)}),
    ("trained normalizer", {"normalizer": torch.ones((), requires_grad=True)}),
    ("normalizer of a sum", {"normalizer": 2.0, "reduction": "sum"}),
    ("reduction", {"reduction": "average"}),
    ("softcap", {"softcap": 0.0}),
    ("logit_scale", {"logit_scale": float("nan")}),
    ("tasks", {"num_tasks": 3}),
    ("impl", {"impl": "fast"}),
    ("shift", {"shift": True}),
    ("smoothing", {"label_smoothing": 2.0}),
]


@pytest.mark.parametrize(
    ("linear", "options"), [(linear, each[1]) for linear in (True, False) for each in BAD]
)
def test_what_is_wrong_is_refused_as_everywhere(linear: bool, options: dict[str, Any]) -> None:
    """With another layout of the same values the general way is taken: the errors must be the same."""
    hidden, weight, _ = inputs()
    scores = hidden if linear else torch.zeros(3, 4, CLASSES)
    said = []
    for given_scores in (scores, scores.transpose(0, 1).contiguous().transpose(0, 1)):
        call = partial(ck.linear_cross_entropy, weight=weight) if linear else ck.cross_entropy
        with pytest.raises((ValueError, TypeError)) as caught:
            call(given_scores, plan=batch(), **options)
        said.append((type(caught.value), str(caught.value)))
    assert said[0] == said[1]


def test_wrong_shapes_are_refused() -> None:
    hidden, weight, bias = inputs()
    for arguments, bad_bias, words in (
        ((hidden[:2], weight), None, "plan has shape"),
        ((hidden[..., :3], weight), None, "hidden has shape"),
        ((hidden, weight[0]), None, "weight has shape"),
        ((hidden, weight[:1]), None, "plan holds the label"),
        ((hidden, weight), bias[:3], "bias has shape"),
        ((hidden, weight.double()), None, "weight is torch.float64"),
    ):
        with pytest.raises((ValueError, TypeError), match=words):
            ck.linear_cross_entropy(*arguments, bias=bad_bias, plan=batch())


@pytest.mark.parametrize(
    ("name", "value"), [("targets", CLASSES), ("targets", -1), ("tasks", 2), ("samples", 3), ("rows", 12)]
)
def test_an_index_changed_in_the_plan_is_never_followed_out_of_bounds(name: str, value: int) -> None:
    logits, plan = torch.zeros(3, 4, CLASSES, requires_grad=True), batch()
    call = (logits, plan, None, None, None, "mean", 1, None, "auto")
    assert small.cross_entropy(*call) is not None
    getattr(plan, name)[-1] = value
    assert small.cross_entropy(*call) is None


def test_no_weight_at_all_is_a_loss_of_zero() -> None:
    hidden, weight, _ = inputs()
    out = ck.linear_cross_entropy(hidden, weight, plan=batch(), task_weights=torch.zeros(2))
    out.loss.backward()
    assert out.loss.item() == 0
    assert weight.grad is not None
    assert not weight.grad.any()


def test_out_of_the_ordinary_goes_the_general_way() -> None:
    hidden, weight, _ = inputs()
    plan = batch()
    labels = torch.full((3, 4), 2)
    trained = torch.ones(2, requires_grad=True)

    def loss(**options: Any) -> bool:
        call = {"hidden": hidden, "weight": weight, "plan": plan, **options}
        return taken("linear_cross_entropy", lambda: ck.linear_cross_entropy(**call))[1]

    assert loss()
    assert not loss(plan=None, labels=labels)
    assert not loss(plan=ck.plan(labels), labels=labels)
    assert not loss(plan=ck.plan(labels, capacity=12))
    assert not loss(plan=ck.plan(torch.full((3, 4), -100)))
    assert not loss(plan=ck.plan(labels, sample_ids=torch.full((3, 4), 7)))
    assert not loss(task_weights=trained)
    assert not loss(task_weights=[1.0, 2.0])
    assert not loss(reduction="none")
    assert not loss(impl="torch")
    assert not loss(memory_budget=0)
    assert not loss(token_outputs=("entropy",))
    assert not loss(hidden=hidden.double(), weight=weight.double())
    assert not loss(weight=torch.zeros(small.LIMIT // WIDTH + 1, WIDTH))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not loss()


def test_an_instruction_set_that_cannot_run_here_is_still_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, _ = inputs()
    monkeypatch.setenv("COTBAL_CPU_ISA", "mmx")
    with pytest.raises(ValueError, match="mmx"):
        ck.linear_cross_entropy(hidden, weight, plan=batch())


def test_a_kept_graph_gives_its_gradients_again_and_second_derivatives_are_refused() -> None:
    hidden, weight, _ = inputs()
    loss = ck.linear_cross_entropy(hidden, weight, plan=batch()).loss
    first = torch.autograd.grad(loss, [hidden, weight], retain_graph=True)
    kept = [each.clone() for each in first]
    for each in first:
        each.zero_()
    second = torch.autograd.grad(loss, [hidden, weight], retain_graph=True)
    assert all(torch.equal(*pair) for pair in zip(kept, second, strict=True))
    with pytest.raises(NotImplementedError, match="create_graph"):
        torch.autograd.grad(loss, [hidden, weight], create_graph=True)
    torch.autograd.grad(loss, [hidden, weight])
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(loss, [hidden, weight])


def test_statistics_do_not_share_memory_with_another_call() -> None:
    hidden, weight, _ = inputs()
    plan = batch()
    first = ck.linear_cross_entropy(hidden, weight, plan=plan)
    before = [each.clone() for each in first[1:6] if each is not None]
    for each in ck.linear_cross_entropy(hidden, weight, plan=plan)[1:6]:
        assert each is not None
        each.zero_()
    assert all(torch.equal(*pair) for pair in zip(before, first[1:6], strict=True))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda plan: pickle.loads(pickle.dumps(plan)), replace])
def test_a_plan_that_was_used_can_be_sent_to_another_process(copied: Callable[[ck.Plan], ck.Plan]) -> None:
    hidden, weight, _ = inputs()
    plan = batch()
    loss = ck.linear_cross_entropy(hidden, weight, plan=plan).loss
    assert torch.equal(ck.linear_cross_entropy(hidden, weight, plan=copied(plan)).loss, loss)


@pytest.mark.parametrize("impl", ["auto", "native", "torch"])
def test_a_default_device_is_no_concern_of_tensors_on_the_cpu(impl: str) -> None:
    hidden, weight, _ = inputs()
    plan = batch()
    labels = torch.full((3, 4), 2)
    losses = []
    for device in ("cpu", "meta"):
        with torch.device(device):
            out = ck.linear_cross_entropy(hidden, weight, plan=plan, impl=impl)
            out.loss.backward()
            losses.append(out.loss.item())
            losses.append(ck.linear_cross_entropy(hidden, weight, labels, impl=impl).loss.item())
    assert losses[:2] == losses[2:]


def python_calls(step: Callable[[], object]) -> int:
    """Functions of Python that are entered."""
    found = 0

    def note(_: FrameType, event: str, __: object) -> None:
        nonlocal found
        found += event == "call"

    step()
    sys.setprofile(note)
    try:
        step()
    finally:
        sys.setprofile(None)
    return found


@pytest.mark.parametrize(
    ("linear", "calls", "launches"),
    # `Tensor.backward` and this test enter about fifteen of these functions, stock or ours.
    [(True, 36, 10), (False, 34, 3)],
)
def test_a_weighted_call_with_a_plan_costs_the_host_little(linear: bool, calls: int, launches: int) -> None:
    """Counted, not timed: functions of Python entered, and operators of torch that compute."""
    hidden, weight, _ = inputs()
    logits = torch.randn(3, 4, CLASSES, requires_grad=True)
    plan, weights = batch(), torch.tensor([1.0, 2.0])
    normalizer = plan.normalizer(weights)

    def step() -> None:
        out = (
            ck.linear_cross_entropy(hidden, weight, plan=plan, task_weights=weights, normalizer=normalizer)
            if linear
            else ck.cross_entropy(logits, plan=plan, task_weights=weights, normalizer=normalizer)
        )
        out.loss.backward()
        hidden.grad = weight.grad = logits.grad = None

    step()
    names = operators(step)
    assert len(names) <= launches, names
    assert python_calls(step) <= calls


def test_the_loss_is_the_oracles() -> None:
    hidden, weight, _ = inputs()
    plan = batch()
    out = ck.linear_cross_entropy(hidden, weight, plan=plan, task_weights=torch.tensor([2.0, 0.5]))
    logits = (hidden.detach().double() @ weight.detach().double().t()).reshape(12, CLASSES)[plan.rows].numpy()
    nll = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(logits)), plan.targets.numpy()]
    weights = np.array([2.0, 0.5])[plan.tasks.numpy()]
    assert out.loss.item() == pytest.approx((nll * weights).sum() / weights.sum(), rel=1e-6)
