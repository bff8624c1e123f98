"""Torch's own tests of the operators, and the public functions under torch.compile."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.kernels.loss_contract import DEVICES, IMPLEMENTATIONS, skip_unless_runnable
from support.kernels.loss_strategies import FUNCTIONS, REDUCTIONS, Function, LossCase, made_case
from torch._dynamo.testing import CompileCounterWithBackend
from torch.library import opcheck

import cotbal_kernels as ck


def linear_arguments(
    case: LossCase, mode: str, impl: str, trained: tuple[bool, bool, bool, bool]
) -> tuple[Any, ...]:
    plan = ck.plan(case.labels, case.task_ids, case.task_weights, capacity=case.capacity)
    weights = plan.row_weights().to(torch.float64 if case.dtype == torch.float64 else torch.float32)
    leaves = [
        None if value is None else value.detach().clone().requires_grad_(wanted)
        for value, wanted in zip(
            (case.scores.reshape(-1, 4), case.weight, case.bias, weights), trained, strict=True
        )
    ]
    hidden, head, bias, weights = leaves
    return (
        hidden,
        head,
        bias,
        plan.rows,
        plan.targets,
        plan.tasks,
        plan.samples,
        weights,
        None,
        plan.num_tasks,
        plan.num_samples,
        plan.padded,
        0.5,
        5.0,
        case.reduction,
        mode,
        *trained[:2],
        trained[2] and bias is not None,
        2**20,
        impl,
    )


@pytest.mark.parametrize("mode", ["value", "keep", "grads", "recompute"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_linear_operator_is_well_formed(mode: str, reduction: str) -> None:
    if mode == "grads" and reduction == "none":
        pytest.skip('mode "grads" needs row scales that reduction "none" does not know in the forward pass')
    trained = (False,) * 4 if mode == "value" else (True,) * 4
    for capacity, with_bias, dtype in ((None, True, torch.float32), (10, False, torch.bfloat16)):
        case = made_case("linear", dtype, 1, reduction=reduction, with_bias=with_bias, capacity=capacity)
        arguments = linear_arguments(case, mode, "torch", trained)
        opcheck(torch.ops.cotbal_kernels.linear_cross_entropy.default, arguments)


@pytest.mark.parametrize("mode", ["value", "grads", "recompute"])
def test_logits_operator_is_well_formed(mode: str) -> None:
    for reduction in ("sum", "none") if mode != "grads" else ("mean", "sum"):
        case = made_case("logits", torch.float32, 2, reduction=reduction)
        plan = ck.plan(case.labels, case.task_ids, case.task_weights)
        flat = case.scores.reshape(-1, case.classes).requires_grad_(mode != "value")
        opcheck(
            torch.ops.cotbal_kernels.cross_entropy.default,
            (
                flat,
                plan.rows,
                plan.targets,
                plan.tasks,
                plan.samples,
                plan.row_weights().float(),
                None,
                plan.num_tasks,
                plan.num_samples,
                0.5,
                None,
                reduction,
                mode,
                "torch",
            ),
        )


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("budget", [None, 0])
@pytest.mark.parametrize("padded", [False, True])
def test_gradients_in_float64(function: Function, reduction: str, budget: int | None, padded: bool) -> None:
    """gradcheck of every input that can be trained: scores, head, bias, task weights and token weights."""
    options: dict[str, Any] = {"shape": (2, 4), "tasks": 2, "with_bias": True, "weighted_tokens": True}
    case = made_case(function, torch.float64, 3, reduction=reduction, **options)
    assert case.task_weights is not None
    assert case.token_weights is not None

    def loss(scores: Any, head: Any, bias: Any, task_weights: Any, token_weights: Any) -> Any:
        shared: dict[str, Any] = {"reduction": reduction, "softcap": 4.0, "logit_scale": 0.7, "impl": "torch"}
        plan = ck.plan(
            case.labels,
            case.task_ids,
            task_weights,
            token_weights=token_weights,
            shift=True,
            capacity=7 if padded else None,
        )
        if function == "linear":
            shared["memory_budget"] = budget
            return ck.linear_cross_entropy(scores, head, bias=bias, plan=plan, **shared).loss
        return ck.cross_entropy(scores, plan=plan, **shared).loss

    inputs = [
        None if value is None else value.clone().requires_grad_()
        for value in (case.scores, case.weight, case.bias, case.task_weights, case.token_weights)
    ]
    assert torch.autograd.gradcheck(loss, inputs)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_compiles_whole_and_once(impl: str, function: Function, device: str) -> None:
    """fullgraph and dynamic: no graph break, and no second graph when the shapes and the plan change.

    Python floats among the arguments stay what they are (entries 3, 4 and 25 of the list of known failures).
    """
    skip_unless_runnable(impl, device, torch.float32)

    def step(scores: Any, head: Any, plan: Any, weights: Any, reduction: str) -> Any:
        options: dict[str, Any] = {"reduction": reduction, "impl": impl, "logit_scale": 0.3, "softcap": 7.0}
        if function == "linear":
            return ck.linear_cross_entropy(2 * scores, head, plan=plan, task_weights=weights, **options)
        return ck.cross_entropy(2 * scores, plan=plan, task_weights=weights, **options)

    for reduction in REDUCTIONS:
        torch._dynamo.reset()
        counter = CompileCounterWithBackend("aot_eager")
        compiled = torch.compile(step, backend=counter, fullgraph=True, dynamic=True)
        for seed, shape in enumerate(((5, 17), (4, 7), (7, 4), (4, 9))):
            case = made_case(function, torch.float32, seed, shape=shape, tasks=3, classes=11)
            plan = ck.plan(case.labels, case.task_ids, num_tasks=3, shift=True).to(device)
            results = []
            for call in (compiled, step):
                leaves = [
                    None if value is None else value.clone().to(device).requires_grad_()
                    for value in (case.scores, case.weight)
                ]
                out = call(*leaves, plan, case.task_weights.to(device), reduction)
                out.loss.sum().backward()
                results.append(
                    [
                        *(each for each in out if each is not None),
                        *(leaf.grad for leaf in leaves if leaf is not None),
                    ]
                )
            for made, expected in zip(*results, strict=True):
                # Small calls go another way in eager mode; it rounds differently.
                torch.testing.assert_close(made, expected, rtol=1e-5, atol=1e-6)
        assert counter.frame_count == 1, f"{counter.frame_count} graphs for reduction {reduction!r}"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_labels_without_a_plan_compile_whole_and_once(
    function: Function, reduction: str, device: str
) -> None:
    """fullgraph, dynamic shapes: the rows are found inside one operator, however many there are."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")

    def step(
        scores: Any, head: Any, bias: Any, labels: Any, tasks: Any, weights: Any, token_weights: Any
    ) -> Any:
        options: dict[str, Any] = {"token_weights": token_weights, "reduction": reduction, "shift": True}
        options |= {"softcap": 7.0, "token_outputs": ("entropy",)}
        if function == "linear":
            return ck.linear_cross_entropy(2 * scores, head, labels, tasks, weights, bias=bias, **options)
        return ck.cross_entropy(2 * scores, labels, tasks, weights, **options)

    graphs: list[int] = []
    compiled = torch.compile(step, backend=counter, fullgraph=True, dynamic=True)
    for seed, shape in enumerate(((5, 17), (4, 7), (7, 4), (3, 2))):
        case = made_case(
            function, torch.float32, seed, shape=shape, tasks=3, classes=11, with_bias=True, weighted_tokens=True,
            supervised=0.0 if seed == 3 else 0.6,
        )  # fmt: skip
        rest = [each.to(device) for each in (case.labels, case.task_ids)]
        results = []
        for call in (compiled, step):
            leaves = [
                None if value is None else value.clone().to(device).requires_grad_()
                for value in (case.scores, case.weight, case.bias, case.task_weights, case.token_weights)
            ]
            out = call(*leaves[:3], *rest, *leaves[3:])
            out.loss.sum().backward()
            results.append(
                [
                    *(each for each in out if each is not None),
                    *(leaf.grad for leaf in leaves if leaf is not None),
                ]
            )
        for made, expected in zip(*results, strict=True):
            # The number of products and with it their rounding may differ: three or four.
            torch.testing.assert_close(made, expected)
        # torch may trace the first one twice, and no other.
        graphs.append(counter.frame_count)
    assert len(set(graphs)) == 1, graphs


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"labels": torch.tensor([[0, 11]])}, r"labels\[0, 1\] is 11: outside \[0, 11\)"),
        ({"task_ids": torch.tensor([2])}, r"task_ids\[0, 0\] is 2: outside \[0, 2\)"),
        ({"task_weights": torch.tensor([1.0, -1.0])}, r"task_weights\[1\] is -1.0: not a finite number >= 0"),
    ],
)
def test_illegal_values_are_refused_when_the_graph_runs(
    changed: dict[str, torch.Tensor], message: str
) -> None:
    torch._dynamo.reset()
    given = {"labels": torch.tensor([[0, 3]]), "task_ids": torch.tensor([1]), "task_weights": torch.ones(2)}

    @torch.compile(backend="eager", fullgraph=True)
    def loss(logits: torch.Tensor, **options: Any) -> torch.Tensor:
        return ck.cross_entropy(logits, **options).loss

    logits = torch.zeros(1, 2, 11)
    assert loss(logits, **given).item() == pytest.approx(2.3979, abs=1e-4)
    with pytest.raises(ValueError, match=message):
        loss(logits, **(given | changed))


