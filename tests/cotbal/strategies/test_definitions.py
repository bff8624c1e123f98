"""Every strategy against its definition, fed with losses that lag by one step."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.tune.strategy_oracle import (
    CobaDefinition,
    DwaDefinition,
    IgbDefinition,
    softmax_times_count,
    uw_so,
)
from torchjd.scalarization import DWA, FAMO

from cotbal import strategies
from cotbal.method.weighing import combine_terms

EPS = 2.0**-52
LOSSES = st.floats(0.05, 20.0)
TOKENS = st.integers(1, 5000)


@st.composite
def _runs(draw: st.DrawFn, *, steps: int = 12) -> tuple[list[list[float]], list[list[int]]]:
    """Mean losses and token counts of every task, step by step."""
    tasks = draw(st.integers(1, 5))
    rows = st.lists(LOSSES, min_size=tasks, max_size=tasks)
    counts = st.lists(TOKENS, min_size=tasks, max_size=tasks)
    length = draw(st.integers(1, steps))
    return [draw(rows) for _ in range(length)], [draw(counts) for _ in range(length)]


def _play(
    strategy: strategies.Strategy, losses: list[list[float]], tokens: list[list[int]]
) -> list[list[float]]:
    """The weights of every step, and of the one after the last."""
    weights = []
    for means, counts in zip(losses, tokens, strict=True):
        count = torch.tensor(counts)
        weights.append(strategy.begin_step(count).tolist())
        strategy.end_step(torch.tensor(means, dtype=torch.float64) * count, count)
    weights.append(strategy.begin_step(torch.tensor(tokens[-1])).tolist())
    return weights


def _budget(largest: float, window: int) -> float:
    """An exponent of size `largest` carries the rounding of two means of `window` losses; softmax a few more."""
    return (largest * (2 * window + 4) + 20) * EPS


@given(_runs(), st.integers(1, 4), st.floats(0.5, 5.0))
def test_dwa(run: tuple[list[list[float]], list[list[int]]], window: int, temperature: float) -> None:
    losses, tokens = run
    definition = DwaDefinition(len(losses[0]), window, temperature)
    wanted = [[1.0] * len(losses[0]), *(definition.weights(row) for row in losses)]
    found = _play(
        strategies.get("dwa", len(losses[0]), window=window, temperature=temperature), losses, tokens
    )
    for row, exact in zip(found, wanted, strict=True):
        assert row == pytest.approx(exact, rel=_budget(20 / 0.05 / temperature, window))


@given(_runs(), st.integers(0, 4), st.integers(1, 4))
def test_igb(run: tuple[list[list[float]], list[list[int]]], start: int, length: int) -> None:
    losses, tokens = run
    definition = IgbDefinition(len(losses[0]), start, start + length)
    wanted = [[1.0] * len(losses[0]), *(definition.weights(row) for row in losses)]
    strategy = strategies.get("igb", len(losses[0]), base_start=start, base_stop=start + length)
    for row, exact in zip(_play(strategy, losses, tokens), wanted, strict=True):
        assert row == pytest.approx(exact, rel=_budget(20 / 0.05, length))


def test_the_published_settings_are_the_defaults() -> None:
    dwa, igb = strategies.get("dwa", 2), strategies.get("igb", 2)
    assert isinstance(dwa, strategies.DynamicWeightAverage)
    assert isinstance(igb, strategies.ImprovableGapBalancing)
    assert (dwa.window, dwa.temperature) == (25, 2.0)
    assert (igb.base_start, igb.base_stop) == (100, 200)


@given(_runs())
def test_tla_makes_the_loss_the_mean_of_the_tasks_means(
    run: tuple[list[list[float]], list[list[int]]],
) -> None:
    losses, tokens = run
    present = [count if index % 2 == 0 or len(losses[0]) == 1 else 0 for index, count in enumerate(tokens[0])]
    count = torch.tensor(present, dtype=torch.float64)
    weights = strategies.get("tla", len(present)).begin_step(torch.tensor(present))
    sums = torch.tensor(losses[0], dtype=torch.float64) * count
    means = [mean for mean, number in zip(losses[0], present, strict=True) if number]
    wanted = math.fsum(means) / len(means)
    for divisor in ((weights * count).sum(), count.sum()):
        assert float((weights * sums).sum() / divisor) == pytest.approx(wanted, rel=20 * EPS)
    assert (weights[count == 0] == 0).all()


@given(_runs())
def test_ew_is_one_for_everyone(run: tuple[list[list[float]], list[list[int]]]) -> None:
    losses, tokens = run
    for row in _play(strategies.get("ew", len(losses[0])), losses, tokens):
        assert row == [1.0] * len(losses[0])


@given(st.integers(1, 8), st.integers(0, 2**31))
def test_rlw_is_a_softmax_of_normal_draws_from_its_seed(tasks: int, seed: int) -> None:
    strategy = strategies.get("rlw", tasks, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.ones(tasks, dtype=torch.int64)
    for _ in range(3):
        drawn = torch.randn(tasks, generator=generator, dtype=torch.float64).tolist()
        assert strategy.begin_step(tokens).tolist() == pytest.approx(softmax_times_count(drawn), rel=60 * EPS)


def test_rlw_draws_once_per_step_the_same_on_all_ranks_and_leaves_the_global_generator_alone() -> None:
    ranks = [strategies.get("rlw", 3, seed=5) for _ in range(2)]
    before = torch.get_rng_state()
    tokens = torch.tensor([1, 2, 3])
    rows = []
    for _ in range(4):
        first, second = (rank.begin_step(tokens) for rank in ranks)
        assert torch.equal(first, second)
        for rank in ranks:
            rank.end_step(torch.ones(3), tokens)
            assert torch.equal(rank.weights, first)
        rows.append(tuple(first.tolist()))
    assert len(set(rows)) == 4
    assert torch.equal(torch.get_rng_state(), before)
    other = strategies.get("rlw", 3, seed=6).begin_step(tokens)
    assert tuple(other.tolist()) not in rows


@given(_runs())
def test_fixed_weights_are_kept_as_they_are(run: tuple[list[list[float]], list[list[int]]]) -> None:
    losses, tokens = run
    weights = losses[0]
    for row in _play(strategies.get("fixed", len(weights), weights=weights), losses, tokens):
        assert row == weights


def test_cotbal_uses_the_measured_weights_in_the_order_of_the_data() -> None:
    measured = combine_terms([0.2, 0.1], [0.1, 0.1], [0.5, 0.1], tasks=["a", "b"])
    tokens = torch.tensor([1, 1])
    assert (
        strategies.get("cotbal", 2, weights=measured).begin_step(tokens).tolist() == measured.values.tolist()
    )
    turned = strategies.get("cotbal", 2, weights=measured, tasks=["b", "a"])
    assert turned.begin_step(tokens).tolist() == measured.values[::-1].tolist()
    with pytest.raises(ValueError, match="no weight for task 'c'"):
        strategies.get("cotbal", 2, weights=measured, tasks=["a", "c"])
    with pytest.raises(TypeError, match="weights must be TaskWeights; found list"):
        strategies.get("cotbal", 2, weights=[1.0, 1.0])


def _shares(weights: list[float], tokens: list[int]) -> list[float]:
    """How tasks count in the loss, as shares of 1, when their tokens have these weights."""
    counted = [weight * count for weight, count in zip(weights, tokens, strict=True)]
    assert math.fsum(counted) == pytest.approx(sum(tokens), rel=20 * EPS)  # both ways to normalize agree
    return [value / math.fsum(counted) for value in counted]


def _shares_of(strategy: strategies.Strategy, losses: list[list[float]], tokens: list[list[int]]) -> list:
    return [
        _shares(row, counts)
        for row, counts in zip(_play(strategy, losses, tokens), [*tokens, tokens[-1]], strict=True)
    ]


@given(_runs(), st.floats(0.5, 5.0))
def test_uw_so(run: tuple[list[list[float]], list[list[int]]], temperature: float) -> None:
    losses, tokens = run
    tasks = len(losses[0])
    found = _shares_of(strategies.get("uw-so", tasks, temperature=temperature), losses, tokens)
    wanted = [[1.0] * tasks, *(uw_so(row, temperature) for row in losses)]
    for row, exact in zip(found, wanted, strict=True):
        assert row == pytest.approx([w / tasks for w in exact], rel=_budget(20 / temperature, 1))


@given(_runs(), st.floats(0.001, 0.3), st.floats(0.0, 0.1))
def test_famo_is_torchjds_on_the_losses_of_successive_steps(
    run: tuple[list[list[float]], list[list[int]]], rate: float, decay: float
) -> None:
    losses, tokens = run
    tasks = len(losses[0])
    strategy = strategies.get("famo", tasks, learning_rate=rate, weight_decay=decay)
    found = _shares_of(strategy, losses, tokens)
    assert found[0] == pytest.approx([1 / tasks] * tasks)
    theirs = FAMO(tasks, lr=rate, weight_decay=decay).double()
    for step, row in enumerate(losses):
        values = torch.tensor(row, dtype=torch.float64, requires_grad=True)
        if step:
            theirs.update(values)
        theirs(values).backward()
        # Adam divides by the size of the gradient: where that is rounding, so is the step.
        assert found[step + 1] == pytest.approx(values.grad.tolist(), rel=1e-6 if tasks > 1 else 1e-12)  # type: ignore[union-attr]


@given(_runs(), st.integers(1, 4), st.integers(2, 6), st.floats(0.5, 6.0))
def test_coba(run: tuple[list[list[float]], list[list[int]]], warmup: int, history: int, tau: float) -> None:
    losses, tokens = run
    tasks = len(losses[0])
    strategy = strategies.get("coba", tasks, warmup=warmup, history=history, tau=tau)
    definition = CobaDefinition(tasks, warmup, history, tau)
    # A slope of rounding alone, among others like it, would decide everything: give both the same losses.
    rounded = [[x * n / n for x, n in zip(*row, strict=True)] for row in zip(losses, tokens, strict=True)]
    wanted = [[1 / tasks] * tasks, *(definition.weights(row) for row in rounded)]
    for row, exact in zip(_shares_of(strategy, losses, tokens), wanted, strict=True):
        assert row == pytest.approx(exact, rel=1e-9)


@given(_runs(), st.floats(0.001, 0.3), st.floats(0.0, 0.1))
def test_fastmix_climbs_on_what_a_step_is_worth(
    run: tuple[list[list[float]], list[list[int]]], rate: float, decay: float
) -> None:
    """The first-order gain of a step, differentiated by autograd and followed by torch's Adam."""
    alignments, tokens = run
    tasks = len(tokens[0])
    strategy = strategies.get("fastmix", tasks, learning_rate=rate, weight_decay=decay)
    logits = torch.zeros(tasks, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([logits], lr=rate, betas=(0.5, 0.999), weight_decay=decay)
    for row, counts in zip(alignments, tokens, strict=True):
        absent = 0 if tasks > 1 else None
        count = torch.tensor([0 if k == absent else n for k, n in enumerate(counts)])
        means = torch.tensor([0.0 if k == absent else a - 3 for k, a in enumerate(row)], dtype=torch.float64)
        shares = _shares(strategy.begin_step(torch.tensor(counts)).tolist(), counts)
        assert shares == pytest.approx(torch.softmax(logits, dim=0).tolist(), rel=1e-6)
        strategy.take_alignment(means * count, count)
        adam.zero_grad()
        (-(torch.softmax(logits, dim=0) * means).sum()).backward()
        adam.step()


@given(st.lists(st.lists(LOSSES, min_size=3, max_size=3), min_size=3, max_size=8), st.floats(0.5, 5.0))
def test_dwa_with_a_window_of_one_is_torchjds_by_epochs_of_one_step(
    losses: list[list[float]], temperature: float
) -> None:
    strategy = strategies.get("dwa", 3, window=1, temperature=temperature)
    found = _play(strategy, losses, [[5, 5, 5]] * len(losses))
    theirs = DWA(temperature=temperature).double()
    for step, row in enumerate(losses):
        values = torch.tensor(row, dtype=torch.float64, requires_grad=True)
        theirs(values).backward()
        if step >= 3:
            assert found[step] == pytest.approx(values.grad.tolist(), rel=1e-9)  # type: ignore[union-attr]
        theirs.step()


@given(_runs())
def test_weights_sum_to_the_number_of_tasks(run: tuple[list[list[float]], list[list[int]]]) -> None:
    losses, tokens = run
    tasks = len(losses[0])
    for name, options in {
        "ew": {},
        "rlw": {},
        "dwa": {"window": 1},
        "igb": {"base_start": 0, "base_stop": 1},
    }.items():
        for row in _play(strategies.get(name, tasks, **options), losses, tokens):
            assert sum(row) == pytest.approx(tasks, rel=tasks * 10 * EPS)
