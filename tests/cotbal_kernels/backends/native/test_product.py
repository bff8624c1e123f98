"""The native matrix products, each instruction set of this machine against NumPy float64."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given
from support.kernels.loss_contract import check as check_loss
from support.kernels.loss_strategies import loss_cases
from support.kernels.product_cases import ProductCase, exact_product, factor, product_cases
from support.kernels.row_cases import forced

native = pytest.importorskip("cotbal_kernels.backends.native.backend")
if native.missing() is not None:
    pytest.skip(str(native.missing()), allow_module_level=True)
from cotbal_kernels.backends.native import _native  # noqa: E402

SETS = [name for name, supported in native.instruction_sets().items() if supported]
every_set = pytest.mark.parametrize("instruction_set", SETS)


@contextmanager
def products_by(choice: str) -> Iterator[None]:
    """COTBAL_CPU_PRODUCTS for a while."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COTBAL_CPU_PRODUCTS", choice)
        yield


def check(case: ProductCase) -> torch.Tensor:
    value, allowed = exact_product(case)
    storage = case.storage()
    native.product_(case.left, case.right, case.window(storage), accumulate=case.accumulate)
    off = abs(case.window(storage).to(torch.float64).numpy() - value)
    assert (off <= allowed).all(), f"off by up to {(off / allowed).max():.3g} x what is allowed"
    # Nothing beside the window was written.
    assert storage[:, case.shape[1] :].isnan().all()
    return storage


@every_set
@given(case=product_cases())
def test_matches_float64(instruction_set: str, case: ProductCase) -> None:
    with forced(instruction_set):
        check(case)


# Left shared and right shared; several slabs of several blocks; fewer lanes than a tile; more pieces than threads.
LARGE = [(281, 700, 4500), (700, 281, 4500), (3, 2100, 1500), (2100, 3, 1500), (40, 1030, 33)]


@every_set
@pytest.mark.parametrize("shape", LARGE)
@pytest.mark.parametrize("out", ["written", "added to", "bfloat16"])
def test_any_number_of_threads_gives_the_same_bits(
    instruction_set: str, shape: tuple[int, int, int], out: str
) -> None:
    rows, columns, inner = shape
    case = ProductCase(
        factor(rows, inner, torch.float32, False, 0, 0),
        factor(columns, inner, torch.bfloat16, True, 0, 1),
        torch.bfloat16 if out == "bfloat16" else torch.float32,
        out == "added to",
    )
    before = torch.get_num_threads()
    results = []
    try:
        with forced(instruction_set):
            for threads in (1, 2, 3, 64):
                torch.set_num_threads(threads)
                results.append(check(case))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(result, results[0]) for result in results)


def test_infinities_and_nans_stay_in_their_rows_and_columns() -> None:
    """Panels are filled up with zeros, and zero times infinity must reach no value that exists."""
    left, right = torch.ones(7, 5), torch.ones(9, 5)
    left[2, 3], right[4, 1] = float("inf"), float("nan")
    found = torch.empty(7, 9)
    native.product_(left, right, found)
    wanted = left @ right.t()
    assert torch.equal(found.isnan(), wanted.isnan())
    assert torch.equal(found.nan_to_num(), wanted.nan_to_num())


@pytest.mark.parametrize("shape", [(0, 3, 2), (3, 0, 2), (3, 2, 0)])
def test_an_empty_sum_is_zero(shape: tuple[int, int, int]) -> None:
    rows, columns, inner = shape
    out = torch.full((rows, columns), float("nan"))
    native.product_(torch.ones(rows, inner), torch.ones(columns, inner), out)
    assert torch.equal(out, torch.zeros(rows, columns))
    out.fill_(2.0)
    native.product_(torch.ones(rows, inner), torch.ones(columns, inner), out, accumulate=True)
    assert (out == 2.0).all()


ONES = torch.ones(4, 6)
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "inner sizes": ({"right": torch.ones(5, 7)}, "right must have as many columns as left"),
    "dimensions": ({"left": torch.ones(6)}, "left must have two dimensions"),
    "dtype": ({"left": ONES.double()}, "left must be float32 or bfloat16"),
    "strides": ({"left": torch.ones(8, 12)[::2, ::2]}, "left must have unit stride along one"),
    "empty": ({"left": torch.ones(0, 6), "out": torch.ones(0, 5)}, "must not be empty"),
    "rows of the output": ({"out": torch.ones(3, 5)}, "out must have a row for each"),
    "stride of the output": ({"out": torch.ones(5, 4).t()}, "out must have unit stride"),
    "overlapping rows": ({"out": torch.ones(5).expand(4, 5)}, "rows that do not overlap"),
    "dtype of the output": ({"out": torch.ones(4, 5).double()}, "out must be float32 or bfloat16"),
    "a narrow sum": ({"out": torch.ones(4, 5).bfloat16(), "accumulate": True}, "must be float32 to be added"),
    "workspace": ({"workspace": torch.ones(3)}, "workspace must have the shape"),
    "threads": ({"threads": 0}, "threads must be at least 1"),
    "instruction set": ({"isa": "mmx"}, "'mmx' is not in this build"),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {"left": ONES, "right": torch.ones(5, 6), "out": torch.zeros(4, 5)}
    size = _native.product_workspace(**good, threads=1, isa="")
    good |= {"accumulate": False, "workspace": torch.empty(size), "threads": 1, "isa": ""}
    _native.product(**good)
    assert torch.equal(good["out"], torch.full((4, 5), 6.0))
    with pytest.raises(ValueError, match=message):
        _native.product(**(good | changes))


@pytest.mark.parametrize("choice", ["own", "torch"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_loss_keeps_its_contract_with_either(choice: str, dtype: torch.dtype) -> None:
    """Whichever this processor would use by itself."""

    @given(case=loss_cases("linear", dtype))
    def keeps(case: Any) -> None:
        check_loss(case, "native")

    with products_by(choice):
        keeps()


def test_who_multiplies() -> None:
    with products_by("own"), forced("portable"):
        assert native.own_product(torch.float32) is native.product_
        assert native.own_product(torch.bfloat16) is None
    with products_by("torch"):
        assert native.own_product(torch.float32) is None
    with products_by(""), forced("portable"):
        assert native.own_product(torch.float32) is None
    with products_by(""), forced(""):
        own = native.instruction_set() != "portable" and not _native.is_intel()
        assert (native.own_product(torch.float32) is not None) == own
        assert (native.own_product(torch.float32, (8, 1024, 4096)) is not None) == own
        # Too few rows, too few multiplications.
        assert native.own_product(torch.float32, (7, 32000, 4096)) is None
        assert native.own_product(torch.float32, (64, 1024, 256)) is None
    with products_by("mkl"), pytest.raises(ValueError, match=r"COTBAL_CPU_PRODUCTS='mkl'.*'own', 'torch'"):
        native.own_product(torch.float32)