def test_positions_operator_is_well_formed() -> None:
    labels = torch.tensor([[0, -100, 3], [-100, 2, -100]])
    for shift in (False, True):
        arguments = (labels, torch.tensor([1, 0]), torch.ones(2), 2, torch.ones(2, 3), shift, -100, 11)
        opcheck(torch.ops.cotbal_kernels.supervised_positions.default, arguments)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # raised inside torch's own code generation
def test_compiled_by_inductor() -> None:
    """The default backend, whose memory planning trusts the operators' shapes and strides."""
    torch._dynamo.reset()
    case = made_case("linear", torch.float32, 4, classes=33, reduction="none", with_bias=True)
    plan = ck.plan(case.labels, case.task_ids, case.task_weights)

    def step(hidden: Any, head: Any, bias: Any) -> Any:
        out = ck.linear_cross_entropy(
            hidden.tanh(), head, plan=plan, bias=bias, reduction="none", impl="torch"
        )
        return (out.loss * torch.arange(5)).sum(), out.task_loss_sum

    results = []
    for call in (step, torch.compile(step, fullgraph=True)):
        leaves = [value.clone().requires_grad_() for value in (case.scores, case.weight, case.bias)]
        loss, sums = call(*leaves)
        loss.backward()
        results.append([loss.detach(), sums, *(leaf.grad for leaf in leaves)])
    for plain, made in zip(*results, strict=True):
        torch.testing.assert_close(made, plain)
    torch._dynamo.reset()


