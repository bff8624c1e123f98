"""Bugs planted on purpose: the suite's own checks must catch each, and pass without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from support.kernels import loss_checks
from support.kernels.loss_contract import check
from support.kernels.loss_strategies import loss_cases
from torch import Tensor

from cotbal_kernels import linear, logits, statistics
from cotbal_kernels.backends.torch_backend import BACKEND as torch_backend

RowPass = Callable[..., tuple[Tensor, Tensor]]
GOOD: RowPass = torch_backend.row_pass


def true_class_rounded_early(raw: Tensor, targets: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """The probability of the true class is rounded to the gradient's dtype before 1 is taken from it."""
    gradient, rows = options.get("gradient"), options.get("rows")
    result = GOOD(raw, targets, **options)
    if gradient is not None and gradient.dtype != torch.float64:
        picked = torch.arange(len(targets)) if rows is None else rows
        real = targets >= 0
        at = picked[real], targets[real]
        scale = options.get("row_scale")
        scale = torch.ones(len(targets)) if scale is None else scale
        narrow = gradient.dtype if gradient.dtype != torch.float32 else torch.bfloat16
        probability = torch.exp(-result[0][real]).to(narrow).float()
        gradient[at] = ((probability - 1) * scale[real].float()).to(gradient.dtype)
    return result


