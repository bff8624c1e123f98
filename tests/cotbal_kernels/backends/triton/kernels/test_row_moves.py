"""Gathering, scattering and rescaling rows; the sums over rows."""

import numpy as np
import pytest
import torch
import triton
from hypothesis import given, settings
from hypothesis import strategies as st

from cotbal_kernels import reduction, statistics
from cotbal_kernels.backends.triton.backend import BACKEND as triton_backend

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
interpretable = settings(max_examples=25) if triton.knobs.runtime.interpret else settings()


def planned(
    random: np.random.Generator, positions: int, count: int, padding: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ascending rows and targets; padding rows share an unsupervised position."""
    chosen = np.sort(random.permutation(positions)[:count])
    free = np.setdiff1d(np.arange(positions), chosen)
    rows = np.concatenate([chosen, np.repeat(free[:1], padding)]).astype(np.int64)
    targets = np.where(np.arange(len(rows)) < count, random.integers(0, 9, len(rows)), -1)
    return torch.from_numpy(rows), torch.from_numpy(targets)


@interpretable
@given(
    st.sampled_from(DTYPES),
    st.sampled_from(DTYPES),
    st.integers(1, 6),
    st.sampled_from([1, 7, 64, 100, 2048, 2500]),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_gather_and_scatter(
    device: torch.device,
    source_dtype: torch.dtype,
    dtype: torch.dtype,
    count: int,
    width: int,
    scaled: bool,
    seed: int,
) -> None:
    random = np.random.default_rng(seed)
    positions, padding = count + int(random.integers(1, 4)), int(random.integers(0, 3))
    rows, targets = (each.to(device) for each in planned(random, positions, count, padding))
    real = (targets >= 0).unsqueeze(1)
    # What padding points at may be anything; so may its scale.
    hidden = torch.from_numpy(random.standard_normal((positions, width + 3))).to(device, source_dtype)[
        :, :width
    ]
    if padding:
        hidden[rows[-1]] = torch.nan
    scale = torch.from_numpy(random.standard_normal(len(rows))).to(device, torch.float32) if scaled else None
    factor = 1.0 if scale is None else scale.unsqueeze(1)
    if scale is not None:
        scale = torch.where(targets >= 0, scale, torch.nan)

    gathered = triton_backend.gather_rows(hidden, rows, targets, scale, dtype, padding > 0)
    wanted = torch.where(real, hidden[rows].float() * factor, 0).to(dtype)
    assert torch.equal(gathered, wanted)

    like = torch.empty(positions, width, dtype=dtype, device=device)
    source = torch.where(real, torch.ones(len(rows), width, device=device), torch.nan).to(source_dtype)
    scattered = triton_backend.scatter_rows(source, rows, targets, scale, positions, dtype)
    expected = torch.zeros_like(like).index_copy_(
        0, rows[targets >= 0], (source.float() * factor).to(dtype)[targets >= 0]
    )
    assert torch.equal(scattered, expected)


@interpretable
@given(st.sampled_from(DTYPES), st.sampled_from([0, 1, 5, 16384, 16385]), st.sampled_from([1.0, 0.0, -2.5]))
def test_rescale(device: torch.device, dtype: torch.dtype, size: int, factor: float) -> None:
    values = torch.randn(size, generator=torch.Generator().manual_seed(size)).to(device, dtype)
    wanted = (values.float() * factor).to(dtype)
    assert triton_backend.rescale_(values, torch.tensor(factor, device=device)) is values
    assert torch.equal(values, wanted)


def test_rescale_by_one_reads_nothing(device: torch.device) -> None:
    values = torch.full((40,), torch.nan, device=device)
    values[3] = 2.0
    triton_backend.rescale_(values, torch.tensor(1.0, device=device))
    assert values[3] == 2.0


def test_rescale_refuses_strides(device: torch.device) -> None:
    with pytest.raises(ValueError, match="values has strides"):
        triton_backend.rescale_(torch.zeros(4, 4, device=device).t(), torch.tensor(2.0, device=device))


@interpretable
@given(
    st.sampled_from([0, 1, 5, 1024, 1500]),
    st.integers(1, 4),
    st.integers(1, 4),
    st.sampled_from([None, torch.float32, torch.float64]),
    st.integers(0, 2**32 - 1),
)
def test_statistics(
    device: torch.device, count: int, num_tasks: int, num_samples: int, weights: torch.dtype | None, seed: int
) -> None:
    random = np.random.default_rng(seed)
    targets = torch.from_numpy(random.integers(-1, 3, count))
    nll = torch.where(targets >= 0, torch.from_numpy(random.exponential(size=count)).float(), 0)
    hits = torch.from_numpy(random.random(count) < 0.5) & (targets >= 0)
    tasks = torch.from_numpy(random.integers(0, num_tasks, count))
    samples = torch.from_numpy(np.sort(random.integers(0, num_samples, count)))
    row_weights = None
    if weights is not None:
        row_weights = torch.where(targets >= 0, torch.from_numpy(random.exponential(size=count)), 0).to(
            weights
        )
    given = None if seed % 2 else torch.tensor(random.choice([7.5, 0.0, -1.0, np.inf]), dtype=torch.float64)
    arguments = (nll, hits, targets, tasks, samples, row_weights, given)
    options = (num_tasks, num_samples, "sum" if seed % 5 == 0 else "mean")
    wanted = statistics.row_statistics(*arguments, *options)
    here = tuple(None if each is None else each.to(device) for each in arguments)
    found = triton_backend.row_statistics(*here, *options)
    again = triton_backend.row_statistics(*here, *options)
    for name in wanted._fields:
        want, got = getattr(wanted, name), getattr(found, name)
        assert got.dtype == want.dtype, name
        torch.testing.assert_close(got, getattr(again, name), rtol=0, atol=0, equal_nan=True)
        if want.is_floating_point():
            # Sums in f64 in another order, then one rounding.
            allowed = count * 2.0**-52 + torch.finfo(want.dtype).eps
            assert torch.allclose(got.cpu(), want, rtol=allowed, atol=0, equal_nan=True), name
        else:
            assert torch.equal(got.cpu(), want), name


@interpretable
@given(
    st.sampled_from([1, 5, 1024, 1500]),
    st.sampled_from([None, torch.float32, torch.float64]),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_row_scale(
    device: torch.device, count: int, weights: torch.dtype | None, scaled: bool, seed: int
) -> None:
    random = np.random.default_rng(seed)
    rows = torch.arange(count, device=device)
    row_weights = None
    if weights is not None:
        row_weights = torch.from_numpy(random.exponential(size=count)).to(device, weights)
    upstream = torch.tensor(random.standard_normal(), dtype=torch.float32, device=device) if scaled else None
    normalizer = torch.tensor(random.exponential() + 0.1, dtype=torch.float64, device=device)
    arguments = (upstream, rows, row_weights, normalizer, "mean", torch.float32)
    # f64 inside, one rounding.
    torch.testing.assert_close(
        triton_backend.row_scale(*arguments), reduction.row_scale(*arguments), rtol=2.0**-23, atol=0
    )
