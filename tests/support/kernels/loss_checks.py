"""One check for each way in which other people's losses went wrong; numbers are those of the project's list.

Each takes an implementation and a device, and fails with an AssertionError. ``tests/meta`` plants the bugs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from support.kernels.budgets import UNIT, assert_within_budget, exact
from support.kernels.loss_contract import check, poisoned_memory, run
from support.kernels.loss_strategies import LossCase, made_case

import cotbal_kernels as ck
from cotbal_kernels import reference
from cotbal_kernels.backends.registry import load

Check = Callable[[str, str], None]
LOW = (torch.bfloat16, torch.float16)


def row_pass_of(impl: str) -> Any:
    return load(impl).row_pass


def runnable(impl: str, device: str, dtype: torch.dtype) -> bool:
    return any(each.name == impl and each.available for each in ck.implementations(device, dtype))


def low_dtypes(impl: str, device: str) -> list[torch.dtype]:
    return [dtype for dtype in LOW if runnable(impl, device, dtype)]


def check_01_every_upstream_element_counts(impl: str, device: str) -> None:
    """Reduction "none" with a random upstream whose first element is 0."""
    for function in ("linear", "logits"):
        for options in ({}, {"shift": True}, {"memory_budget": 0} if function == "linear" else {}):
            case = made_case(function, torch.float32, 1, shape=(3, 5), tasks=3, reduction="none", **options)
            upstream = case.upstream.clone()
            upstream.view(-1)[0] = 0.0
            check(case.with_(upstream=upstream), impl, device)


def check_02_true_class_gradient_keeps_its_digits(impl: str, device: str) -> None:
    """p = .999 and closer: p - 1 is computed before rounding, not after."""
    for dtype in low_dtypes(impl, device):
        raw = torch.zeros(4, 9, dtype=torch.float64)
        raw[torch.arange(4), torch.arange(4)] = torch.tensor([4.0, 9.0, 11.0, 13.0], dtype=torch.float64)
        labels = torch.arange(4)
        case = LossCase("logits", raw.to(dtype), None, None, labels, reduction="sum")
        found = exact(run(case, impl, device).grad_scores)
        truth = reference.cross_entropy(exact(case.scores), labels.numpy(), reduction="sum").grad_scores
        # f16 cannot hold less than 2^-24; everything else is one rounding and a little.
        allowed = 1.01 * UNIT[dtype] * np.abs(truth) + 1e-5 * np.abs(truth) + 2.0**-25 + 3e-7
        assert (np.abs(found - truth) <= allowed).all(), f"{dtype}: {found} instead of {truth}"


def check_03_every_slot_is_written(impl: str, device: str) -> None:
    """Outputs poisoned beforehand, rows ignored: nothing of the poison is left."""
    for function in ("linear", "logits"):
        for reduction in ("mean", "sum", "none"):
            case = made_case(function, torch.float32, 3, shape=(4, 6), supervised=0.3, reduction=reduction)
            with poisoned_memory():
                made = run(case, impl, device)
            for value in (*made.output, made.grad_scores, made.grad_weight):
                assert value is None or bool(torch.isfinite(value.double()).all()), f"{function} {reduction}"
            check(case, impl, device)
    with poisoned_memory():
        logits = torch.randn(6, 11, device=device)
        gradient = torch.full_like(logits, torch.nan)
        targets = torch.tensor([3, -1, 0, 10, -1, 5], device=device)
        nll, hits = row_pass_of(impl)(logits, targets, gradient=gradient)
    assert bool(torch.isfinite(nll).all())
    assert nll[[1, 4]].tolist() == [0.0, 0.0]
    assert hits[[1, 4]].tolist() == [False, False]
    assert bool(torch.isfinite(gradient).all()), "a slot of the gradient was never written"
    assert bool((gradient[[1, 4]] == 0).all()), "a padding row has a gradient"


def check_05_nothing_supervised_is_a_connected_zero(impl: str, device: str) -> None:
    """All positions ignored, or no position at all: loss 0 with zero gradients, never NaN, never detached."""
    for function in ("linear", "logits"):
        for shape in ((2, 3), (0, 3), (2, 0), (0,)):
            for options in (
                {"reduction": "mean"},
                {"reduction": "mean", "normalizer": 8.0},
                {"reduction": "mean", "normalizer": 0.0},
                {"reduction": "sum"},
                {"reduction": "none"},
                {"reduction": "mean", "planned": True, "capacity": int(np.prod(shape))},
            ):
                budgets = (None, 0) if function == "linear" else (None,)
                for budget in budgets:
                    case = made_case(function, torch.float32, 5, shape=shape, supervised=0.0, **options)
                    made = check(case.with_(memory_budget=budget), impl, device)
                    assert made.output.loss.requires_grad, "the loss is not connected to the graph"
                    assert bool((made.output.loss == 0).all())
                    assert bool((made.grad_scores == 0).all())
                    assert made.grad_weight is None or bool((made.grad_weight == 0).all())
    # Supervised tokens of a task whose weight is 0 leave no normalizer either.
    case = made_case("linear", torch.float32, 6, tasks=1).with_(task_weights=torch.zeros(1))
    made = check(case, impl, device)
    assert made.output.loss.item() == 0.0
    assert made.output.task_tokens.sum().item() > 0


def check_06_chunks_add_up_in_f32(impl: str, device: str) -> None:
    """Over a hundred chunks of bf16 rows: each entry of the weight gradient is off by about one rounding."""
    generator = torch.Generator().manual_seed(6)
    dtype = torch.bfloat16
    # Positive states and one label: partial sums grow, so that rounding them would show.
    hidden = (torch.rand(2**16, 4, generator=generator) + 0.5).to(dtype)
    weight = torch.randn(12, 4, generator=generator).to(dtype)
    labels = torch.full((2**16,), 3)
    leaf = weight.clone().to(device).requires_grad_()
    ck.linear_cross_entropy(
        hidden.to(device), leaf, labels.to(device), reduction="sum", memory_budget=0, impl=impl
    ).loss.backward()
    true = weight.double().requires_grad_()
    F.cross_entropy(hidden.double() @ true.T, labels, reduction="sum").backward()
    allowed = 2 * UNIT[dtype] * true.grad.abs()
    assert ((leaf.grad.cpu().double() - true.grad).abs() <= allowed).all()


def check_07_loss_is_not_rounded_to_the_inputs_dtype(impl: str, device: str) -> None:
    """bf16 in, f32 out: 10.7224 stays 10.7224."""
    for dtype in low_dtypes(impl, device) or [torch.bfloat16]:
        logits = torch.zeros(3, 45_360, dtype=dtype, device=device)
        if not runnable(impl, device, dtype):
            continue
        loss = ck.cross_entropy(logits, torch.arange(3, device=device), impl=impl).loss
        assert loss.dtype == torch.float32
        assert abs(loss.item() - np.log(45_360)) < 2e-6 * 11


def check_08_forward_and_backward_see_the_same_logits(impl: str, device: str) -> None:
    """Logits of several hundred: each row's gradient is softmax - onehot of the very logits of its loss."""
    for dtype in (torch.float32, torch.bfloat16):
        for budget in (None, 0):
            for reduction in ("mean", "none"):
                case = made_case(
                    "linear",
                    dtype,
                    8,
                    spread=300.0,
                    classes=33,
                    reduction=reduction,
                    memory_budget=budget,
                )
                ones = torch.ones_like(case.upstream)
                made = run(case.with_(upstream=ones, bias=torch.zeros(33, dtype=dtype)), impl, device)
                # exp(-nll) is 1 + the true class's slope; with the sum over rows in the bias gradient, the
                # slopes of the classes of one row sum to 0 to rounding.
                assert made.grad_bias is not None
                total = exact(made.grad_bias)
                scale = np.abs(total).max()
                assert abs(total.sum()) <= (33 * UNIT[dtype] + 1e-5) * max(scale, 1e-3)
                check(case, impl, device)


