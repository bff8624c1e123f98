"""What every implementation owes for every call: values, statistics and gradients within their budgets.

The exact values come from the NumPy oracle in float64, on the very numbers the implementation gets. The plain
computation is what a careful user would write in PyTorch in the same precision. See ``budgets``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from unittest import mock

# cuBLAS wants it before the first product, or refuses to be deterministic.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.kernels.budgets import UNIT, assert_within_budget, exact
from support.kernels.loss_bands import Bands, bands, loss_dtype, raw_scores, tokens_of
from support.kernels.loss_strategies import LossCase
from torch import Tensor

import cotbal_kernels as ck
from cotbal_kernels import linear, reference

IMPLEMENTATIONS = ("torch", "native", "triton")
DEVICES = ("cpu", pytest.param("cuda", marks=pytest.mark.gpu))
LAYOUTS = ("contiguous", "transposed", "sliced")


def skip_unless_runnable(impl: str, device: str, dtype: torch.dtype, function: str = "linear") -> None:
    """Skip, with its reason, where an implementation cannot run."""
    if function == "linear" and device == "cpu" and dtype in (torch.float16, torch.bfloat16):
        dtype = torch.float32  # logits are f32 on a CPU without such products
    for entry in ck.implementations(device, dtype):
        if entry.name == impl and not entry.available:
            pytest.skip(f"impl={impl!r} on {device} with {dtype}: {entry.reason}")


@contextmanager
def always_chunks() -> Iterator[None]:
    """Beyond the budget rows are worked on in chunks, also where calls are too small to save memory by it."""
    with mock.patch.object(linear.Memory, "chunks_save", True):
        yield


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Every uninitialised tensor is filled with NaN (or the largest integer): an unwritten slot shows."""
    before = torch.are_deterministic_algorithms_enabled()
    filling = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.utils.deterministic.fill_uninitialized_memory = filling


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one call gave: the output, and the gradients of what went in."""

    output: ck.LossOutput
    grad_scores: Tensor
    grad_weight: Tensor | None
    grad_bias: Tensor | None


def laid_out(value: Tensor, layout: str) -> Tensor:
    """The same values in another memory layout."""
    if layout == "transposed" and value.dim() > 1:
        return value.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "sliced":
        # One element in: misaligned rows with something else behind each.
        outer = torch.full(
            (*value.shape[:-1], value.shape[-1] + 3), 77, dtype=value.dtype, device=value.device
        )
        outer[..., 1:-2] = value
        return outer[..., 1:-2]
    return value


def run(
    case: LossCase, impl: str, device: str = "cpu", layout: str = "contiguous", with_gradients: bool = True
) -> Outcome:
    """Call the loss as the case says, and its backward pass."""

    def placed(value: Tensor | None) -> Any:
        return None if value is None else laid_out(value.to(device), layout)

    def leaf(value: Tensor | None) -> Any:
        return None if value is None else placed(value).detach().requires_grad_(with_gradients)

    scores, weight, bias = leaf(case.scores), leaf(case.weight), leaf(case.bias)
    labels = placed(case.labels)
    options = {
        name: placed(value) if isinstance(value, Tensor) else value
        for name, value in case.plan_options.items()
    }
    if case.planned:
        options = {"plan": ck.plan(labels, **options, capacity=case.capacity)}
    options |= case.loss_options | {"impl": impl}
    if case.class_weights is not None:
        options["class_weights"] = placed(case.class_weights)
    options |= {"token_outputs": case.token_outputs, "token_gradients": case.token_gradients}
    if case.function == "linear":
        if case.memory_budget is not None:
            options["memory_budget"] = case.memory_budget
        with always_chunks() if case.memory_budget == 0 else nullcontext():
            output = ck.linear_cross_entropy(scores, weight, labels, bias=bias, **options)
    else:
        output = ck.cross_entropy(scores, labels, **options)
    if with_gradients:
        roots = {"loss": case.upstream}
        roots |= {f"token_{name}": upstream for name, upstream in case.token_upstreams.items()}
        torch.autograd.backward(
            [getattr(output, name) for name in roots],
            [upstream.to(device, output.loss.dtype) for upstream in roots.values()],
        )
    return Outcome(
        output, scores.grad, None if weight is None else weight.grad, None if bias is None else bias.grad
    )


def truth(case: LossCase) -> reference.ReferenceLoss:
    """The exact answer."""

    def array(value: Any) -> Any:
        return value.to(torch.float64).numpy() if isinstance(value, Tensor) else value

    options: dict[str, Any] = {name: array(value) for name, value in case.plan_options.items()}
    options |= {name: array(value) for name, value in case.loss_options.items()}
    dtype = loss_dtype(case.dtype)
    options |= {
        f"upstream_{name}": upstream.to(dtype).to(torch.float64).numpy()
        for name, upstream in case.token_upstreams.items()
    }
    upstream = case.upstream.to(loss_dtype(case.dtype)).to(torch.float64).numpy()
    if case.function == "logits":
        return reference.cross_entropy(array(case.scores), array(case.labels), **options, upstream=upstream)
    return reference.linear_cross_entropy(
        array(case.scores),
        array(case.weight),
        array(case.labels),
        bias=array(case.bias),
        **options,
        upstream=upstream,
    )


@dataclass(frozen=True, eq=False)
class Plain:
    """The plain computation's row losses, loss and gradients."""

    nll: Tensor
    loss: Tensor
    grad_scores: Tensor
    grad_weight: Tensor | None
    grad_bias: Tensor | None
    entropy: Tensor


