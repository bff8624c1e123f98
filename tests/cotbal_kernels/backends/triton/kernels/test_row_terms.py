"""What the Triton row pass computes beyond the nll, against the formulas in NumPy float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import cotbal_kernels as ck
from cotbal_kernels.backends.base import RowTerms
from cotbal_kernels.backends.triton import kernels as triton_kernels
from cotbal_kernels.backends.triton.backend import BACKEND as triton_backend
from cotbal_kernels.backends.triton.configs import RowConfig

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ROWS, SMOOTHING, SQUARE = 4, 0.2, 0.05
# Tiles that stay in registers, tiles that are read twice, and both.
SPREADS = {
    "held": RowConfig(1, 32, 3, False),
    "streamed": RowConfig(1, 32, 0, True),
    "both": RowConfig(1, 32, 1, True),
}
HALF_ULP = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}


def expected(
    raw: np.ndarray, target: int, logit_scale: float, softcap: float | None, given: dict[str, float]
) -> Any:
    """lse, mean, entropy, peak and the gradient of one row of raw logits, from `RowTerms`' formulas."""
    z, slope = logit_scale * raw, np.full_like(raw, logit_scale)
    if softcap is not None:
        bent = np.tanh(z / softcap)
        z, slope = softcap * bent, slope * (1 - bent**2)
    lse = np.logaddexp.reduce(z)
    log_p = z - lse
    p = np.exp(log_p)
    scale = given["row_scale"]
    gradient = p * (
        scale * (1 + 2 * SQUARE * lse) + given["softmax_shift"] + given["entropy_scale"] * log_p
    ) - scale * SMOOTHING / len(z)
    gradient[target] -= scale * (1 - SMOOTHING) + given["target_shift"]
    return lse, z.mean(), -(p * log_p).sum(), z.max(), gradient * slope


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("columns", "softcap", "logit_scale"), [(96, None, 1.0), (91, 4.0, 0.5), (9, None, -1.5)]
)
def test_terms_match_float64(
    device: torch.device,
    columns: int,
    softcap: float | None,
    logit_scale: float,
    dtype: torch.dtype,
    spread: str,
) -> None:
    """Rows that begin anywhere, a padding row among them, whose terms are NaN and of which nothing is said."""
    generator = torch.Generator().manual_seed(columns)
    stride = columns + (0 if columns == 96 else 5)
    logits = torch.randn(ROWS, stride, generator=generator).mul(3).to(dtype)[:, :columns]
    targets = torch.tensor([columns - 1, 0, -1, columns // 2])
    vectors = {
        name: torch.randn(ROWS, generator=generator).masked_fill(targets < 0, torch.nan)
        for name in ("row_scale", "softmax_shift", "target_shift", "entropy_scale")
    }
    here = {name: value.to(device) for name, value in vectors.items()}
    written = {
        name: torch.full((ROWS,), torch.nan, device=device) for name in ("lse", "mean", "entropy", "peak")
    }
    gradient = torch.full((ROWS, columns), torch.nan, dtype=dtype, device=device)
    triton_backend.row_pass(
        logits.to(device),
        targets.to(device),
        gradient=gradient,
        row_scale=here.pop("row_scale"),
        logit_scale=logit_scale,
        softcap=softcap,
        terms=RowTerms(SMOOTHING, SQUARE, **here, **written),
        config=SPREADS[spread],
    )
    for row, target in enumerate(targets.tolist()):
        if target < 0:
            assert [value[row].item() for value in written.values()] == [0.0] * 4
            assert not gradient[row].any()
            continue
        raw = logits[row].double().numpy()
        given = {name: value[row].item() for name, value in vectors.items()}
        *wanted, slopes = expected(raw, target, logit_scale, softcap, given)
        for (name, value), exact in zip(written.items(), wanted, strict=True):
            # Sums of about a hundred numbers of size 10 in f32.
            assert value[row].item() == pytest.approx(exact, abs=1e-5, rel=1e-5), name
        allowed = HALF_ULP[dtype] * np.abs(slopes) + 4e-5
        assert (np.abs(gradient[row].double().cpu().numpy() - slopes) <= allowed).all()


def test_masked_classes_add_nothing(device: torch.device) -> None:
    logits = torch.tensor([[1.0, 1.0, -torch.inf, -torch.inf]], device=device)
    entropy = torch.full((1,), torch.nan, device=device)
    gradient = torch.full_like(logits, torch.nan)
    triton_backend.row_pass(
        logits,
        torch.tensor([0], device=device),
        gradient=gradient,
        terms=RowTerms(entropy_scale=torch.ones(1, device=device), entropy=entropy),
    )
    assert entropy.item() == pytest.approx(np.log(2), abs=1e-6)
    assert torch.isfinite(gradient).all()
    assert gradient[0, 2:].tolist() == [0.0, 0.0]


def test_they_take_no_launch_of_their_own(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same kernels as without, forward and backward, whatever is asked for."""
    names: list[str] = []
    kind = type(triton_kernels.statistics_kernel)
    original = kind.run

    def run(kernel: Any, *arguments: Any, **options: Any) -> Any:
        names.append(kernel.fn.__name__)
        return original(kernel, *arguments, **options)

    monkeypatch.setattr(kind, "run", run)
    labels = torch.tensor([3, -100, 5, 6])
    plan = ck.plan(labels, num_tasks=1).to(device)

    def launches(**options: Any) -> list[str]:
        names.clear()
        hidden = torch.randn(4, 8, device=device).requires_grad_()
        weight = torch.randn(40, 8, device=device).requires_grad_()
        out = ck.linear_cross_entropy(hidden, weight, plan=plan, impl="triton", **options)
        out.loss.backward()
        return list(names)

    plain = launches()
    assert plain.count("row_kernel") == 1
    asked = launches(
        label_smoothing=0.1, lse_square_scale=1e-4, token_outputs=("entropy", "log_probabilities")
    )
    assert asked == plain