def check_09_small_gradients_are_not_filtered(impl: str, device: str) -> None:
    """Probabilities down to 1e-30 keep their gradient, each to its own relative precision."""
    raw = torch.linspace(0.0, -69.0, 64, dtype=torch.float64).repeat(3, 1).to(torch.float32)
    labels = torch.tensor([0, 10, 63])
    case = LossCase("logits", raw, None, None, labels, reduction="sum")
    found = exact(run(case, impl, device).grad_scores)
    truth = reference.cross_entropy(exact(raw), labels.numpy(), reduction="sum").grad_scores
    others = np.ones_like(truth, bool)
    others[np.arange(3), labels.numpy()] = False
    # The argument of each exponential is rounded once, at most at 69.
    assert (np.abs(found - truth) <= (2 * 69 + 90) * UNIT[torch.float32] * np.abs(truth))[others].all()


def check_10_offsets_beyond_int32(impl: str, device: str) -> None:
    """Rows more than 2^31 elements apart; on a CPU only the pages touched exist."""
    classes, apart = 64, 2**30 + 2**29
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    storage = torch.empty(3 * apart + classes, dtype=dtype, device=device)
    far = torch.as_strided(storage, (4, classes), (apart, 1))
    values = torch.randn(4, classes, generator=torch.Generator().manual_seed(10)).to(device, dtype)
    far.copy_(values)
    targets = torch.tensor([1, 7, 63, 0], device=device)
    near_gradient = torch.empty_like(values)
    nll, hits = row_pass_of(impl)(values, targets, gradient=near_gradient)
    for rows in (None, torch.tensor([0, 1, 2, 3], device=device)):
        far.copy_(values)
        found, found_hits = row_pass_of(impl)(far, targets, rows=rows, gradient=far)
        assert torch.equal(found, nll)
        assert torch.equal(found_hits, hits)
        assert torch.equal(far, near_gradient), "a gradient went to another address"