def plain(case: LossCase, device: str = "cpu") -> Plain:
    """What a careful user would write: a linear layer in the inputs' dtype, the loss in f32 (f64)."""
    dtype = loss_dtype(case.dtype)

    def leaf(value: Tensor | None) -> Any:
        return None if value is None else value.to(device).clone().requires_grad_()

    scores, weight, bias = leaf(case.scores), leaf(case.weight), leaf(case.bias)
    tokens = tokens_of(case)
    lengths = case.labels.shape
    rows = torch.tensor(
        [int(np.ravel_multi_index(token.index, lengths)) for token in tokens], dtype=torch.int64
    )
    rows = rows.to(device)
    targets = torch.tensor([token.target for token in tokens], dtype=torch.int64, device=device)
    weights = torch.tensor([token.weight for token in tokens], dtype=torch.float64).to(device, dtype)
    raw = scores if weight is None else F.linear(scores, weight, bias)
    z = raw.reshape(-1, case.classes)[rows].to(dtype) * case.logit_scale
    if case.softcap is not None:
        z = case.softcap * torch.tanh(z / case.softcap)
    nll = F.cross_entropy(z, targets, reduction="none")
    losses = F.cross_entropy(z, targets, reduction="none", label_smoothing=case.label_smoothing)
    losses = losses + case.lse_square_scale * z.logsumexp(-1).square()
    logs = z.log_softmax(-1)
    entropy = -(logs.exp() * logs.masked_fill(torch.isneginf(logs), 0)).sum(-1)
    weighted = weights * losses
    if case.reduction == "none":
        loss = weighted.new_zeros(case.labels.numel()).index_put((rows,), weighted).reshape(lengths)
    else:
        loss = weighted.sum()
    if case.reduction == "mean":
        normalizer = weights.sum() if case.normalizer is None else torch.tensor(case.normalizer, dtype=dtype)
        loss = loss / (normalizer if normalizer != 0 else 1.0)
    total = (loss * case.upstream.to(device, dtype)).sum()
    for name, upstream in case.token_upstreams.items():
        mine = upstream.to(device, dtype).reshape(-1)[rows]
        total = total + (mine * (entropy if name == "entropy" else -nll)).sum()
    total.backward()
    # Where a tensor has no part in the loss, its gradient is 0.
    grads = [
        None if each is None else torch.zeros_like(each) if each.grad is None else each.grad
        for each in (scores, weight, bias)
    ]
    return Plain(nll.detach(), loss.detach(), *grads, entropy.detach())


def rounds_logits(case: LossCase, device: str) -> bool:
    """Whether an output head's logits exist in a dtype narrower than f32."""
    from cotbal_kernels.products import product_dtype

    return case.function == "linear" and product_dtype(case.dtype, torch.device(device)).itemsize < 4


def check(case: LossCase, impl: str, device: str = "cpu", layout: str = "contiguous") -> Outcome:
    """Run a case with every output poisoned beforehand, and hold all of it to the contract."""
    with poisoned_memory():
        made = run(case, impl, device, layout)
    assert_contract(case, made, device)
    return made