def unwritten_slot(raw: Tensor, targets: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """Padding rows leave their loss as it was allocated."""
    nll, hits = GOOD(raw, targets, **options)
    poison = torch.full_like(nll, torch.nan)
    return torch.where(targets >= 0, nll, poison), hits


def unwritten_gradient(raw: Tensor, targets: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """The last class of each row's gradient is never written."""
    gradient = options.pop("gradient", None)
    written = None if gradient is None else torch.zeros_like(gradient)
    result = GOOD(raw.clone(), targets, gradient=written, **options)
    if gradient is not None and written is not None:
        rows = options.get("rows")
        picked = torch.arange(len(targets)) if rows is None else rows
        gradient[picked, :-1] = written[picked, :-1]
    return result


def offsets_of_32_bits(raw: Tensor, targets: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """Row offsets are computed in 32 bits; what wraps below 0 lands at the start of the storage."""
    rows, gradient = options.pop("rows", None), options.pop("gradient", None)
    picked = list(range(len(targets))) if rows is None else rows.tolist()

    def wrapped(matrix: Tensor) -> list[Tensor]:
        starts = [(row * matrix.stride(0) + 2**31) % 2**32 - 2**31 for row in picked]
        return [
            torch.as_strided(matrix, (matrix.shape[1],), (1,), matrix.storage_offset() + max(start, 0))
            for start in starts
        ]

    gathered = torch.stack(wrapped(raw)) if picked else raw[:0].clone()
    made = torch.empty_like(gathered)
    result = GOOD(gathered, targets, gradient=None if gradient is None else made, **options)
    if gradient is not None:
        for place, row in zip(wrapped(gradient), made, strict=True):
            place.copy_(row)
    return result


def last_class_wins_ties(raw: Tensor, targets: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    rows = options.get("rows")
    picked = raw[: len(targets)] if rows is None else raw[rows]
    chosen = picked.gather(1, targets.clamp_min(0).unsqueeze(1)).squeeze(1)
    if picked.shape[1]:
        tied = (picked.amax(1) == chosen) & (targets >= 0)
    nll, _ = GOOD(raw, targets, **options)
    return nll, tied


def slope_of_the_softcap_forgotten(raw: Tensor, targets: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    gradient, cap = options.get("gradient"), options.get("softcap")
    if gradient is None or cap is None:
        return GOOD(raw, targets, **options)
    rows = options.get("rows")
    picked = torch.arange(len(targets)) if rows is None else rows
    bent = torch.tanh(options["logit_scale"] * raw[picked].double() / cap)
    result = GOOD(raw, targets, **options)
    gradient[picked] = (gradient[picked].double() / (1 - bent**2)).to(gradient.dtype)
    return result


def first_upstream_element_for_all(upstream: Tensor | None, *rest: Any) -> Tensor:
    if upstream is not None and upstream.dim():
        upstream = upstream[:1].expand(upstream.shape)
    return GOOD_SCALE(upstream, *rest)


GOOD_SCALE = torch_backend.row_scale
GOOD_STATISTICS = torch_backend.row_statistics


def perfectly_predicted_dropped(
    nll: Tensor, hits: Tensor, targets: Tensor, tasks: Tensor, samples: Tensor, weights: Any, *rest: Any
) -> Any:
    """The mask of supervised tokens is nll != 0."""
    kept = torch.where(nll != 0, targets, -1)
    ones = torch.ones_like(nll) if weights is None else weights
    return GOOD_STATISTICS(nll, hits & (nll != 0), kept, tasks, samples, ones * (nll != 0), *rest)


def ignored_rows_multiplied_by_zero(
    source: Tensor, rows: Tensor, targets: Tensor, scale: Any, dtype: torch.dtype, padded: bool
) -> Tensor:
    """Padding is masked by a factor of 0, which an infinity survives."""
    found = source.index_select(0, rows).to(dtype) * (targets >= 0).unsqueeze(1).to(dtype)
    return found if scale is None else found * scale.unsqueeze(1)


def sums_of_bf16(gradient: Tensor, hidden: Tensor, out: Tensor, accumulate: bool) -> None:
    """The weight gradient is rounded to bf16 after every chunk."""
    GOOD_PRODUCT(gradient, hidden, out, accumulate)
    out.copy_(out.bfloat16())


GOOD_PRODUCT = linear.products.weight_gradient_


def property_over_all_options(impl: str, device: str) -> None:
    """The suite's widest property, cut to 100 examples, without shrinking."""

    @settings(
        max_examples=100,
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(data=st.data(), function=st.sampled_from(["linear", "logits"]))
    def everything(data: st.DataObject, function: Any) -> None:
        check(data.draw(loss_cases(function, torch.float32)), impl, device)

    everything()


# The place in the product, the bug, and the check of the suite that must catch it.
BUGS: dict[str, tuple[Any, str, Any, loss_checks.Check]] = {
    "true class rounded early": (
        torch_backend,
        "row_pass",
        true_class_rounded_early,
        loss_checks.check_02_true_class_gradient_keeps_its_digits,
    ),
    "unwritten loss slot": (
        torch_backend,
        "row_pass",
        unwritten_slot,
        loss_checks.check_03_every_slot_is_written,
    ),
    "unwritten gradient slot": (
        torch_backend,
        "row_pass",
        unwritten_gradient,
        loss_checks.check_03_every_slot_is_written,
    ),
    "int32 offsets": (
        torch_backend,
        "row_pass",
        offsets_of_32_bits,
        loss_checks.check_10_offsets_beyond_int32,
    ),
    "first upstream element broadcast": (
        torch_backend,
        "row_scale",
        first_upstream_element_for_all,
        loss_checks.check_01_every_upstream_element_counts,
    ),
    "perfectly predicted token dropped": (
        torch_backend,
        "row_statistics",
        perfectly_predicted_dropped,
        loss_checks.check_27_perfectly_predicted_tokens_count,
    ),
    "infinity in a padding row": (
        torch_backend,
        "gather_rows",
        ignored_rows_multiplied_by_zero,
        loss_checks.check_26_infinities_in_ignored_rows_stay_there,
    ),
    "last of tied classes": (torch_backend, "row_pass", last_class_wins_ties, property_over_all_options),
    "no slope of the softcap": (
        torch_backend,
        "row_pass",
        slope_of_the_softcap_forgotten,
        property_over_all_options,
    ),
    "first upstream element broadcast, found by chance": (
        torch_backend,
        "row_scale",
        first_upstream_element_for_all,
        property_over_all_options,
    ),
    "sums rounded to bf16": (
        linear.products,
        "weight_gradient_",
        sums_of_bf16,
        loss_checks.check_06_chunks_add_up_in_f32,
    ),
}


@pytest.mark.parametrize("name", BUGS)
def test_planted_bug_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place, attribute, bug, catches = BUGS[name]
    catches("torch", "cpu")
    monkeypatch.setattr(place, attribute, bug)
    with pytest.raises(AssertionError):
        catches("torch", "cpu")


def test_planted_bugs_reach_the_code_they_replace() -> None:
    """A rename in the product must not turn a planted bug into a no-op that is 'caught' for another reason."""
    for place, attribute, bug, _ in BUGS.values():
        assert callable(getattr(place, attribute))
        assert getattr(place, attribute) is not bug
    assert linear.statistics is statistics
    assert logits.statistics is statistics
