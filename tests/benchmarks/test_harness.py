"""The harness measures what it says: wrong contenders are found, ratios and changes come out right."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import host, results, runner, timing
from benchmarks.cases import LossCase
from benchmarks.contenders import CONTENDERS, Contender
from benchmarks.inputs import LossInputs, make, truths
from benchmarks.runner import FLOOR, checked_step, run_case
from benchmarks.timing import peak_memory, summarise

CPU = torch.device("cpu")
CASE = LossCase("test", "tiny", tokens=64, hidden=16, vocab=50, supervised=0.25, tasks=3)


def test_a_small_case_is_measured_and_every_contender_is_right_or_says_why() -> None:
    entry = run_case(CASE, CPU, budget=0.1, minimum=2, names=["ours", "ours, torch", "stock", "Liger"])
    assert set(entry["contenders"]) == {"ours", "ours, torch", "stock", "stock (compacted)", FLOOR}
    assert entry["contenders"][FLOOR]["ratio_to_floor"] == 1
    assert "Liger" in entry["absent"]
    assert entry["rows"] == 16


def test_the_logits_level_case_is_measured_too() -> None:
    case = LossCase(
        "test", "tiny", tokens=64, hidden=0, vocab=50, supervised=0.25, tasks=3, logits_level=True
    )
    entry = run_case(case, CPU, budget=0.1, minimum=2, names=["ours", "stock", "torch fused"])
    assert {"ours", "stock", FLOOR} <= set(entry["contenders"])
    assert "not for logits" in entry["absent"]["torch fused"]


def test_a_contender_left_out_says_so() -> None:
    entry = run_case(replace(CASE, contenders=("ours",)), CPU, budget=0.1, minimum=2, names=["ours", "stock"])
    assert set(entry["contenders"]) == {"ours", FLOOR}
    assert "left out of this case" in entry["absent"]["stock"]


@pytest.mark.parametrize("bug", ["loss", "gradient", "gradient of hidden is not 0"])
def test_a_wrong_contender_is_reported_and_not_timed(bug: str) -> None:
    def build(inputs: LossInputs) -> Any:
        right = next(c for c in CONTENDERS if c.name == "stock").build(inputs)

        def step() -> torch.Tensor:
            loss = right()
            if bug == "loss":
                return loss * 1.01
            assert inputs.hidden.grad is not None
            if bug == "gradient":
                inputs.hidden.grad[inputs.labels != -100] *= 1.01
            else:
                inputs.hidden.grad[inputs.labels == -100] = 1e-30
            return loss

        return step

    inputs = make(CASE, CPU)
    outcome = checked_step(Contender("planted", build), inputs, truths(inputs)[False])
    assert isinstance(outcome, str)
    assert outcome.startswith("wrong: ")
    assert bug in outcome


@pytest.mark.parametrize("slow", [True, False])
def test_emulated_products_are_told_and_not_waited_for(slow: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever multiplies in bfloat16 is left out where that would take minutes; the floor is float32's products."""
    emulation = runner.Emulation(torch.bfloat16, 1000.0 if slow else 1e-9, 50.0)
    monkeypatch.setattr(runner, "emulated_products", lambda inputs: emulation)
    case = replace(CASE, dtype=torch.bfloat16)
    entry = run_case(case, CPU, budget=0.1, minimum=2, names=["ours", "stock"])
    assert {"ours", FLOOR} <= set(entry["contenders"])
    assert "50 x as long as in float32" in entry["floor"]
    assert ("stock" in entry["contenders"]) is not slow
    if slow:
        assert "would take about 64000 s a call" in entry["absent"]["stock"]
        assert "16000 s" in entry["absent"]["stock (compacted)"]


def test_peak_memory_is_exact_and_takes_replaced_gradients_as_given() -> None:
    assert peak_memory(lambda: torch.ones(2**20), CPU) == 2**22
    leaf = torch.ones(1000, requires_grad=True)

    def step() -> None:
        leaf.grad = None
        leaf.exp().sum().backward()

    step()
    counted = peak_memory(step, CPU)
    assert 2 * 4000 <= counted < 3 * 4000
    assert peak_memory(step, CPU, replaces=True) == counted - 4000