def check_11_no_label_is_mistaken_for_a_padded_column(impl: str, device: str) -> None:
    """The first column behind the vocabulary as ignore_index, the last class as label, odd vocabularies."""
    for classes in (31, 33, 65):
        for function in ("linear", "logits"):
            case = made_case(function, torch.float32, 11, classes=classes, ignore_index=classes)
            labels = case.labels.clone()
            labels[labels != classes] = classes - 1
            check(case.with_(labels=labels), impl, device)


def check_12_masked_classes(impl: str, device: str) -> None:
    """Logits of -inf take no part; a token whose own class is masked has an infinite loss, not NaN."""
    raw = torch.randn(4, 37, generator=torch.Generator().manual_seed(12))
    raw[:, 5:20] = -torch.inf
    raw[2, :36] = -torch.inf
    raw[3, 36] = -torch.inf
    labels = torch.tensor([0, 30, 36, -100])
    for dtype in (torch.float32, *low_dtypes(impl, device)):
        case = LossCase("logits", raw.to(dtype), None, None, labels, reduction="sum")
        made = check(case, impl, device)
        assert bool((made.grad_scores[:, 5:20] == 0).all())
        assert made.grad_scores[2].abs().max().item() == 0.0
    masked = ck.cross_entropy(raw.to(device), torch.tensor([7, -100, -100, -100], device=device), impl=impl)
    assert masked.loss.item() == float("inf")
    assert masked.task_correct.tolist() == [0]


def check_13_labels_of_any_integer_type_and_alignment(impl: str, device: str) -> None:
    """int64 labels 8 bytes off a 16-byte boundary, and the narrower integer types."""
    case = made_case("linear", torch.float32, 13, shape=(3, 7), classes=20, shift=True)
    expected = run(case, impl, device)
    for dtype in (torch.int64, torch.int32, torch.int16, torch.int8):
        off = torch.zeros(22, dtype=dtype)[1:].view(3, 7).copy_(case.labels)
        made = run(case.with_(labels=off), impl, device)
        assert torch.equal(made.output.loss, expected.output.loss)
        assert torch.equal(made.grad_scores, expected.grad_scores)


