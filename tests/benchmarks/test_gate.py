"""The regression gate: what may not grow, counted exactly, so that a slow or busy machine changes nothing.

Kernel launches are counted in tests/cotbal_kernels/backends/triton/kernels/test_launches.py, waits on a GPU in
tests/cotbal_kernels/test_on_gpu.py.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import cotbal_kernels as ck
from benchmarks.cases import LossCase
from benchmarks.contenders import CONTENDERS, ours, stock
from benchmarks.counts import Counts, count
from benchmarks.inputs import make
from benchmarks.timing import interleave

CPU = torch.device("cpu")
CASE = LossCase("gate", "gate", tokens=1280, hidden=64, vocab=2000, supervised=0.1, tasks=8)
IMPLEMENTATIONS = [
    pytest.param(
        found.name,
        marks=pytest.mark.skipif(not found.available, reason=f"{found.name}: {found.reason}"),
    )
    for found in ck.implementations(CPU, torch.float32)
    if found.name != "triton"
]
# Values read on the host: whether the task weights are legal; in plain torch also which rows need a closer look and
# whether any is padding. On a GPU none of them is.
READS = {"native": 1, "torch": 2}
# per supervised row: its nll, weight, hit, target, task and so on, rounded up
ROW_BYTES = 128


def counted(case: LossCase, impl: str) -> Counts:
    inputs = make(case, CPU)
    step = ours(impl, weighted=True)(inputs)
    step()
    inputs.clear()
    return count(step)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_three_products_over_supervised_rows_and_no_further_reads(impl: str, dtype: torch.dtype) -> None:
    found = counted(replace(CASE, dtype=dtype), impl)
    assert found.multiplications == 3 * CASE.rows * CASE.hidden * CASE.vocab
    assert found.reads.count("aten::_local_scalar_dense") == READS[impl]
    assert ("aten::nonzero" in found.reads) == (impl == "torch")


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_memory_is_that_of_the_supervised_logits_and_the_gradients(impl: str) -> None:
    """At the worst moment: the rows' logits (their gradient in place), their hidden states, and both gradients."""
    found = counted(CASE, impl)
    padded = -(-CASE.vocab // 32) * 32
    logits = CASE.rows * padded * 4
    gathered = CASE.rows * CASE.hidden * 4
    gradients = (CASE.tokens + CASE.vocab) * CASE.hidden * 4
    allowed = logits + 2 * gathered + gradients + ROW_BYTES * CASE.rows + 4096
    assert found.peak_bytes <= allowed
    assert gradients <= found.kept_bytes <= gradients + 4096


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_an_unsupervised_token_costs_its_zero_gradient_and_nothing_else(impl: str) -> None:
    few = counted(CASE, impl)
    many = counted(replace(CASE, tokens=2 * CASE.tokens, supervised=CASE.supervised / 2), impl)
    assert many.multiplications == few.multiplications
    assert many.peak_bytes - few.peak_bytes == CASE.tokens * CASE.hidden * 4


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_tasks_cost_their_sums_and_nothing_else(impl: str) -> None:
    few, many = (counted(replace(CASE, tasks=tasks), impl) for tasks in (1, 65))
    assert many.multiplications == few.multiplications
    assert abs(many.peak_bytes - few.peak_bytes) <= 64 * 128


def test_counting_sees_what_the_stock_path_does() -> None:
    inputs = make(CASE, CPU)
    step = stock(inputs)
    step()
    inputs.clear()
    found = count(step)
    assert found.multiplications == 3 * CASE.tokens * CASE.hidden * CASE.vocab
    assert found.peak_bytes > 2 * CASE.tokens * CASE.vocab * 4
    assert count(lambda: torch.arange(3).sum().item()).reads == ("aten::_local_scalar_dense",)


def test_ratios_of_one_run_stay_within_wide_bounds() -> None:
    """Medians of interleaved runs, at bounds several times what a quiet machine gives; see docs/benchmarks.md."""
    case = replace(CASE, hidden=256, vocab=8000)
    inputs = make(case, CPU)
    steps = {
        contender.name: contender.build(inputs)
        for contender in CONTENDERS
        if contender.name in ("ours", "ours, unweighted", "stock")
    }
    timings = interleave(steps, CPU, budget=5.0, minimum=7, maximum=15)
    assert timings["ours"].median < timings["stock"].median / 2
    assert timings["ours"].lower < 1.3 * timings["ours, unweighted"].upper