def test_pairs_tell_a_ratio_and_its_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both calls of a pair slow down alike: the ratio of each pair is 2 whatever the machine does."""
    clock = itertools.count()

    def seconds(step: Callable[[], float], device: torch.device) -> float:
        return step() * (1 + (next(clock) // 2) % 5)

    monkeypatch.setattr(timing, "_once", seconds)
    timings, comparison = timing.paired({"a": lambda: 2.0, "b": lambda: 1.0}, torch.device("cpu"), 20)
    assert comparison == {"first": "a", "second": "b", "ratio": 2.0, "lower": 2.0, "upper": 2.0, "pairs": 20}
    assert timings["a"].runs == timings["b"].runs == 20


@pytest.mark.parametrize("count", [1, 5, 6, 20, 36, 100])
def test_interval_of_a_median_covers_as_often_as_it_says(count: int) -> None:
    """Exactly, from the binomial distribution; with 5 values or fewer even the extremes cover less than 95 %."""
    outside = timing._outside(count)
    missed = 2 * sum(math.comb(count, k) for k in range(outside + 1)) / 2**count
    assert missed <= 0.05 or outside == 0
    one_more = missed + 2 * math.comb(count, outside + 1) / 2**count
    assert one_more > 0.05 or outside == (count - 1) // 2


def test_quartiles() -> None:
    timing = summarise([5.0, 1.0, 2.0, 3.0, 4.0], None)
    assert (timing.lower, timing.median, timing.upper, timing.runs) == (2.0, 3.0, 4.0, 5)


def _file(ratio: float, spread: float = 0.01) -> dict[str, Any]:
    timing = {"median": 1.0, "lower": 1 - spread, "upper": 1 + spread, "ratio_to_floor": ratio}
    return {"entries": [{"name": "case", "contenders": {"ours": timing}}]}


@pytest.mark.parametrize(("after", "beyond"), [(1.0, False), (1.03, True), (0.9, True)])
def test_comparison_tells_change_from_noise(after: float, beyond: bool) -> None:
    (change,) = results.compare(_file(1.0), _file(after))
    assert change.beyond_noise is beyond
    (noisy,) = results.compare(_file(1.0, spread=0.2), _file(after, spread=0.2))
    assert not noisy.beyond_noise


def test_results_round_trip_and_refuse_another_schema(tmp_path: Path) -> None:
    path = results.write("group", [{"name": "case"}], CPU, tmp_path)
    assert results.read(path)["entries"] == [{"name": "case"}]
    assert results.read(path)["machine"]["commit"]
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 0'))
    with pytest.raises(ValueError, match="schema 0 found, 1 expected"):
        results.read(path)


@pytest.mark.parametrize("multiple", [8, 128])
def test_compacted_rows_are_padded_with_ignored_ones(multiple: int) -> None:
    """For rivals that take multiples only; the truth is that of the rows without padding."""
    inputs = make(replace(CASE, tokens=60), CPU)
    bare, padded = inputs.compacted(), inputs.compacted(multiple)
    rows = len(bare.labels)
    assert len(padded.labels) == len(padded.hidden) == -(-rows // multiple) * multiple
    assert (padded.labels[rows:] == -100).all()
    assert torch.equal(padded.hidden[:rows], bare.hidden)
    stock = next(each for each in CONTENDERS if each.name == "stock")
    assert not isinstance(checked_step(stock, padded, truths(bare)[False]), str)


def test_whoever_raises_does_not_end_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the first call or in the middle of the timing; ours too, and a case without memory for its inputs."""
    calls = itertools.count()

    def at_once(inputs: LossInputs) -> Any:
        raise RuntimeError("planted at once")

    def later(inputs: LossInputs) -> Any:
        right = next(each for each in CONTENDERS if each.name == "stock").build(inputs)

        def step() -> torch.Tensor:
            if next(calls) >= 3:
                raise torch.OutOfMemoryError("planted later")
            return right()

        return step

    kept = [each for each in CONTENDERS if each.name == "stock"]
    planted = [Contender("ours, planted", at_once), Contender("late", later), *kept]
    monkeypatch.setattr(runner, "CONTENDERS", planted)
    entries = runner.run_cases(
        [replace(CASE, supervised=1.0), replace(CASE, tokens=-1)],
        CPU,
        lambda text: None,
        budget=0.1,
        minimum=3,
    )
    first, second = entries
    assert set(first["contenders"]) == {"stock", FLOOR}
    assert first["absent"]["ours, planted"] == "failed: RuntimeError: planted at once"
    assert first["absent"]["late"] == "failed: OutOfMemoryError: planted later"
    assert second["contenders"] == {}
    missed = runner.failures(entries)
    assert len(missed) == 2
    assert "ours, planted" in missed[0]


def test_small_calls_are_measured_on_the_host() -> None:
    entry = host.run_case(host.CASES[0], CPU, rounds=3)
    assert set(entry["contenders"]) == set(host.BASES)
    steps = host.small(host.CASES[1], CPU)
    # The same loss, computed in two ways.
    torch.testing.assert_close(steps[host.OURS](), steps[host.BY_HAND](), check_dtype=False)