def check_14_nothing_is_looked_up_for_ignored_tokens(impl: str, device: str) -> None:
    """Task ids and token weights of unsupervised positions may hold anything."""
    case = made_case("linear", torch.float32, 14, per_token_tasks=True, weighted_tokens=True, tasks=3)
    expected = run(case, impl, device)
    assert case.task_ids is not None
    assert case.token_weights is not None
    ignored = case.labels == case.ignore_index
    strange = case.with_(
        task_ids=case.task_ids.masked_fill(ignored, -100),
        token_weights=case.token_weights.masked_fill(ignored, torch.nan),
    )
    made = run(strange, impl, device)
    assert torch.equal(made.output.loss, expected.output.loss)
    assert torch.equal(made.grad_scores, expected.grad_scores)


def check_15_expanded_upstream(impl: str, device: str) -> None:
    """An upstream gradient of stride 0, as .sum() sends it, and expanded inputs."""
    for function in ("linear", "logits"):
        case = made_case(function, torch.float32, 15, reduction="none", tasks=3)
        everywhere = case.with_(upstream=torch.ones(()).expand(case.labels.shape))
        written_out = run(case.with_(upstream=torch.ones(case.labels.shape)), impl, device)
        made = check(everywhere, impl, device)
        assert torch.equal(made.grad_scores, written_out.grad_scores)
        check(case.with_(scores=case.scores[:1].expand(case.scores.shape)), impl, device)


def check_21_parts_of_a_step_add_up(impl: str, device: str) -> None:
    """Micro-batches divided by the whole step's weights sum to the step, in loss and in gradients."""
    case = made_case("linear", torch.float64 if impl == "torch" else torch.float32, 21, shape=(4, 6), tasks=3)
    case = case.with_(upstream=torch.ones(()))
    whole = run(case, impl, device)
    assert case.task_ids is not None
    normalizer = ck.plan(case.labels, case.task_ids, case.task_weights).normalizer().item()
    loss, grad_weight, grad_scores = 0.0, 0.0, []
    for row in range(4):
        part = case.with_(
            scores=case.scores[row : row + 1],
            labels=case.labels[row : row + 1],
            task_ids=case.task_ids[row : row + 1],
            normalizer=normalizer,
        )
        made = run(part, impl, device)
        loss += made.output.loss.item()
        grad_weight = grad_weight + exact(made.grad_weight)
        grad_scores.append(exact(made.grad_scores))
    tolerance = 64 * UNIT[case.dtype]
    assert abs(loss - whole.output.loss.item()) <= tolerance * abs(loss)
    np.testing.assert_allclose(grad_weight, exact(whole.grad_weight), rtol=0, atol=4 * tolerance)
    np.testing.assert_allclose(np.concatenate(grad_scores), exact(whole.grad_scores), rtol=0, atol=tolerance)


def check_23_scaled_zero_and_repeated_upstream(impl: str, device: str) -> None:
    """Loss scaling, an upstream of 0, and a second backward pass of a kept graph give what they should."""
    for function in ("linear", "logits"):
        for budget in (None, 0):
            case = made_case(function, torch.float32, 23, tasks=2, memory_budget=budget)
            for factor in (0.0, 1.0, 65536.0, -3.0):
                made = check(case.with_(upstream=torch.tensor(factor)), impl, device)
                assert factor or made.grad_scores.abs().max().item() == 0.0
            scores = case.scores.to(device).requires_grad_()
            labels = case.labels.to(device)
            options = {"impl": impl, **({"memory_budget": budget} if function == "linear" else {})}
            if function == "linear":
                head = case.weight.to(device) if case.weight is not None else None
                loss = ck.linear_cross_entropy(scores, head, labels, **options).loss
            else:
                loss = ck.cross_entropy(scores, labels, **options).loss
            loss.backward(retain_graph=True)
            once = scores.grad.clone()
            scores.grad.mul_(7.0)  # what the optimizer does to .grad is no business of the graph's
            scores.grad = None
            loss.backward(torch.tensor(2.0, device=device), retain_graph=True)
            assert torch.allclose(scores.grad, 2 * once, rtol=1e-6, atol=0)
            scores.grad = None
            loss.backward()
            assert torch.equal(scores.grad, once)