def assert_contract(case: LossCase, made: Outcome, device: str = "cpu") -> None:
    expected, beside = truth(case), plain(case, device)
    allowed = bands(case, expected, rounds_logits(case, device))
    output, tokens = made.output, tokens_of(case)
    dtype = loss_dtype(case.dtype)
    for name, kind in (
        ("loss", dtype),
        ("task_loss_sum", dtype),
        ("task_tokens", torch.int64),
        ("task_correct", torch.int64),
        ("sample_loss_sum", dtype),
        ("sample_tokens", torch.int64),
    ):
        value = getattr(output, name)
        assert value.dtype == kind, f"{name} has dtype {value.dtype}, expected {kind}"
        assert value.device.type == device, f"{name} is on {value.device}"
        assert value.requires_grad == (name == "loss"), f"{name}.requires_grad is {value.requires_grad}"

    assert_token_outputs(case, made, expected, beside, allowed)
    assert output.task_tokens.tolist() == expected.task_tokens.tolist()
    assert output.sample_tokens.tolist() == expected.sample_tokens.tolist()
    doubtful = np.zeros(len(expected.task_correct), np.int64)
    np.add.at(doubtful, [token.task for token in tokens], allowed.near_ties)
    missed = np.abs(output.task_correct.cpu().numpy() - expected.task_correct)
    assert (missed <= doubtful).all(), (
        f"task_correct is {output.task_correct.tolist()}, exact {expected.task_correct.tolist()}, "
        f"{doubtful.tolist()} rows have a near tie"
    )
    truth_nll = np.array(
        [
            reference.token_loss(raw_scores(case, token), token.target, case.logit_scale, case.softcap)[0]
            for token in tokens
        ]
    )
    u = UNIT[dtype]
    nll_error = (
        np.abs(exact(beside.nll) - truth_nll) + allowed.nll + (len(tokens) + 4) * u * np.abs(truth_nll)
    )
    for name, segments, sums in (
        ("task_loss_sum", [token.task for token in tokens], expected.task_loss_sum),
        ("sample_loss_sum", [token.sample for token in tokens], expected.sample_loss_sum),
    ):
        band = np.zeros(sums.shape)
        np.add.at(band, segments, np.nan_to_num(nll_error, posinf=0.0, nan=0.0))
        value = getattr(output, name)
        assert_within_budget(name, value, torch.from_numpy(sums), sums, band)

    assert_within_budget("loss", output.loss, beside.loss, expected.loss, allowed.loss)
    rows = (-1,) if case.function == "logits" else None
    assert_within_budget(
        "grad_scores", made.grad_scores, beside.grad_scores, expected.grad_scores, allowed.scores, rows
    )
    supervised = np.zeros(case.labels.shape, bool)
    for token in tokens:
        supervised[token.index] = True
    assert (exact(made.grad_scores)[~supervised] == 0).all(), "an unsupervised position has a gradient"
    if case.weight is not None and made.grad_weight is not None:
        assert_within_budget(
            "grad_weight", made.grad_weight, beside.grad_weight, expected.grad_weight, allowed.weight
        )
    if case.bias is not None and made.grad_bias is not None:
        assert_within_budget("grad_bias", made.grad_bias, beside.grad_bias, expected.grad_bias, allowed.bias)
    for name, grad in (("scores", made.grad_scores), ("weight", made.grad_weight), ("bias", made.grad_bias)):
        assert grad is None or grad.dtype == case.dtype, f"the gradient of {name} has dtype {grad.dtype}"


def assert_token_outputs(
    case: LossCase, made: Outcome, expected: reference.ReferenceLoss, beside: Plain, allowed: Bands
) -> None:
    """Log-probabilities and entropies where they were asked for, with gradients where these were."""
    tokens, dtype = tokens_of(case), loss_dtype(case.dtype)
    for name, wanted, plain_rows, band in (
        ("log_probabilities", expected.token_log_probabilities, -beside.nll, allowed.nll),
        ("entropy", expected.token_entropy, beside.entropy, allowed.entropy),
    ):
        value = getattr(made.output, f"token_{name}")
        if name not in case.token_outputs:
            assert value is None, f"{name} was not asked for"
            continue
        assert wanted is not None
        assert value.dtype == dtype
        assert value.requires_grad == case.token_gradients, f"{name}.requires_grad is {value.requires_grad}"
        bands_there, plainly = np.zeros(wanted.shape), torch.zeros(wanted.shape, dtype=dtype)
        for number, token in enumerate(tokens):
            bands_there[token.index] = band[number]
            plainly[token.index] = plain_rows[number].cpu()
        assert_within_budget(name, value, plainly, wanted, bands_there)
