"""Every kernel, in every configuration that can be launched, compiled for GPUs that need not be here."""

import re
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import triton
from support.kernels.triton_binaries import TARGETS, Binary, compiled

from cotbal_kernels.backends.base import RowTerms
from cotbal_kernels.backends.triton import configs as triton_configs
from cotbal_kernels.backends.triton.backend import BACKEND as triton_backend

if triton.knobs.runtime.interpret:
    pytest.skip("kernels are interpreted in this process", allow_module_level=True)

every_target = pytest.mark.parametrize("target", TARGETS)
BFLOAT16 = torch.bfloat16


def every_term() -> RowTerms:
    """Penalties, shifts and outputs at once, of one row."""
    read, written = torch.zeros(3, 1).unbind(), torch.zeros(4, 1).unbind()
    return RowTerms(0.1, 1e-4, *read, *written)


@dataclass(frozen=True)
class Launch:
    """A row pass of one row; everything else as a user would meet it."""

    columns: int
    dtype: torch.dtype = BFLOAT16
    gradient: str = "in place"
    logit_scale: float = 1.0
    softcap: float | None = None
    rows: bool = False
    row_scale: bool = False
    # A matrix of rows as long as the vocabulary: with an odd one, no row but the first is aligned.
    packed: bool = False
    terms: bool = False

    def __call__(self) -> object:
        stride = self.columns if self.packed else -(-self.columns // 32) * 32
        logits = torch.zeros(2 * stride, dtype=self.dtype).as_strided((2, self.columns), (stride, 1))
        gradient = {
            "in place": logits,
            "none": None,
            "apart": torch.zeros(2, self.columns + 1, dtype=self.dtype)[:, 1:],
        }[self.gradient]
        return triton_backend.row_pass(
            logits,
            torch.tensor([0]),
            gradient=gradient,
            rows=torch.tensor([1]) if self.rows else None,
            row_scale=torch.ones(1) if self.row_scale else None,
            logit_scale=self.logit_scale,
            softcap=self.softcap,
            terms=every_term() if self.terms else None,
        )

    def __str__(self) -> str:
        flags = [self.gradient, f"cap {self.softcap}", f"scale {self.logit_scale}"]
        flags += [name for name in ("rows", "row_scale", "packed", "terms") if getattr(self, name)]
        return "-".join([str(self.columns), str(self.dtype), *flags]).replace("torch.", "").replace(" ", "_")


def limits(table: triton_configs.Table) -> list[int]:
    """One vocabulary of 16-bit logits for each row of a table; past the last limit, one of more than 250k."""
    return [262144 if groups is None else 8 * groups for groups, *_ in table]


ONE_BY_ONE = [
    *(Launch(columns) for columns in limits(triton_configs._HELD)),
    *(Launch(columns, softcap=30.0) for columns in limits(triton_configs._CAPPED)),
    *(Launch(columns, gradient="none") for columns in limits(triton_configs._VALUE)),
]
# The vocabularies people have, and each option at least twice, in the configurations they meet most.
REAL = [
    Launch(32000, packed=True),
    Launch(32001),
    Launch(32001, packed=True),
    Launch(32064, packed=True, row_scale=True),
    Launch(32000, torch.float16),
    Launch(32000, torch.float32),
    Launch(50257, packed=True, rows=True),
    Launch(128256, rows=True, row_scale=True),
    Launch(152064, row_scale=True),
    Launch(151937, torch.float16, packed=True),
    Launch(152064, torch.float32, packed=True),
    Launch(262147, packed=True),
    Launch(32000, gradient="none", rows=True),
]
ODD = [
    Launch(32001, torch.float16, packed=True, row_scale=True),
    Launch(256000, softcap=30.0, packed=True, rows=True),
    Launch(152064, logit_scale=0.0625, row_scale=True),
    Launch(49155, logit_scale=0.125, packed=True),
    Launch(256000, torch.float32, logit_scale=0.5, softcap=30.0),
    Launch(256000, gradient="none", logit_scale=0.5, softcap=30.0),
    Launch(32000, gradient="apart"),
    Launch(152064, torch.float32, gradient="apart", logit_scale=0.5),
    Launch(32000, terms=True, row_scale=True),
    Launch(32001, packed=True, terms=True, softcap=30.0),
    Launch(128256, gradient="none", terms=True),
]


def compile_one(target: str, call: Callable[[], object]) -> Binary:
    (binary,) = compiled(target, call)
    return binary


def tiles_held(launch: Launch, target: str) -> int:
    return triton_configs.row_config(
        launch.columns,
        launch.dtype.itemsize,
        gradient=launch.gradient != "none",
        capped=launch.softcap is not None,
        warp_size=TARGETS[target].warp_size,
    ).held


@every_target
@pytest.mark.parametrize("launch", ONE_BY_ONE + REAL, ids=str)
def test_no_register_is_spilled_and_accesses_are_whole(target: str, launch: Launch) -> None:
    binary = compile_one(target, launch)
    assert binary.spilled == 0
    held = tiles_held(launch, target)
    if target == "gfx942":
        assert binary.registers <= 128
        # 128 bits each, loads and stores: as many whole stores as tiles are held, and none of two bytes but those
        # of hits and of up to 15 columns at a row's edges.
        whole = [access for access in binary.tile_accesses if access.endswith("dwordx4")]
        assert any("load" in access for access in whole)
        stores = [access for access in whole if "store" in access]
        if launch.gradient != "none":
            assert len(stores) >= max(held, 1)
            halves = [access for access in binary.tile_accesses if access.endswith("store_short")]
            assert len(halves) <= 1
        return
    # 128 bits each. (LLVM may let the last held tile share its store with the loop over the rest.)
    assert binary.tile_accesses
    assert {access.rpartition("cache_hint")[2] for access in binary.tile_accesses} == {".v4.b32"}
    stores = [access for access in binary.tile_accesses if access.startswith("st")]
    assert len(stores) >= held
    assert bool(stores) == (launch.gradient != "none")


@every_target
@pytest.mark.parametrize("launch", ODD, ids=str)
def test_options_compile(target: str, launch: Launch) -> None:
    binary = compile_one(target, launch)
    if target != "gfx942":
        loads = [access for access in binary.tile_accesses if access.startswith("ld")]
        assert {access.rpartition("cache_hint")[2] for access in loads} == {".v4.b32"}


@every_target
def test_terms_that_are_not_asked_for_are_not_compiled(target: str) -> None:
    """Through the loop over a row go maximum, earlier maximum and sum; no argument of a term is ever read."""

    def carried(source: str) -> set[int]:
        return {len(names.split(",")) for names in re.findall(r"iter_args\(([^)]*)\)", source)}

    def uses(source: str) -> dict[str, int]:
        arguments = (
            "label_smoothing",
            "lse_square_scale",
            "softmax_shift",
            "target_shift",
            "lse",
            "mean",
            "entropy",
        )
        return {name: len(re.findall(rf"%{name}\b", source)) for name in arguments}

    plain = compile_one(target, Launch(32000)).source
    # The two numbers are in the signature; what is None is not even there.
    assert uses(plain) == dict.fromkeys(uses(plain), 0) | {"label_smoothing": 1, "lse_square_scale": 1}
    assert carried(plain) == {3}
    asked = compile_one(target, Launch(32000, terms=True, row_scale=True)).source
    assert all(count > 1 for count in uses(asked).values())
    assert carried(asked) == {5}


def test_rows_are_addressed_in_64_bits() -> None:
    source = compile_one("sm_90", Launch(32001, packed=True, rows=True)).source
    # The step from the buffer to a row; within a row 32 bits are enough.
    bases = ("tt.addptr %logits,", "tt.addptr %gradient,")
    lines = [line for line in source.splitlines() if any(base in line for base in bases)]
    assert lines
    assert all(line.split("loc(")[0].rstrip().endswith("i64") for line in lines), lines


@every_target
@pytest.mark.parametrize("dtype", [BFLOAT16, torch.float16, torch.float32])
def test_moving_rows(target: str, dtype: torch.dtype) -> None:
    hidden, source = torch.zeros(6, 4096, dtype=dtype), torch.zeros(4, 4096, dtype=dtype)
    rows, targets, scale = torch.arange(4), torch.zeros(4, dtype=torch.int64), torch.ones(4)
    calls: list[Callable[[], object]] = [
        lambda: triton_backend.gather_rows(hidden, rows, targets, None, dtype, True),
        lambda: triton_backend.gather_rows(hidden, rows, targets, scale, dtype, False),
        lambda: triton_backend.scatter_rows(source, rows, targets, scale, 6, dtype),
        lambda: triton_backend.scatter_rows(source[:, :3583], rows, targets, None, 6, dtype),
        lambda: triton_backend.rescale_(hidden, torch.ones(())),
    ]
    for call in calls:
        assert compile_one(target, call).spilled == 0


@every_target
@pytest.mark.parametrize("weights", [None, torch.float32, torch.float64])
def test_statistics(target: str, weights: torch.dtype | None) -> None:
    ids = torch.zeros(9, dtype=torch.int64)
    row_weights = None if weights is None else torch.ones(9, dtype=weights)
    binary = compile_one(
        target,
        lambda: triton_backend.row_statistics(
            torch.zeros(9), torch.zeros(9, dtype=torch.bool), ids, ids, ids, row_weights, None, 2, 3, "mean"
        ),
    )
    assert binary.spilled == 0
    assert "atomic" not in binary.source


def test_a_spill_would_be_seen() -> None:
    config = triton_configs.RowConfig(16, 512, 8, False, 40)
    logits = torch.zeros(1, 32000, dtype=BFLOAT16)
    binary = compile_one(
        "sm_90", lambda: triton_backend.row_pass(logits, torch.tensor([0]), gradient=logits, config=config)
    )
    assert binary.spilled > 0
