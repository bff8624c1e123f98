"""The lead's interval: what it covers, and where it cannot be known."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.pages.made_reports import made_report

from cotbal.report.inputs import Comparison, StrategyScores
from cotbal.report.paired import lead_interval
from cotbal.report.verdict import judge
from cotbal.report.write import write_report

TASKS = ("caption", "loss")
HIGHER = (True, False)


def drawn(
    random: np.random.Generator,
    *,
    lead: float = 0.0,
    seeds: int = 3,
    samples: int = 200,
    spread: float = 0.01,
) -> Comparison:
    """Two strategies against single-task tuning; `lead` is how much better the first is, as a share of the score."""
    ease = {task: random.random(samples) for task in TASKS}
    rows = []
    for strategy, better in (("single", 0.0), ("ew", 0.0), ("cotbal", lead)):
        for seed in range(seeds):
            scored = {}
            for task, higher in zip(TASKS, HIGHER, strict=True):
                level = 0.5 * (1 + (better if higher else -better)) + spread * random.standard_normal()
                luck = np.where(random.random(samples) < 0.5, ease[task], random.random(samples))
                scored[task] = (luck < level).astype(float)
            means = {task: float(values.mean()) for task, values in scored.items()}
            rows.append(StrategyScores(strategy, seed, means, scored))
    return Comparison(TASKS, HIGHER, tuple(rows))


def test_the_interval_is_around_the_lead_that_is_told() -> None:
    found = drawn(np.random.default_rng(0), lead=0.3)
    verdict = judge(found).verdict
    assert (verdict.ahead, verdict.behind, verdict.outcome) == ("cotbal", "ew", "more than the spread")
    assert verdict.interval is not None
    low, high = verdict.interval
    assert 0 < low < verdict.lead < high
    assert ": more than the chance of seeds and samples explains. " in verdict.sentence
    assert verdict.sentence.endswith("for these task weights; another preparation could give others.")
    assert "Paired by seed and test sample, the lead lies between +" in verdict.sentence


def test_a_lead_that_chance_explains_shows_nothing() -> None:
    verdict = judge(drawn(np.random.default_rng(1))).verdict
    assert verdict.outcome == "within the spread"
    assert verdict.interval is not None
    assert verdict.interval[0] < 0 < verdict.interval[1]
    assert verdict.sentence.endswith("these units do not show which is better.")


@pytest.mark.parametrize("seeds", [2, 5])
def test_the_interval_holds_the_truth_about_as_often_as_it_says(seeds: int) -> None:
    random = np.random.default_rng(seeds)
    trials = 150
    covered = 0
    for _ in range(trials):
        found = drawn(random, lead=0.1, seeds=seeds, spread=0.02)
        interval = lead_interval(found, "cotbal", "ew", "single", TASKS)
        assert interval is not None
        covered += interval[0] <= 10.0 <= interval[1]
    assert 0.85 - 4 * np.sqrt(0.1 * 0.9 / trials) <= covered / trials


def test_the_same_draws_serve_both_strategies() -> None:
    """A strategy that answers every sample as the other does, and one more in ten, is ahead for certain."""
    found = drawn(np.random.default_rng(0), seeds=2, spread=0.0)
    rows = []
    for row in found.of("ew"):
        better = {
            t: np.where(np.arange(200) % 10 == 0, float(h), row.samples[t])
            for t, h in zip(TASKS, HIGHER, strict=True)
        }
        rows.append(
            StrategyScores("cotbal", row.seed, {t: float(v.mean()) for t, v in better.items()}, better)
        )
    paired = Comparison(TASKS, HIGHER, (*found.of("single"), *found.of("ew"), *rows))
    shuffled = [
        replace(row, samples={t: np.random.default_rng(0).permutation(v) for t, v in row.samples.items()})
        for row in rows
    ]
    unpaired = Comparison(TASKS, HIGHER, (*found.of("single"), *found.of("ew"), *shuffled))
    widths = [
        np.diff(lead_interval(c, "cotbal", "ew", "single", TASKS) or (0, 0))[0] for c in (paired, unpaired)
    ]
    assert widths[0] < widths[1]


@pytest.mark.parametrize("case", ["one seed", "no samples", "reference without samples", "no task"])
def test_nothing_is_told_where_it_cannot_be_known(case: str) -> None:
    found = drawn(np.random.default_rng(0), seeds=1 if case == "one seed" else 2)
    if case in ("no samples", "reference without samples"):
        lacking = ("single",) if case.startswith("reference") else ("ew", "cotbal", "single")
        rows = tuple(replace(row, samples={}) if row.strategy in lacking else row for row in found.scores)
        found = replace(found, scores=rows)
    assert lead_interval(found, "cotbal", "ew", "single", () if case == "no task" else TASKS) is None


def test_samples_stay_out_of_the_report_for_machines(tmp_path: Path) -> None:
    found = drawn(np.random.default_rng(0))
    report = made_report(2)
    tasks = tuple(replace(task, name=name) for task, name in zip(report.tasks, TASKS, strict=True))
    write_report(
        replace(
            report, tasks=tasks, scores=None, measurement=None, weights=None, curves=(), comparison=found
        ),
        tmp_path,
    )
    stored = json.loads((tmp_path / "report.json").read_text())
    assert stored["comparison"]["scores"][0]["samples"] == {}
    assert len(stored["verdict"]["interval"]) == 2
