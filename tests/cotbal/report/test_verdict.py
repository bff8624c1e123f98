"""Who was ahead, by how much, and whether that is more than the seeds differ."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cotbal
from cotbal.report import Comparison, StrategyScores, judge

TASKS = ("caption", "vqa")
SCORES = st.floats(0.05, 2.0)


def compared(higher: tuple[bool, ...] = (True, True), **rows: list[tuple[float, float]]) -> Comparison:
    """One row per strategy and seed, seeds counted from 0."""
    return Comparison(
        TASKS,
        higher,
        tuple(
            StrategyScores(strategy, seed, dict(zip(TASKS, scores, strict=True)))
            for strategy, scored in rows.items()
            for seed, scores in enumerate(scored)
        ),
    )


@st.composite
def comparisons(draw: st.DrawFn) -> Comparison:
    pairs = st.tuples(SCORES, SCORES)
    seeds = draw(st.integers(1, 4))
    names = draw(st.lists(st.sampled_from(["ew", "cotbal", "dwa", "mine"]), min_size=1, unique=True))
    if draw(st.booleans()) or "ew" not in names:
        names.append("single")
    higher = draw(st.tuples(st.booleans(), st.booleans()))
    rows = {name: draw(st.lists(pairs, min_size=seeds, max_size=seeds)) for name in names}
    return compared(higher, **rows)


def test_a_lead_beyond_the_spread_is_told_with_its_numbers() -> None:
    judged = judge(
        compared(single=[(0.5, 0.4)], ew=[(0.50, 0.40), (0.51, 0.40)], cotbal=[(0.55, 0.42), (0.56, 0.42)])
    )
    verdict = judged.verdict
    assert (verdict.ahead, verdict.behind, verdict.outcome) == ("cotbal", "ew", "more than the spread")
    # dI of CoTBal: (10 + 5)/2 and (12 + 5)/2; of EW: 0 and (2 + 0)/2.
    assert verdict.lead == pytest.approx(8.0 - 0.5)
    assert verdict.spread == pytest.approx(1.0)
    assert verdict.sentence == (
        "CoTBal was ahead of EW by 7.50 percentage points of dI (dI +8.00% and +0.50% against single-task, means "
        "over 2 seeds), with 2 of 2 seeds in its favour. That is more than the spread between seeds (1.00 percentage "
        "points)."
    )


def test_a_lead_within_the_spread_shows_nothing_and_says_so() -> None:
    judged = judge(
        compared(single=[(0.5, 0.5)], ew=[(0.50, 0.5), (0.60, 0.5)], cotbal=[(0.45, 0.5), (0.64, 0.5)])
    )
    assert judged.verdict.outcome == "within the spread"
    assert judged.verdict.ahead == "ew"
    assert "1 of 2 seeds in its favour" in judged.verdict.sentence
    assert judged.verdict.sentence.endswith("so these units do not show which is better.")


def test_one_seed_has_no_spread() -> None:
    verdict = judge(compared(single=[(0.5, 0.5)], ew=[(0.5, 0.5)], cotbal=[(0.6, 0.5)])).verdict
    assert verdict.outcome == "unknown spread"
    assert math.isnan(verdict.spread)
    assert "does not show which is better" in verdict.sentence


def test_equal_strategies_are_level() -> None:
    same = [(0.5, 0.4), (0.6, 0.3)]
    verdict = judge(compared(single=[(0.5, 0.5)], ew=same, cotbal=same)).verdict
    assert (verdict.outcome, verdict.lead) == ("level", 0.0)
    assert "level" in verdict.sentence


def test_without_single_task_tuning_equal_weights_are_the_reference() -> None:
    judged = judge(compared(ew=[(0.4, 0.5), (0.6, 0.5)], cotbal=[(0.55, 0.5), (0.55, 0.5)]))
    assert judged.reference == "ew"
    assert judged.reference_scores == pytest.approx([0.5, 0.5])
    assert judged.result("ew").mean_improvement == pytest.approx(0.0)
    assert judged.result("cotbal").mean_improvement == pytest.approx(5.0)
    assert "against" not in judged.verdict.sentence


def test_without_any_reference_there_is_no_verdict() -> None:
    judged = judge(compared(cotbal=[(0.5, 0.5)], dwa=[(0.6, 0.5)]))
    assert judged.reference is None
    assert judged.verdict.outcome == "nothing to compare"
    assert judged.verdict.sentence.startswith("No verdict")


def test_a_lone_strategy_is_described() -> None:
    verdict = judge(compared(single=[(0.5, 0.5)], cotbal=[(0.6, 0.4)])).verdict
    assert verdict.outcome == "nothing to compare"
    assert verdict.sentence.startswith("CoTBal has dI 0.00% and dE 10.00% against single-task (one seed)")


def test_only_single_task_tuning_is_nothing_to_compare() -> None:
    assert judge(compared(single=[(0.5, 0.5)])).verdict.outcome == "nothing to compare"


def test_tasks_without_a_reference_above_zero_are_left_out_for_all() -> None:
    judged = judge(compared(single=[(0.0, 0.5)], ew=[(0.1, 0.5)], cotbal=[(0.9, 0.6)]))
    ((task, reason),) = judged.left_out
    assert task == "caption"
    assert "single-task score is 0" in reason
    assert judged.result("cotbal").mean_improvement == pytest.approx(20.0)
    assert np.isnan(judged.result("cotbal").changes[:, 0]).all()


def test_runs_that_lack_a_task_are_named_and_left_out() -> None:
    whole = compared(single=[(0.5, 0.5)], ew=[(0.5, 0.5)], cotbal=[(0.6, 0.5)])
    judged = judge(
        Comparison(TASKS, (True, True), (*whole.scores, StrategyScores("cotbal", 7, {"vqa": 0.9})))
    )
    assert judged.incomplete == ("CoTBal, seed 7: not scored on caption",)
    assert judged.result("cotbal").seeds == (0,)


def test_the_best_of_many_is_named_beside_the_pair() -> None:
    verdict = judge(
        compared(single=[(0.5, 0.5)], ew=[(0.5, 0.5)], cotbal=[(0.6, 0.5)], dwa=[(0.9, 0.5)])
    ).verdict
    assert {verdict.ahead, verdict.behind} == {"cotbal", "ew"}
    assert verdict.sentence.endswith("Of all 3 strategies, DWA had the highest dI (+40.00%).")


@given(comparisons())
def test_summaries_are_those_of_the_method_and_the_outcome_follows_from_them(comparison: Comparison) -> None:
    judged = judge(comparison)
    for result in judged.results:
        for row, seed in enumerate(result.seeds):
            found = next(r for r in comparison.of(result.strategy) if r.seed == seed)
            improvement, error = cotbal.improvement_and_error(
                [found.scores[task] for task in TASKS], judged.reference_scores, comparison.higher_is_better
            )
            assert result.improvement[row] == improvement
            assert result.error[row] == error
    verdict = judged.verdict
    if verdict.ahead is None or verdict.behind is None:
        assert verdict.outcome == "nothing to compare"
        return
    ahead, behind = judged.result(verdict.ahead), judged.result(verdict.behind)
    assert verdict.lead == ahead.mean_improvement - behind.mean_improvement >= 0
    if verdict.outcome == "more than the spread":
        assert verdict.lead > max(ahead.spread, behind.spread)
    if verdict.outcome == "within the spread":
        assert verdict.lead <= max(ahead.spread, behind.spread)
    assert (verdict.outcome == "unknown spread") == (len(ahead.seeds) == 1 and verdict.lead > 0)


@given(comparisons(), st.randoms())
def test_the_order_of_seeds_does_not_matter(comparison: Comparison, random: object) -> None:
    by_seed = tuple(sorted(comparison.scores, key=lambda row: -row.seed))
    shuffled = Comparison(TASKS, comparison.higher_is_better, by_seed)
    one, two = judge(comparison), judge(shuffled)
    for result in one.results:
        assert np.array_equal(result.improvement, two.result(result.strategy).improvement)


@given(comparisons())
def test_swapping_the_direction_of_both_ratios_turns_the_changes(comparison: Comparison) -> None:
    turned = Comparison(TASKS, tuple(not higher for higher in comparison.higher_is_better), comparison.scores)
    for one, two in zip(judge(comparison).results, judge(turned).results, strict=True):
        assert np.array_equal(one.changes, -two.changes)