def check_26_infinities_in_ignored_rows_stay_there(impl: str, device: str) -> None:
    """inf and NaN hidden states (or logits) of unsupervised positions reach nothing."""
    for function in ("linear", "logits"):
        for options in ({}, {"planned": True, "capacity": 24}, {"shift": True}):
            for budget in (None, 0) if function == "linear" else (None,):
                case = made_case(function, torch.float32, 26, shape=(4, 6), **options, memory_budget=budget)
                clean = run(case, impl, device)
                used = torch.zeros(case.labels.numel(), dtype=torch.bool)
                used[ck.plan(case.labels, case.task_ids, case.task_weights, shift=case.shift).rows] = True
                dirty = case.scores.clone()
                dirty[~used.view(case.labels.shape)] = torch.inf
                dirty[~used.view(case.labels.shape), ..., ::2] = torch.nan
                made = run(case.with_(scores=dirty), impl, device)
                assert torch.equal(made.output.loss, clean.output.loss)
                assert torch.equal(made.grad_scores, clean.grad_scores)
                assert made.grad_weight is None or torch.equal(made.grad_weight, clean.grad_weight)


def check_27_perfectly_predicted_tokens_count(impl: str, device: str) -> None:
    """A token whose nll is exactly 0 is in the normalizer, the counts and the hits like any other."""
    raw = torch.zeros(4, 8)
    raw[0, 3] = raw[1, 4] = 300.0
    labels = torch.tensor([3, 4, 5, -100])
    weights = torch.tensor([1.0, 3.0])
    case = LossCase(
        "logits",
        raw,
        None,
        None,
        labels,
        task_ids=torch.tensor([0, 1, 0, 0]),
        task_weights=weights,
    )
    made = check(case, impl, device)
    assert abs(made.output.loss.item() - np.log(8) / 5) < 1e-6
    assert made.output.task_tokens.tolist() == [2, 1]
    assert made.output.task_correct.tolist() == [1, 1]
    assert made.output.sample_tokens.tolist() == [3]
    assert made.output.task_loss.tolist()[1] == 0.0
    head = raw.T.contiguous()  # identity states pick the same logits
    linear = LossCase(
        "linear",
        torch.eye(4),
        head,
        None,
        labels,
        task_ids=torch.tensor([0, 1, 0, 0]),
        task_weights=weights,
    )
    assert abs(check(linear, impl, device).output.loss.item() - np.log(8) / 5) < 1e-6


def check_28_vocabularies_above_250k(impl: str, device: str) -> None:
    """262,145 classes, the first and the last among the labels, against torch in float64."""
    classes = 262_145
    generator = torch.Generator().manual_seed(28)
    hidden = torch.randn(5, 4, generator=generator)
    weight = torch.randn(classes, 4, generator=generator)
    labels = torch.tensor([0, classes - 1, 262_143, -100, 131_072])

    def stock(dtype: torch.dtype) -> list[torch.Tensor]:
        leaves = [each.detach().clone().to(device, dtype).requires_grad_() for each in (hidden, weight)]
        loss = F.cross_entropy(leaves[0] @ leaves[1].T, labels.to(device))
        loss.backward()
        return [loss, *(leaf.grad for leaf in leaves)]

    leaves = [each.detach().clone().to(device).requires_grad_() for each in (hidden, weight)]
    out = ck.linear_cross_entropy(*leaves, labels.to(device), impl=impl)
    out.loss.backward()
    found = [out.loss, *(leaf.grad for leaf in leaves)]
    for name, ours, plain, true in zip(
        ("loss", "grad_hidden", "grad_weight"), found, stock(torch.float32), stock(torch.float64), strict=True
    ):
        truth = exact(true)
        # Sums of 262,145 terms in some order: an ulp for each doubling, and some for the exponentials.
        band = (18 + 16) * UNIT[torch.float32] * np.abs(truth).max()
        assert_within_budget(name, ours, plain, truth, band)


CHECKS: tuple[Check, ...] = tuple(
    value for name, value in sorted(globals().items()) if name.startswith("check_")
)
