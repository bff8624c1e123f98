"""The native row pass, each instruction set of this machine against NumPy float64."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.kernels.row_cases import Case, cases, exact, forced

native = pytest.importorskip("cotbal_kernels.backends.native.backend")
if native.missing() is not None:
    pytest.skip(str(native.missing()), allow_module_level=True)

SETS = [name for name, supported in native.instruction_sets().items() if supported]
every_set = pytest.mark.parametrize("instruction_set", SETS)
POISON = float("nan")


def assert_within(found: torch.Tensor, wanted: np.ndarray, allowed: np.ndarray) -> None:
    values = found.to(torch.float64).numpy()
    same = values == wanted  # infinities
    with np.errstate(invalid="ignore"):
        off = np.where(same, 0.0, np.abs(values - wanted))
    bad = ~(off <= allowed)
    assert not bad.any(), (
        f"{values[bad][:3]} for {wanted[bad][:3]}, off {off[bad][:3]}, allowed {allowed[bad][:3]}"
    )


def check(case: Case) -> None:
    expected = exact(case)
    before = case.storage.clone()
    storage = torch.full_like(case.storage, POISON)
    gradient = case.window(storage)

    nll, hits = native.BACKEND.row_pass(case.logits, case.targets, gradient=gradient, **case.options)

    assert_within(nll, expected.nll, expected.nll_error)
    assert all(want is None or want == got for want, got in zip(expected.hits, hits.tolist(), strict=True))
    assert_within(gradient[case.visited], expected.gradient, expected.gradient_error)
    # Nothing but the rows named was written, and the logits were only read.
    untouched = torch.ones_like(storage, dtype=torch.bool)
    untouched[case.visited, case.offset : case.offset + case.columns] = False
    assert torch.isnan(storage[untouched]).all()
    assert torch.equal(case.storage, before)

    # In place, and without a gradient: the same bits.
    rewritten = Case(**{**case.__dict__, "storage": before.clone()})
    again = native.BACKEND.row_pass(rewritten.logits, case.targets, gradient=rewritten.logits, **case.options)
    alone = native.BACKEND.row_pass(case.logits, case.targets, **case.options)
    assert torch.equal(rewritten.logits[case.visited], gradient[case.visited])
    assert torch.equal(rewritten.storage[untouched], before[untouched])
    for result in (again, alone):
        assert torch.equal(result[0], nll)
        assert torch.equal(result[1], hits)


@every_set
@given(case=cases())
def test_matches_float64(instruction_set: str, case: Case) -> None:
    with forced(instruction_set):
        check(case)


@every_set
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("columns", [32001, 262147])
def test_long_odd_rows(instruction_set: str, dtype: torch.dtype, columns: int) -> None:
    generator = torch.Generator().manual_seed(columns)
    logits = torch.randn(3, columns, generator=generator).mul(5).to(dtype)
    with forced(instruction_set):
        check(Case(logits, columns, torch.tensor([columns - 1, 0, int(logits[2].float().argmax())])))


@every_set
@given(st.integers(1, 70), st.integers(0, 2**32 - 1))
def test_first_of_equal_maxima_hits(instruction_set: str, columns: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    logits = torch.from_numpy(random.integers(0, 3, (8, columns))).float()
    targets = torch.from_numpy(random.integers(0, columns, 8))
    with forced(instruction_set):
        _, hits = native.BACKEND.row_pass(logits, targets)
    assert hits.tolist() == (logits.numpy().argmax(1) == targets.numpy()).tolist()


@every_set
def test_first_maximum_in_an_earlier_block(instruction_set: str) -> None:
    logits = torch.zeros(2, 5000)
    logits[:, [1500, 4500]] = 7.0
    with forced(instruction_set):
        _, hits = native.BACKEND.row_pass(logits, torch.tensor([1500, 4500]))
    assert hits.tolist() == [True, False]


@every_set
def test_whole_blocks_masked(instruction_set: str) -> None:
    """Until the first logit above -inf there is no maximum to subtract."""
    logits = torch.randn(2, 3000, generator=torch.Generator().manual_seed(3))
    logits[0, :2500] = float("-inf")
    logits[1, 100:] = float("-inf")
    with forced(instruction_set):
        check(Case(logits, 3000, torch.tensor([2700, 50])))


@every_set
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_confident_rows_keep_their_gradient(instruction_set: str, dtype: torch.dtype) -> None:
    """p of the true class is .999: rounded to bf16 before 1 is taken from it, nothing would be left."""
    logits = torch.zeros(1, 1000, dtype=dtype)
    logits[0, 3] = 13.8125
    with forced(instruction_set):
        check(Case(logits, 1000, torch.tensor([3])))


@every_set
def test_undefined_rows_are_nan_alone(instruction_set: str) -> None:
    """NaN, +inf or no logit at all: nll NaN in that row, and its neighbours as if it were not there."""
    logits = torch.randn(5, 1030, generator=torch.Generator().manual_seed(0))
    clean = logits.clone()
    logits[0, 1029] = float("nan")
    logits[1, 17] = float("inf")
    logits[2] = float("-inf")
    logits[3, :1028] = float("nan")
    targets = torch.tensor([5, 5, 5, 0, 5])
    with forced(instruction_set):
        nll, hits = native.BACKEND.row_pass(logits, targets, gradient=logits)
        want, _ = native.BACKEND.row_pass(clean, targets, gradient=clean)
    assert torch.isnan(nll[:4]).all()
    assert hits.tolist()[:4] == [False, False, False, True]
    assert nll[4] == want[4]
    assert torch.equal(logits[4], clean[4])
    assert torch.isnan(logits[:4]).any(1).all()


@every_set
def test_masked_classes(instruction_set: str) -> None:
    """A class of logit -inf has gradient 0; as the target, nll is inf and its gradient -1."""
    logits = torch.tensor([[0.0, float("-inf"), 0.0], [0.0, float("-inf"), 0.0]])
    with forced(instruction_set):
        nll, _ = native.BACKEND.row_pass(logits, torch.tensor([0, 1]), gradient=logits)
    np.testing.assert_allclose(nll[0].item(), np.log(2), rtol=1e-7)
    assert nll[1] == float("inf")
    assert logits.tolist() == [[-0.5, 0.0, 0.5], [0.5, -1.0, 0.5]]


@every_set
@pytest.mark.parametrize("columns", [2, 32])
def test_bfloat16_rounds_to_nearest_even_and_keeps_nan(instruction_set: str, columns: int) -> None:
    """Equal logits make every gradient exactly scale / columns: any float there is, halfway ones included."""
    high = np.arange(0, 2**16, 7, dtype=np.uint32) << np.uint32(16)
    bits = (high[:, None] | np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], dtype=np.uint32)).reshape(-1)
    wanted = bits.view(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        scale = torch.from_numpy(wanted * np.float32(columns))
        wide = scale / columns
    gradient = torch.zeros(len(scale), columns, dtype=torch.bfloat16)
    targets = torch.full((len(scale),), columns - 1)
    with forced(instruction_set):
        native.BACKEND.row_pass(gradient, targets, gradient=gradient, row_scale=scale)
    # Subnormal products may be flushed.
    kept = (wide == 0) | (wide.abs() >= 2.0**-120) | wide.isnan()
    want = wide.to(torch.bfloat16)[kept]
    for column in range(columns - 1):
        found = gradient[kept, column]
        assert torch.equal(found.isnan(), want.isnan())
        assert torch.equal(found.nan_to_num(), want.nan_to_num())


@every_set
def test_offsets_beyond_32_bits(instruction_set: str) -> None:
    """The second row starts 2^31 + 11 elements after the first; only the pages in use are ever made."""
    columns, stride = 50, 2**31 + 11
    whole = torch.empty(stride + columns, dtype=torch.bfloat16)
    rows = whole.as_strided((2, columns), (stride, 1))
    rows.copy_(torch.randn(2, columns, generator=torch.Generator().manual_seed(1)))
    small = rows.clone()
    targets = torch.tensor([3, 4])
    with forced(instruction_set):
        nll, _ = native.BACKEND.row_pass(rows, targets, gradient=rows)
        want, _ = native.BACKEND.row_pass(small, targets, gradient=small)
    assert torch.equal(nll, want)
    assert torch.equal(rows, small)


def test_instruction_sets_agree() -> None:
    """A million gradients: no two instruction sets differ by more than their roundings."""
    logits = torch.randn(32, 32003, generator=torch.Generator().manual_seed(2)) * 4
    targets = torch.arange(32)
    results = []
    for name in SETS:
        gradient = torch.empty_like(logits)
        with forced(name):
            nll, hits = native.BACKEND.row_pass(logits, targets, gradient=gradient)
        results.append((nll, hits, gradient))
    for nll, hits, gradient in results[1:]:
        torch.testing.assert_close(nll, results[0][0], rtol=2e-7, atol=2e-6)
        torch.testing.assert_close(gradient, results[0][2], rtol=3e-6, atol=0)
        assert torch.equal(hits, results[0][1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": torch.tensor([0, 10])}, r"targets\[1\] = 10 is outside -1 \.\. 9"),
        ({"targets": torch.tensor([-2, 0])}, r"targets\[0\] = -2 is outside"),
        ({"targets": torch.tensor([0, 1], dtype=torch.int32)}, "targets must be int64"),
        ({"targets": torch.tensor([0, 9, 1, 9])[::2]}, "targets must be contiguous"),
        ({"targets": torch.zeros(4, dtype=torch.int64)}, "must not be longer"),
        ({"rows": torch.tensor([0, 3])}, r"rows\[1\] = 3 is outside 0 \.\. 2"),
        ({"rows": torch.tensor([-1, 0])}, r"rows\[0\] = -1"),
        ({"rows": torch.tensor([0])}, r"rows must have the shape \[2\]"),
        ({"gradient": torch.empty(3, 9)}, "gradient must have the shape"),
        ({"gradient": torch.empty(3, 10, dtype=torch.bfloat16)}, "gradient must have the shape and dtype"),
        ({"gradient": torch.empty(10).expand(3, 10)}, "rows that do not overlap"),
        ({"row_scale": torch.ones(3)}, r"row_scale must have the shape \[2\]"),
        ({"softcap": -1.0}, "softcap must be positive"),
        ({"logits": torch.zeros(10, 3).t()}, "unit stride"),
        ({"logits": torch.zeros(3, 10, dtype=torch.float16)}, "float32 or bfloat16"),
        ({"logits": torch.zeros(3, 0)}, "at least one column"),
        ({"logits": torch.zeros(10)}, "two dimensions"),
    ],
)
def test_refuses_what_it_cannot_index(change: dict[str, object], message: str) -> None:
    arguments = {"logits": torch.zeros(3, 10), "targets": torch.tensor([0, 1])} | change
    with pytest.raises(ValueError, match=message):
        native.BACKEND.row_pass(**arguments)


def test_nothing_to_do() -> None:
    for logits in (torch.zeros(0, 5), torch.zeros(3, 5)):
        nll, hits = native.BACKEND.row_pass(logits, torch.zeros(0, dtype=torch.int64), gradient=logits)
        assert nll.shape == hits.shape == (0,)
    assert not logits.any()


def test_takes_tensors_that_require_gradients() -> None:
    logits = torch.zeros(2, 3, requires_grad=True)
    nll, _ = native.BACKEND.row_pass(logits, torch.tensor([0, 1]))
    assert not nll.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_dtypes_are_unavailable(dtype: torch.dtype) -> None:
    assert str(dtype) in native.BACKEND.unavailable(torch.device("cpu"), dtype)
    assert "cuda" in native.BACKEND.unavailable(torch.device("cuda"), torch.float32)
    assert native.BACKEND.unavailable(torch.device("cpu"), torch.bfloat16) is None
