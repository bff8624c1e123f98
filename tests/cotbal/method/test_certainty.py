"""What is said of the weights' certainty, on whole measurements with known truth."""

import warnings

import numpy as np
import pytest

from cotbal.method.certainty import certainty_of, heavier, noncentrality
from cotbal.method.measurement import measure
from cotbal.method.scores import ScoreTable
from cotbal.method.undefined import UndefinedContributionsWarning
from cotbal.method.weighing import weigh
from cotbal.tasks import plus_model

TASKS = ("a", "b", "c")


def preparations(
    *, seeds: int, samples: int, deviation: float = 0.0, unequal: float = 0.0, start: int = 0
) -> ScoreTable:
    """Preparations of three tasks: one that helps, one that is hard, `unequal` times as much; one seed is a table."""
    random = np.random.default_rng(start)
    ease = {task: random.random(samples) for task in TASKS}
    tables = {}
    for seed in range(seeds):
        scores: dict[str, dict[str, list[float]]] = {}
        for model in ("mini", *map(plus_model, TASKS)):
            scores[model] = {}
            for task in TASKS:
                level = 0.75 if model == plus_model(task) else 0.48
                level += unequal * 0.1 * (model == "plus_a") * (task != "a")
                level -= unequal * 0.2 * (task == "c") * (model != "plus_c")
                level += deviation * random.standard_normal()
                luck = np.where(random.random(samples) < 0.5, ease[task], random.random(samples))
                scores[model][task] = (luck < level).astype(float).tolist()
        tables[seed] = ScoreTable.from_samples(scores)
    return ScoreTable.from_seeds(tables)


def test_the_mean_over_seeds_is_the_mean_of_what_each_finds() -> None:
    table = preparations(seeds=3, samples=300, deviation=0.02, unequal=1.0)
    found = measure(table, replicates=200)
    alone = [measure(table.of_seed(seed), replicates=200) for seed in table.seeds]
    for name in ("contributions", "outward", "inward", "difficulty", "gains", "mini", "plus"):
        wanted = np.mean([getattr(one, name) for one in alone], axis=0)
        np.testing.assert_allclose(getattr(found, name), wanted, rtol=1e-12)
    weights = weigh(found)
    np.testing.assert_allclose(weights.values, np.mean([weigh(one).values for one in alone], axis=0))
    assert weights.values.sum() == pytest.approx(3)
    assert weights.provenance.seeds == (0, 1, 2)
    assert weights.provenance.scores_sha256 == table.sha256
    for name in ("gain", "outward", "inward", "difficulty"):
        low, high = getattr(found, f"{name}_intervals").T
        values = getattr(found, "gains" if name == "gain" else name)
        assert ((low < values) & (values < high)).all()
    off = ~np.eye(3, dtype=bool)
    assert np.isfinite(found.contribution_intervals[off]).all()
    assert np.isnan(found.contribution_intervals[~off]).all()


def test_preparations_that_agree_have_the_intervals_of_one() -> None:
    one = preparations(seeds=1, samples=200, unequal=1.0)
    same = measure(ScoreTable.from_seeds({0: one, 1: one}), replicates=200)
    alone = measure(one, replicates=200)
    for name in ("gain", "contribution", "outward", "inward", "difficulty"):
        both = [getattr(found, f"{name}_intervals") for found in (same, alone)]
        np.testing.assert_allclose(*both, rtol=1e-9)
    np.testing.assert_allclose(weigh(same).intervals, weigh(alone).intervals, rtol=1e-9)  # type: ignore[arg-type]


def test_a_column_that_some_seeds_cannot_measure_is_the_mean_of_the_others() -> None:
    good = preparations(seeds=2, samples=300, unequal=1.0)
    entries = {m: dict(row) for m, row in good.of_seed(1).entries.items()}
    entries["plus_b"]["b"] = entries["mini"]["b"]
    table = ScoreTable.from_seeds({0: good.of_seed(0), 7: ScoreTable(TASKS, (True,) * 3, entries)})
    with pytest.warns(
        UndefinedContributionsWarning, match=r"'b' are undefined with seed 7 \(of 0, 7\).*There"
    ):
        found = measure(table, replicates=200)
    assert [(lost.task, lost.seeds) for lost in found.undefined] == [("b", (7,))]
    alone = measure(good.of_seed(0), replicates=200)
    np.testing.assert_array_equal(found.contributions[:, 1], alone.contributions[:, 1])
    weights = weigh(found)
    assert weights.provenance.undefined == ()
    assert weights.intervals is not None
    assert np.isfinite(weights.intervals).all()


