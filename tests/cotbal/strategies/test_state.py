"""What a strategy remembers: absent tasks, saved and restored state, eval mode, and bad arguments."""

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from support.tune.strategy_oracle import DwaDefinition, softmax_times_count
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from cotbal import strategies
from cotbal.method.weighing import combine_terms

TASKS = 3
# Windows short enough to be active within a few steps.
OPTIONS: dict[str, dict[str, Any]] = {
    "ew": {},
    "tla": {},
    "rlw": {"seed": 3},
    "dwa": {"window": 2},
    "igb": {"base_start": 3, "base_stop": 6},
    "uw-so": {"temperature": 0.7},
    "famo": {"learning_rate": 0.2},
    "coba": {"warmup": 3, "history": 4},
    "square": {},
    "fastmix": {"learning_rate": 0.2, "weight_decay": 0.01},
    "fixed": {"weights": [0.5, 1.0, 1.5]},
    "cotbal": {"weights": combine_terms([0.2, 0.1, 0.3], [0.1, 0.1, 0.0], [0.5, 0.1, 0.2])},
}
STEPS = 12
# Their weights depend on the tokens of the step: with none at all, there is nothing to weigh.
BY_TASK = ("tla", "uw-so", "famo", "coba", "fastmix")


def _make(name: str) -> strategies.Strategy:
    return strategies.get(name, TASKS, **OPTIONS[name])


