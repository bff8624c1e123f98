"""The Triton row pass against NumPy float64, in every way a row can be spread over a block."""

import dataclasses

import numpy as np
import pytest
import torch
import triton
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.kernels.row_cases import Case, cases, exact

from cotbal_kernels.backends.triton.backend import BACKEND as triton_backend
from cotbal_kernels.backends.triton.backend import raise_label_errors
from cotbal_kernels.backends.triton.configs import RowConfig

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# An interpreted row takes a tenth of a second and more.
interpretable = settings(max_examples=25) if triton.knobs.runtime.interpret else settings()
POISON = float("nan")


def spread(case: Case, kind: str) -> RowConfig | None:
    """A configuration small enough to have several tiles in a small row; None: the table's own."""
    match kind:
        case "held":
            width = 4 if case.storage.dtype == torch.float32 else 8
            groups = max(32, 1 << (-(-case.columns // (3 * width)) - 1).bit_length())
            return RowConfig(1, groups, 3, False)
        case "streamed":
            return RowConfig(1, 64, 0, True)
        case "both":
            return RowConfig(1, 32, 2, True)
    return None


KINDS = ("table", "held", "streamed", "both")


def assert_within(found: torch.Tensor, wanted: np.ndarray, allowed: np.ndarray) -> None:
    values = found.to("cpu", torch.float64).numpy()
    with np.errstate(invalid="ignore"):
        off = np.where(values == wanted, 0.0, np.abs(values - wanted))
    bad = ~(off <= allowed)
    assert not bad.any(), f"{values[bad][:3]} for {wanted[bad][:3]}, off {off[bad][:3]} > {allowed[bad][:3]}"


def moved(case: Case, device: torch.device) -> Case:
    tensors = {name: value for name, value in vars(case).items() if isinstance(value, torch.Tensor)}
    return dataclasses.replace(case, **{name: value.to(device) for name, value in tensors.items()})


def check(case: Case, kind: str, device: torch.device, in_place: bool) -> None:
    expected = exact(case)
    here = moved(case, device)
    before = here.storage.clone()
    storage = here.storage if in_place else torch.full_like(here.storage, POISON)
    gradient = here.window(storage)
    config = spread(case, kind)

    nll, hits = triton_backend.row_pass(
        here.logits, here.targets, gradient=gradient, config=config, **here.options
    )

    assert_within(nll, expected.nll, expected.nll_error)
    assert all(want is None or want == got for want, got in zip(expected.hits, hits.tolist(), strict=True))
    assert_within(gradient[here.visited], expected.gradient, expected.gradient_error)
    untouched = torch.ones_like(storage, dtype=torch.bool)
    untouched[here.visited, case.offset : case.offset + case.columns] = False
    if in_place:
        assert torch.equal(storage[untouched], before[untouched])
    else:
        assert torch.isnan(storage[untouched]).all()
        assert torch.equal(here.storage, before)


@interpretable
@given(case=cases(dtypes=DTYPES), kind=st.sampled_from(KINDS), in_place=st.booleans())
def test_matches_float64(device: torch.device, case: Case, kind: str, in_place: bool) -> None:
    check(case, kind, device, in_place)


@interpretable
@given(case=cases(dtypes=DTYPES), kind=st.sampled_from(("table", "streamed")))
def test_value_alone(device: torch.device, case: Case, kind: str) -> None:
    expected, here = exact(case), moved(case, device)
    nll, hits = triton_backend.row_pass(here.logits, here.targets, config=spread(case, kind), **here.options)
    assert_within(nll, expected.nll, expected.nll_error)
    assert all(want is None or want == got for want, got in zip(expected.hits, hits.tolist(), strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [32000, 32001, 262147])
def test_long_rows(device: torch.device, dtype: torch.dtype, columns: int) -> None:
    generator = torch.Generator().manual_seed(columns)
    logits = torch.randn(3, columns, generator=generator).mul(5).to(dtype)
    targets = torch.tensor([columns - 1, 0, int(logits[2].float().argmax())])
    check(Case(logits, columns, targets), "table", device, in_place=True)


@interpretable
@given(st.integers(1, 70), st.sampled_from(DTYPES), st.sampled_from(KINDS), st.integers(0, 2**32 - 1))
def test_first_of_equal_maxima_hits(
    device: torch.device, columns: int, dtype: torch.dtype, kind: str, seed: int
) -> None:
    random = np.random.default_rng(seed)
    logits = torch.from_numpy(random.integers(0, 3, (4, columns))).to(dtype)
    targets = torch.from_numpy(random.integers(0, columns, 4))
    config = spread(Case(logits, columns, targets), kind)
    _, hits = triton_backend.row_pass(logits.to(device), targets.to(device), config=config)
    assert hits.tolist() == (logits.float().argmax(1) == targets).tolist()


@interpretable
@given(st.sampled_from(DTYPES), st.integers(0, 7), st.integers(0, 7), st.integers(0, 3), st.integers(1, 70))
@example(torch.bfloat16, 0, 0, 0, 64)
def test_gradient_in_a_buffer_of_any_alignment(
    device: torch.device, dtype: torch.dtype, offset: int, other: int, padding: int, columns: int
) -> None:
    logits = torch.randn(3 * (columns + padding) + offset, generator=torch.Generator().manual_seed(columns))
    logits = logits.to(device, dtype)[offset:].as_strided((3, columns), (columns + padding, 1))
    targets = torch.tensor([0, columns - 1, columns // 2], device=device)
    wanted = torch.full((3, columns), POISON, dtype=dtype, device=device)
    triton_backend.row_pass(logits, targets, gradient=wanted)
    storage = torch.full((3 * columns + other + 2,), POISON, dtype=dtype, device=device)
    found = storage[other:].as_strided((3, columns), (columns, 1))
    triton_backend.row_pass(logits, targets, gradient=found)
    # The same bits wherever it is written, and nothing around it.
    assert torch.allclose(found.float(), wanted.float(), rtol=2.0**-7, atol=2.0**-20)
    assert torch.isnan(storage[:other]).all()
    assert torch.isnan(storage[other + 3 * columns :]).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [40, 41])
def test_padding_rows_are_not_read(device: torch.device, dtype: torch.dtype, columns: int) -> None:
    logits = torch.full((4, columns), POISON, dtype=dtype, device=device)
    logits[1] = 0
    targets = torch.tensor([-1, 3, -1, -1], device=device)
    scale = torch.tensor([POISON, 2.0, POISON, POISON], device=device)
    for softcap in (None, 5.0):
        work = logits.clone()
        nll, hits = triton_backend.row_pass(work, targets, gradient=work, row_scale=scale, softcap=softcap)
        assert nll.tolist() == [0.0, pytest.approx(np.log(columns), rel=1e-6), 0.0, 0.0]
        assert hits.tolist() == [False] * 4
        assert torch.equal(work[[0, 2, 3]], torch.zeros(3, columns, dtype=dtype, device=device))
        assert not torch.isnan(work).any()


def test_padding_rows_may_share_a_row(device: torch.device) -> None:
    logits = torch.randn(4, 33, device=device)
    rows = torch.tensor([0, 3, 1, 1, 1], device=device)
    gradient = torch.full_like(logits, POISON)
    triton_backend.row_pass(
        logits, torch.tensor([5, 6, -1, -1, -1], device=device), rows=rows, gradient=gradient
    )
    assert torch.equal(gradient[1], torch.zeros(33, device=device))
    assert torch.isnan(gradient).any(1).tolist() == [False, False, True, False]


@pytest.mark.parametrize("columns", [40, 41])
def test_a_row_without_any_class(device: torch.device, columns: int) -> None:
    logits = torch.full((2, columns), -torch.inf, device=device)
    logits[1, 7] = 1.5
    nll, hits = triton_backend.row_pass(logits, torch.tensor([7, 7], device=device), gradient=logits)
    assert torch.isnan(nll[0])
    assert not hits[0]
    assert nll[1] == 0
    assert torch.equal(logits[1], torch.zeros(columns, device=device))


@pytest.mark.parametrize("magnitude", [640.0, 30000.0])
def test_perfectly_predicted_large_logits(device: torch.device, magnitude: float) -> None:
    # exp2 works on multiples of log2(e): their rounding, 1e-4 here, must cancel.
    logits = torch.tensor([[magnitude, 0.0, magnitude - 12.0, -magnitude]], device=device)
    nll, hits = triton_backend.row_pass(logits, torch.tensor([0], device=device), gradient=logits)
    share = np.exp(-12.0) / (1 + np.exp(-12.0))
    assert nll.item() == pytest.approx(np.log1p(np.exp(-12.0)), abs=2.0**-22)
    assert hits.item()
    assert logits[0].tolist() == pytest.approx([-share, 0.0, share, 0.0], abs=2.0**-22)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_true_class_gradient_is_rounded_once(device: torch.device, dtype: torch.dtype) -> None:
    # p = 0.9998: p rounded to 16 bits is 1, and rounding it before the subtraction would leave 0.
    logits = torch.tensor([[8.5] + [0.0] * 9], dtype=dtype, device=device)
    triton_backend.row_pass(logits, torch.tensor([0], device=device), gradient=logits)
    rest = 9 * np.exp(-8.5)
    assert logits[0, 0].item() == pytest.approx(-rest / (1 + rest), rel=2.0**-8 + 1e-3)


def test_the_same_bits_every_time(device: torch.device) -> None:
    logits = torch.randn(5, 300, device=device)
    targets = torch.tensor([0, 299, 17, -1, 4], device=device)
    runs = []
    for _ in range(2):
        gradient = torch.empty_like(logits)
        runs.append((*triton_backend.row_pass(logits, targets, gradient=gradient), gradient))
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


@pytest.mark.parametrize("columns", [40, 41])
@pytest.mark.parametrize("label", [40 + 1, 2**31 - 1, -2, -100, -(2**31)])
def test_a_target_outside_is_noted_and_harms_nothing(device: torch.device, columns: int, label: int) -> None:
    around = torch.full((3, 64), POISON, device=device)
    logits = around[:, 8 : 8 + columns]
    logits[:] = torch.randn(3, columns)
    targets = torch.tensor([1, label, 2], device=device)
    nll, hits = triton_backend.row_pass(logits, targets, gradient=logits)
    assert torch.isnan(nll).tolist() == [False, True, False]
    assert not hits[1]
    assert torch.equal(logits[1], torch.zeros(columns, device=device))
    assert torch.isnan(around[:, :8]).all()
    assert torch.isnan(around[:, 8 + columns :]).all()
    if device.type == "cuda":
        torch.cuda.synchronize()
    with pytest.raises(ValueError, match=rf"targets\[1\] was {label} in an earlier loss on {device.type}"):
        raise_label_errors(logits.device)
    # Said once.
    triton_backend.row_pass(logits, torch.tensor([1, 2, 3], device=device))


def test_no_rows(device: torch.device) -> None:
    nothing = torch.empty(0, dtype=torch.int64, device=device)
    logits = torch.randn(2, 9, device=device)
    nll, hits = triton_backend.row_pass(logits, nothing, gradient=logits)
    assert (nll.shape, hits.shape) == ((0,), (0,))


def test_full_row_pass_writes_every_row(device: torch.device) -> None:
    logits = torch.randn(6, 35, device=device)
    logits[4] = POISON
    rows = torch.tensor([0, 2, 5, 4, 4], device=device)
    targets = torch.tensor([3, 34, 0, -1, -1], device=device)
    scale = torch.tensor([1.0, 0.5, 2.0, 0.0, 0.0], device=device)
    gradient = torch.full_like(logits, POISON)
    nll, hits = triton_backend.full_row_pass(logits, rows, targets, gradient, row_scale=scale)
    wanted = torch.full_like(logits, POISON)
    alone = triton_backend.row_pass(logits, targets, rows=rows, gradient=wanted, row_scale=scale)
    assert torch.equal(nll, alone[0])
    assert torch.equal(hits, alone[1])
    assert torch.equal(gradient[rows], wanted[rows])
    assert torch.equal(gradient[[1, 3, 4]], torch.zeros(3, 35, device=device))