def test_a_hopeless_task_is_named_with_its_seed() -> None:
    good = preparations(seeds=2, samples=50)
    entries = {m: dict(row) for m, row in good.of_seed(1).entries.items()}
    entries["plus_a"]["a"] = np.zeros(50)
    table = ScoreTable.from_seeds({0: good.of_seed(0), 1: ScoreTable(TASKS, (True,) * 3, entries)})
    with pytest.raises(ValueError, match=r"^seed 1: difficulty of task 'a' is undefined"):
        measure(table)


def test_two_seeds_are_enough_to_shrink_by_both_variances() -> None:
    steady = measure(preparations(seeds=2, samples=3000, unequal=1.0), replicates=200)
    shaky = measure(preparations(seeds=2, samples=3000, unequal=1.0, deviation=0.06), replicates=200)
    pulls = []
    for found in (steady, shaky):
        plain, shrunk = weigh(found), weigh(found, shrink=True)  # no OneSeedWarning
        assert shrunk.values.sum() == pytest.approx(3)
        pulls.append(float(np.abs(shrunk.values - 1).sum() / np.abs(plain.values - 1).sum()))
    assert pulls[1] < pulls[0] < 1


def test_clear_differences_are_found_and_ranked() -> None:
    found = certainty_of(measure(preparations(seeds=3, samples=2000, unequal=1.0, deviation=0.005)))
    assert found is not None
    assert found.differ
    assert ("a", "b") in found.ranked
    assert ("b", "a") not in found.ranked
    assert found.spread > 0.1
    assert found.needed_samples == 1.0
    assert found.needed_seeds == 3


def test_seeds_or_samples_dominate() -> None:
    by_seed = certainty_of(measure(preparations(seeds=3, samples=4000, deviation=0.04)))
    by_sample = certainty_of(measure(preparations(seeds=3, samples=150)))
    assert by_seed is not None
    assert by_sample is not None
    assert (by_seed.dominant, by_sample.dominant) == ("seeds", "samples")


def test_more_of_the_right_thing_is_asked_for() -> None:
    """Differences that few samples hide: as many more as are asked for do show them."""
    few = certainty_of(measure(preparations(seeds=1, samples=250, unequal=0.5, start=3)))
    assert few is not None
    assert not few.differ
    assert few.dominant is None
    assert few.needed_seeds is None
    assert few.needed_samples is not None
    assert few.needed_samples > 1
    more = certainty_of(measure(preparations(seeds=1, samples=round(250 * few.needed_samples), unequal=0.5)))
    assert more is not None
    assert more.differ


def test_no_number_of_samples_makes_up_for_seeds_that_disagree() -> None:
    found = certainty_of(measure(preparations(seeds=2, samples=20_000, deviation=0.04, unequal=0.2, start=1)))
    assert found is not None
    assert found.dominant == "seeds"
    assert found.needed_samples is None
    assert found.needed_seeds is None or found.needed_seeds > 2


@pytest.mark.parametrize("case", ["one task", "means"])
def test_nothing_can_be_said_without_replicates_or_others(case: str) -> None:
    if case == "means":
        table = ScoreTable.from_means([0.5, 0.2], [[0.7, 0.3], [0.6, 0.6]], tasks=["a", "b"])
    else:
        table = ScoreTable.from_samples({"mini": {"a": [0.0, 1.0]}, "plus_a": {"a": [1.0, 1.0]}})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedContributionsWarning)
        assert certainty_of(measure(table)) is None


def test_ranking_is_right_for_all_pairs_at_once() -> None:
    """Of equal weights, some pair is called ranked about one time in ten at most."""
    random = np.random.default_rng(0)
    draws = random.standard_normal((400, 300, 5))
    wrong = 0
    for trial in range(400):
        values = random.standard_normal(5)
        wrong += bool(heavier(values, values + draws[trial], 0.9).any())
    assert wrong / 400 <= 0.1 + 4 * np.sqrt(0.1 * 0.9 / 400)
    assert heavier(np.array([0.0, 100.0]), np.array([0.0, 100.0]) + draws[0, :, :2], 0.9).tolist() == [
        [False, False],
        [True, False],
    ]


@pytest.mark.parametrize(("degrees", "wanted"), [(1, 7.849), (5, 12.83), (20, 20.96)])
def test_the_noncentrality_that_a_test_finds_four_times_in_five(degrees: int, wanted: float) -> None:
    assert noncentrality(degrees, np.random.default_rng(0)) == pytest.approx(wanted, rel=0.03)