def _statistics(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss sums and tokens of a step; every third step lacks a task."""
    random = torch.Generator().manual_seed(step)
    tokens = torch.randint(1, 500, (TASKS,), generator=random)
    if step % 3 == 2:
        tokens[step % TASKS] = 0
    return torch.rand(TASKS, generator=random, dtype=torch.float64) * 5 * tokens, tokens


def _run(strategy: strategies.Strategy, first: int, last: int) -> list[torch.Tensor]:
    weights = []
    for step in range(first, last):
        sums, tokens = _statistics(step)
        weights.append(strategy.begin_step(tokens))
        strategy.end_step(sums, tokens)
        if strategy.uses_validation and step % 2:
            strategy.take_alignment(sums - sums.mean(), tokens)
    return weights


def test_every_strategy_is_under_test() -> None:
    assert set(OPTIONS) == set(strategies.names())


@pytest.mark.parametrize("name", OPTIONS)
def test_a_run_resumed_at_any_step_goes_on_bit_for_bit(name: str) -> None:
    whole = _run(_make(name), 0, STEPS)
    for stop in range(STEPS + 1):
        strategy = _make(name)
        _run(strategy, 0, stop)
        file = io.BytesIO()
        torch.save(strategy.state_dict(), file)
        file.seek(0)
        restored = _make(name)
        restored.load_state_dict(torch.load(file, weights_only=True))
        for found, wanted in zip(_run(restored, stop, STEPS), whole[stop:], strict=True):
            assert torch.equal(found, wanted)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda strategy: pickle.loads(pickle.dumps(strategy))])
def test_a_copy_goes_its_own_way(name: str, duplicate: Any) -> None:
    strategy = _make(name)
    _run(strategy, 0, 7)
    twin = duplicate(strategy)
    before = {key: value.clone() for key, value in strategy.state_dict().items()}
    found = _run(twin, 7, STEPS)
    for key, value in strategy.state_dict().items():
        assert torch.equal(value, before[key])
    for one, other in zip(found, _run(strategy, 7, STEPS), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", OPTIONS)
def test_there_are_no_parameters_and_all_state_is_in_buffers(name: str) -> None:
    strategy = _make(name)
    assert list(strategy.parameters()) == []
    plain = {key: value for key, value in vars(strategy).items() if not key.startswith("_")}
    _run(strategy, 0, STEPS)
    assert {key: value for key, value in vars(strategy).items() if not key.startswith("_")} == plain
    assert set(strategy.state_dict()) == {key for key, _ in strategy.named_buffers()}


@pytest.mark.parametrize("name", OPTIONS)
def test_eval_mode_changes_nothing(name: str) -> None:
    strategy = _make(name)
    _run(strategy, 0, 8)
    before = {key: value.clone() for key, value in strategy.state_dict().items()}
    last = strategy.weights.clone()
    strategy.eval()
    for weights in _run(strategy, 20, 25):
        assert torch.equal(weights, last)
    for key, value in strategy.state_dict().items():
        assert torch.equal(value, before[key])
    strategy.train()
    _, tokens = _statistics(8)
    other = _make(name)
    _run(other, 0, 8)
    assert torch.equal(strategy.begin_step(tokens), other.begin_step(tokens))


@pytest.mark.parametrize("name", OPTIONS)
def test_weights_are_fixed_before_the_step_and_belong_to_the_caller(name: str) -> None:
    strategy = _make(name)
    _run(strategy, 0, 8)
    sums, tokens = _statistics(8)
    weights = strategy.begin_step(tokens)
    kept = weights.clone()
    strategy.end_step(sums, tokens)
    assert torch.equal(weights, kept)
    weights.fill_(7.0)
    assert not (strategy.weights == 7.0).any()


PRESENCE = st.lists(st.lists(st.booleans(), min_size=TASKS, max_size=TASKS), min_size=1, max_size=15)


@given(PRESENCE, st.integers(0, 2**31))
@example(presence=[[True] * TASKS] * 5 + [[True, False, True]], seed=0)
def test_dwa_gives_an_absent_task_the_ratio_of_the_steps_it_was_in(
    presence: list[list[bool]], seed: int
) -> None:
    strategy = strategies.get("dwa", TASKS, window=2)
    alone = [DwaDefinition(1, 2, 2.0) for _ in range(TASKS)]
    ratios = [1.0] * TASKS
    random = torch.Generator().manual_seed(seed)
    for present in presence:
        losses = (torch.rand(TASKS, generator=random, dtype=torch.float64) + 0.1).tolist()
        tokens = torch.tensor([10 * here for here in present])
        strategy.end_step(torch.tensor(losses, dtype=torch.float64) * tokens, tokens)
        for task in range(TASKS):
            if present[task]:
                (ratios[task],) = alone[task].ratios([losses[task]])
    wanted = softmax_times_count([ratio / 2 for ratio in ratios])
    assert strategy.begin_step(torch.ones(TASKS, dtype=torch.int64)).tolist() == pytest.approx(
        wanted, rel=1e-13
    )


@given(PRESENCE, st.integers(0, 2**31))
@example(presence=[[True] * TASKS] * 5 + [[True, False, True]], seed=0)
def test_igb_takes_the_mean_and_the_last_of_the_steps_a_task_was_in(
    presence: list[list[bool]], seed: int
) -> None:
    strategy = strategies.get("igb", TASKS, base_start=1, base_stop=4)
    random = torch.Generator().manual_seed(seed)
    base: list[list[float]] = [[] for _ in range(TASKS)]
    last = [0.0] * TASKS
    for step, present in enumerate(presence):
        losses = (torch.rand(TASKS, generator=random, dtype=torch.float64) + 0.1).tolist()
        tokens = torch.tensor([10 * here for here in present])
        strategy.end_step(torch.tensor(losses, dtype=torch.float64) * tokens, tokens)
        for task in range(TASKS):
            if present[task]:
                last[task] = losses[task]
                if 1 <= step < 4:
                    base[task].append(losses[task])
    wanted = [1.0] * TASKS
    known = [task for task in range(TASKS) if base[task]]
    if len(presence) > 4 and known:
        found = softmax_times_count([last[task] / (sum(base[task]) / len(base[task])) for task in known])
        for task, weight in zip(known, found, strict=True):
            wanted[task] = weight
    assert strategy.begin_step(torch.ones(TASKS, dtype=torch.int64)).tolist() == pytest.approx(
        wanted, rel=1e-13
    )


@pytest.mark.parametrize("name", ["dwa", "igb", "uw-so", "famo", "coba"])
@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_counts_as_absent(name: str, broken: float) -> None:
    found, wanted = _make(name), _make(name)
    for step in range(STEPS):
        sums, tokens = _statistics(step)
        sums[1] = broken if step == 4 else sums[1]
        found.end_step(sums, tokens)
        wanted.end_step(sums, tokens * torch.tensor([1, step != 4, 1]))
    assert torch.equal(found.weights, wanted.weights)
    assert torch.isfinite(found.weights).all()


@pytest.mark.parametrize("name", OPTIONS)
def test_a_step_without_any_token_leaves_the_statistics(name: str) -> None:
    strategy, other = _make(name), _make(name)
    for step in range(8):
        sums, tokens = _statistics(step)
        strategy.end_step(sums, tokens)
        other.end_step(sums, tokens)
        if name != "igb":  # Its base steps are counted, with tokens or without.
            strategy.end_step(torch.zeros(TASKS), torch.zeros(TASKS, dtype=torch.int64))
    weights = strategy.begin_step(torch.zeros(TASKS, dtype=torch.int64))
    assert torch.isfinite(weights).all()
    if name not in BY_TASK:
        assert torch.equal(weights, other.begin_step(torch.zeros(TASKS, dtype=torch.int64)))


@pytest.mark.parametrize(
    "name", ["ew", "tla", "dwa", "igb", "uw-so", "famo", "coba"]
)  # rlw draws on the CPU; the others act as ew does.
def test_nothing_is_read_back_from_the_device(name: str) -> None:
    """A fake tensor has no value, so whatever would wait for a device's value raises."""
    with FakeTensorMode():
        strategy = _make(name)
        tokens = torch.ones(TASKS, dtype=torch.int64)
        with pytest.raises(DataDependentOutputException):
            bool(tokens.any())
        strategy.begin_step(tokens)
        strategy.end_step(torch.ones(TASKS), tokens)


def test_rlw_keeps_its_generator_on_the_cpu_wherever_it_is_moved() -> None:
    strategy = strategies.get("rlw", TASKS)
    strategy.to("meta")
    assert strategy.weights.device.type == "meta"
    assert dict(strategy.named_buffers())["generator_state"].device.type == "cpu"


@pytest.mark.parametrize("name", OPTIONS)
def test_other_shapes_are_named(name: str) -> None:
    strategy = _make(name)
    with pytest.raises(ValueError, match=r"task_tokens has shape \(2,\); \(3,\) is needed for 3 task"):
        strategy.begin_step(torch.ones(2))
    with pytest.raises(ValueError, match=r"task_loss_sum has shape \(4,\)"):
        strategy.end_step(torch.ones(4), torch.ones(3))
    with pytest.raises(TypeError, match="task_tokens must be a tensor; found list"):
        strategy.begin_step([1, 2, 3])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "tasks", "options", "message"),
    [
        (
            "uw",
            2,
            {},
            "no strategy 'uw'; known strategies: ew, tla, rlw, dwa, igb, uw-so, famo, coba, square, fastmix, fixed",
        ),
        ("ew", 0, {}, "num_tasks is 0"),
        ("ew", True, {}, "num_tasks is True"),
        ("ew", 2, {"window": 3}, "strategy 'ew' has no option 'window'; its options are none"),
        ("dwa", 2, {"windows": 3}, r"no option 'windows'; its options are \['window', 'temperature'\]"),
        ("dwa", 2, {"window": 0}, "window is 0"),
        ("dwa", 2, {"window": 2.5}, "window is 2.5"),
        ("dwa", 2, {"temperature": 0.0}, "temperature is 0.0"),
        ("igb", 2, {"base_start": 5, "base_stop": 5}, "base_start is 5 and base_stop is 5"),
        ("igb", 2, {"base_start": -1}, "base_start is -1 and base_stop is 200"),
        ("uw-so", 2, {"temperature": -1.0}, "temperature is -1.0"),
        ("famo", 2, {"learning_rate": float("inf")}, "learning_rate is inf"),
        ("famo", 2, {"weight_decay": -0.1}, "weight_decay is -0.1"),
        ("coba", 2, {"warmup": 0}, "warmup is 0; a whole number of at least 1"),
        ("coba", 2, {"history": 1}, "history is 1; a whole number of at least 2"),
        ("coba", 2, {"tau": 0.0}, "tau is 0.0"),
        ("square", 2, {"exponent": 0}, "exponent is 0"),
        ("square", 2, {"exponent": 1.5}, "exponent is 1.5"),
        ("fixed", 2, {}, "strategy 'fixed' needs the option 'weights'"),
        ("fixed", 2, {"weights": [1.0]}, r"weights has shape \(1,\); \(2,\) is needed"),
        ("fixed", 2, {"weights": [1.0, -1.0]}, r"weights\[1\] is -1.0"),
        ("fixed", 2, {"weights": [float("nan"), 1.0]}, r"weights\[0\] is nan"),
        (
            "cotbal",
            2,
            {"weights": OPTIONS["cotbal"]["weights"]},
            r"weights has shape \(3,\); \(2,\) is needed",
        ),
    ],
)
def test_bad_options_are_named(name: str, tasks: int, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        strategies.get(name, tasks, **options)
