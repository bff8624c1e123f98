"""What only a GPU can show: graphs, streams and devices, large offsets, no waiting, and no cliff at odd shapes."""

from collections.abc import Iterator

import pytest
import torch

import cotbal_kernels as ck
from cotbal_kernels.backends.triton.backend import BACKEND as triton_backend

pytestmark = pytest.mark.gpu
BFLOAT16 = torch.bfloat16


@pytest.fixture
def no_waiting() -> Iterator[None]:
    """Any operation that makes the host wait for the device raises."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode(before)


def labels_of(positions: int, classes: int, share: float = 0.5, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (positions,), generator=generator)
    return torch.where(torch.rand(positions, generator=generator) < share, labels, -100)


def head(positions: int, width: int, classes: int, device: str = "cuda") -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(positions)
    hidden = torch.randn(positions, width, generator=generator).to(device, BFLOAT16).requires_grad_()
    weight = (
        torch.randn(classes, width, generator=generator)
        .mul(width**-0.5)
        .to(device, BFLOAT16)
        .requires_grad_()
    )
    return hidden, weight


def test_auto_is_triton() -> None:
    assert next(each.name for each in ck.implementations("cuda", BFLOAT16) if each.available) == "triton"


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("budget", [None, 0])
def test_nothing_waits_with_a_plan_from_the_host(
    request: pytest.FixtureRequest, reduction: ck.api.Reduction, budget: int | None
) -> None:
    tasks = torch.arange(96) % 3
    plan = ck.plan(labels_of(96, 1000), tasks, num_tasks=3).pin_memory()
    hidden, weight = head(96, 64, 1000)
    weights = torch.tensor([1.0, 2.0, 0.5], device="cuda")
    upstream = torch.randn(96 if reduction == "none" else (), device="cuda")

    def step() -> torch.Tensor:
        out = ck.linear_cross_entropy(
            hidden,
            weight,
            None,
            None,
            weights,
            plan=plan,
            reduction=reduction,
            impl="triton",
            memory_budget=budget,
        )
        out.loss.backward(upstream.reshape(out.loss.shape))
        return out.loss.detach()

    first = step()  # compiles
    hidden.grad = weight.grad = None
    torch.cuda.synchronize()
    request.getfixturevalue("no_waiting")
    again = step()
    torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(first, again)


def test_a_graph_replays_with_other_plans() -> None:
    capacity, positions, classes = 64, 96, 1000
    hidden, weight = head(positions, 64, classes)
    weights = torch.tensor([1.0, 2.0], device="cuda")

    def planned(seed: int) -> ck.Plan:
        tasks = torch.arange(positions) % 2
        return ck.plan(labels_of(positions, classes, 0.4, seed), tasks, num_tasks=2, capacity=capacity).to(
            "cuda"
        )

    static = planned(0)

    def step() -> tuple[torch.Tensor, ...]:
        out = ck.linear_cross_entropy(hidden, weight, None, None, weights, plan=static, impl="triton")
        return (*out[:6], *torch.autograd.grad(out.loss, (hidden, weight)))

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    for seed in range(3):
        other = planned(seed)
        for name in ("rows", "targets", "tasks", "samples"):
            getattr(static, name).copy_(getattr(other, name))
        graph.replay()
        torch.cuda.synchronize()
        for got, want in zip(captured, step(), strict=True):
            assert torch.equal(got, want)


def test_a_bad_target_in_a_replayed_graph_is_told_later() -> None:
    logits = torch.randn(4, 50, device="cuda")
    targets = torch.tensor([1, 2, 3, 4], device="cuda")
    work = logits.clone()
    triton_backend.row_pass(work, targets, gradient=work)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work.copy_(logits)
        nll, _ = triton_backend.row_pass(work, targets, gradient=work)
    targets[2] = 50
    graph.replay()
    torch.cuda.synchronize()
    assert torch.isnan(nll).tolist() == [False, False, True, False]
    with pytest.raises(ValueError, match=r"targets\[2\] was 50"):
        triton_backend.row_pass(work, targets)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_not_the_current_device() -> None:
    with torch.cuda.device(0):
        hidden, weight = head(32, 64, 500, "cuda:1")
        out = ck.linear_cross_entropy(hidden, weight, labels_of(32, 500).to("cuda:1"), impl="triton")
        out.loss.backward()
        assert torch.cuda.current_device() == 0
    wanted = ck.linear_cross_entropy(hidden, weight, labels_of(32, 500).to("cuda:1"), impl="torch")
    assert out.loss.device == torch.device("cuda:1")
    assert torch.allclose(out.loss, wanted.loss, rtol=1e-5)


def test_another_stream() -> None:
    logits = torch.randn(512, 32000, device="cuda", dtype=BFLOAT16)
    targets = torch.randint(0, 32000, (512,), device="cuda")
    wanted, _ = triton_backend.row_pass(logits, targets)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        later = logits * 1
        found, _ = triton_backend.row_pass(later, targets)
    torch.cuda.current_stream().wait_stream(stream)
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("in_place", [False, True])
def test_more_than_2_31_logits(in_place: bool) -> None:
    rows, columns = 2**31 // 32000 + 3, 32000
    needed = 2 * rows * columns * (1 if in_place else 2) + 2**30
    if torch.cuda.mem_get_info()[0] < needed:
        pytest.skip(f"needs {needed / 2**30:.0f} GiB of free device memory")
    logits = torch.zeros(rows, columns, device="cuda", dtype=BFLOAT16)
    tail = torch.randn(4, columns, device="cuda").to(BFLOAT16)
    logits[-4:] = tail
    targets = torch.full((rows,), -1, device="cuda")
    targets[-4:] = torch.tensor([0, 17, 31999, 5], device="cuda")
    gradient = logits if in_place else torch.full_like(logits, torch.nan)
    nll, hits = triton_backend.row_pass(logits, targets, gradient=gradient)
    alone = tail.clone()
    wanted, wanted_hits = triton_backend.row_pass(alone, targets[-4:].clone(), gradient=alone)
    assert torch.equal(nll[-4:], wanted)
    assert torch.equal(hits[-4:], wanted_hits)
    assert torch.equal(gradient[-4:], alone)
    # Rows without a target, the ones below 2^31 that a wrapped offset would hit among them.
    assert all(not bool(chunk.any()) for chunk in gradient[:-4].split(4096))


def test_many_rows_of_one_statistic() -> None:
    count = 200_000
    targets = torch.zeros(count, dtype=torch.int64, device="cuda")
    nll = torch.rand(count, device="cuda")
    hits = torch.rand(count, device="cuda") < 0.5
    sums = triton_backend.row_statistics(nll, hits, targets, targets, targets, None, None, 1, 1, "mean")
    assert sums.task_tokens.tolist() == [count]
    assert sums.task_correct.tolist() == [int(hits.sum())]
    assert sums.task_loss_sum.item() == pytest.approx(nll.double().sum().item(), rel=2.0**-23)


@pytest.mark.parametrize("columns", [32001, 151937])
def test_an_odd_vocabulary_costs_no_more(columns: int) -> None:
    """The row pass in place, on rows packed at the vocabulary, against the even vocabulary below it."""

    def milliseconds(width: int) -> float:
        logits = torch.zeros(2048, width, device="cuda", dtype=BFLOAT16)
        targets = torch.zeros(2048, dtype=torch.int64, device="cuda")
        times = []
        for _ in range(12):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            triton_backend.row_pass(logits, targets, gradient=logits)
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end))
        return sorted(times[2:])[5]

    even = columns // 64 * 64
    assert milliseconds(columns) <= 1.15 * milliseconds(even)