def test_illegal_weights_in_a_compiled_graph_are_not_silent() -> None:
    torch._dynamo.reset()
    case = made_case("linear", torch.float32, 5, supervised=1.0)
    plan = ck.plan(case.labels, case.task_ids, num_tasks=2)

    @torch.compile(backend="eager", fullgraph=True)
    def loss(hidden: Any, head: Any, weights: Any) -> Any:
        return ck.linear_cross_entropy(hidden, head, plan=plan, task_weights=weights).loss

    for illegal in (-1.0, torch.nan, torch.inf):
        assert torch.isnan(loss(case.scores, case.weight, torch.tensor([illegal, illegal])))
    torch._dynamo.reset()


def test_bfloat16_on_a_cpu_does_not_break_the_graph() -> None:
    """What the processor can do is asked once, outside of the graph."""
    torch._dynamo.reset()
    case = made_case("linear", torch.bfloat16, 6)
    plan = ck.plan(case.labels, case.task_ids, case.task_weights)

    def loss(hidden: Any, head: Any) -> Any:
        return ck.linear_cross_entropy(hidden, head, plan=plan, impl="torch").loss

    compiled = torch.compile(loss, backend="eager", fullgraph=True)
    assert torch.equal(compiled(case.scores, case.weight), loss(case.scores, case.weight))
    torch._dynamo.reset()
