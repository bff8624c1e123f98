"""The paired bootstrap against plain loops over the same draws."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.method.measured import sampled_tables

from cotbal.method import bootstrap
from cotbal.method.scores import ScoreTable

REPLICATES = 100


def _resampled_by_hand(rows: np.ndarray, labels: list[str], seed: int) -> np.ndarray:
    """Means of every row over the samples of the groups drawn, one group and one sample at a time."""
    members = [[k for k, label in enumerate(labels) if label == name] for name in sorted(set(labels))]
    drawn = np.random.default_rng(seed).integers(0, len(members), size=(REPLICATES, len(members)))
    means = []
    for replicate in drawn:
        samples = [k for group in replicate for k in members[group]]
        means.append([sum(row[k] for k in samples) / len(samples) for row in rows])
    return np.array(means)


@given(st.integers(1, 4), st.integers(1, 15), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_replicates_are_means_over_whole_groups(rows: int, samples: int, labels: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    values = random.normal(size=(rows, samples))
    names = [f"g{label}" for label in random.integers(0, labels, samples)]
    found = bootstrap.resampled_means(values, np.array(names), REPLICATES, np.random.default_rng(seed))
    wanted = _resampled_by_hand(values, names, seed)
    # Both are sums of at most samples^2 terms (all groups the largest), in another order.
    budget = samples**2 * np.finfo(float).eps * np.abs(values).max()
    assert np.abs(found - wanted).max() <= budget


@given(st.integers(0, 2**32 - 1), st.integers(1, 300))
def test_the_size_of_the_chunks_does_not_matter(seed: int, at_once: int) -> None:
    values = np.random.default_rng(seed).random((3, 11))
    whole = bootstrap.resampled_means(values, None, REPLICATES, np.random.default_rng(seed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bootstrap, "_COUNTS_AT_ONCE", at_once)
        parts = bootstrap.resampled_means(values, None, REPLICATES, np.random.default_rng(seed))
    np.testing.assert_allclose(parts, whole, rtol=11 * np.finfo(float).eps)


def test_repeating_every_sample_within_its_group_changes_nothing() -> None:
    values = np.random.default_rng(0).random((2, 20))
    labels = np.array([f"image{k:02}" for k in range(20)])
    once = bootstrap.resampled_means(values, labels, REPLICATES, np.random.default_rng(1))
    twice = bootstrap.resampled_means(
        np.repeat(values, 2, axis=1), np.repeat(labels, 2), REPLICATES, np.random.default_rng(1)
    )
    np.testing.assert_allclose(twice, once, rtol=40 * np.finfo(float).eps)


def test_tasks_draw_their_own_numbers_wherever_they_stand() -> None:
    first = bootstrap.generator(0, "a").random(4)
    np.testing.assert_array_equal(first, bootstrap.generator(0, "a").random(4))
    assert not np.array_equal(first, bootstrap.generator(0, "b").random(4))
    assert not np.array_equal(first, bootstrap.generator(1, "a").random(4))


@given(st.integers(0, 2**32 - 1), st.integers(2, 40), st.floats(0.5, 0.99))
def test_intervals_are_quantiles_of_what_is_kept(seed: int, size: int, confidence: float) -> None:
    random = np.random.default_rng(seed)
    values = random.normal(size=(size, 3))
    values[random.random((size, 3)) < 0.2] = np.nan
    values[:, 2] = np.nan
    kept = random.random(size) < 0.8
    found = bootstrap.percentile_interval(values, confidence, kept)
    for column, interval in zip(values[kept].T, found, strict=True):
        finite = column[~np.isnan(column)]
        wanted = (
            np.quantile(finite, [(1 - confidence) / 2, (1 + confidence) / 2]) if finite.size else [np.nan] * 2
        )
        np.testing.assert_array_equal(interval, wanted)


@given(sampled_tables())
def test_a_replicate_s_gains_and_difficulty_belong_together(table: ScoreTable) -> None:
    for own, task in enumerate(table.tasks):
        column = bootstrap.replicate_column(table, task, REPLICATES, seed=3)
        if column is None:
            assert task in table.groups
            assert np.unique(table.groups[task]).size == 1
            continue
        contributions = column.contributions(own)
        assert np.isnan(contributions[:, own]).all()
        others = np.arange(len(table.tasks)) != own
        assert (np.isnan(contributions[:, others]).all(axis=1) == column.zero).all() or not others.any()
        for higher in (True, False):
            difficulty = column.difficulty(own, higher)
            plus = column.mini + column.gains[:, own]
            defined = (plus if higher else column.mini) > 0
            assert (np.isnan(difficulty) == ~defined).all()


def test_a_gain_of_zero_is_found_through_the_rounding_of_sums() -> None:
    # The gains are thirds of both signs; a replicate with as many of each gains exactly 0, its float sum not always.
    third = [1 / 3, 2 / 3] * 9
    table = ScoreTable.from_samples({"mini": {"a": third}, "plus_a": {"a": third[1:] + third[:1]}})
    column = bootstrap.replicate_column(table, "a", 2000, seed=0)
    assert column is not None
    drawn = bootstrap.generator(0, "a").integers(0, 18, size=(2000, 18))
    ups = (drawn % 2 == 0).sum(axis=1)
    np.testing.assert_array_equal(column.zero, ups == 9)
    assert column.zero.any()


@pytest.mark.parametrize("case", ["no replicates", "means", "one group"])
def test_nothing_to_resample(case: str) -> None:
    entry = 0.5 if case == "means" else [0.0, 1.0]
    groups = {"a": ["x", "x"]} if case == "one group" else None
    table = ScoreTable.from_samples({"mini": {"a": entry}, "plus_a": {"a": [1.0, 1.0]}}, groups=groups)  # type: ignore[dict-item]
    assert bootstrap.replicate_column(table, "a", 0 if case == "no replicates" else 100, seed=0) is None
