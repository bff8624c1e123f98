"""Means over seeds: their variances, and how often their intervals hold the truth."""

import numpy as np
import pytest
from support.method.simulated import equal_scores, trials, unequal_scores

from cotbal.method.certainty import LEVEL, chance_of_equal
from cotbal.method.seeds import over_seeds

# Caption, grounding, reading, counting, place, order: the weights of four preparations of the demo.
DEMO = np.array(
    [
        [0.97, 1.13, 1.28, 0.94, 0.86, 0.81],
        [1.17, 0.98, 1.24, 0.86, 0.83, 0.93],
        [1.12, 1.01, 1.21, 0.90, 0.88, 0.87],
        [0.88, 0.83, 1.43, 0.94, 0.96, 0.96],
    ]
)


def _draws(values: np.ndarray, shared: float, mixed: float, size: int = 4000) -> np.ndarray:
    """Bootstrap draws [S, R, N] around values [S, N], with a part that all seeds share and one that they do not."""
    random = np.random.default_rng(0)
    seeds, tasks = values.shape
    common = np.sqrt(shared) * random.standard_normal((1, size, tasks))
    return values[:, None] + common + np.sqrt(mixed) * random.standard_normal((seeds, size, tasks))


def test_the_demos_four_preparations_spread_by_their_seeds() -> None:
    found = over_seeds(DEMO, _draws(DEMO, 0.0, 0.0), np.random.default_rng(0), fixed_sum=True)
    np.testing.assert_allclose(found.values, DEMO.mean(axis=0), rtol=1e-12)
    assert np.sqrt(found.seed_variance.mean()) == pytest.approx(0.093, abs=0.0005)
    assert found.dominant == "seeds"
    # What the pull of one preparation toward 1 would best be, by the spread of the true weights.
    true = ((found.values - 1) ** 2 - found.variance).mean()
    assert true / (true + found.seed_variance.mean()) == pytest.approx(0.67, abs=0.01)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_the_variances_are_told_apart(seeds: int) -> None:
    random = np.random.default_rng(seeds)
    tasks = 200  # so many that their mean is known well
    between, shared, mixed = 0.04, 0.01, 0.02
    noise = np.sqrt(between + mixed) * random.standard_normal((seeds, tasks))
    values = 1 + noise + np.sqrt(shared) * random.standard_normal(tasks)
    found = over_seeds(values, _draws(values, shared, mixed), random)
    # A variance estimated from so many differences is off by this much, one time in 20,000.
    slack = 4 * np.sqrt(2 / (tasks * (seeds - 1)))
    assert found.shared_variance.mean() == pytest.approx(shared, rel=0.1)
    assert found.mixed_variance.mean() == pytest.approx(mixed, rel=0.1)
    assert found.seed_variance.mean() == pytest.approx(between, rel=slack * (between + mixed) / between + 0.1)
    np.testing.assert_allclose(
        found.variance, found.seed_variance / seeds + found.mixed_variance / seeds + found.shared_variance
    )
    assert found.variance_with(2.0, seeds).mean() < found.variance.mean()
    assert found.variance_with(1.0, 10 * seeds).mean() < found.variance.mean()


def test_one_seed_keeps_its_draws_and_knows_no_seed_variance() -> None:
    values = DEMO[:1]
    draws = _draws(values, 0.01, 0.01)
    found = over_seeds(values, draws, np.random.default_rng(0))
    np.testing.assert_array_equal(found.replicates, draws[0])
    assert np.isnan(found.seed_variance).all()
    assert found.dominant is None
    np.testing.assert_allclose(found.variance, draws[0].var(axis=0, ddof=1))


def test_seeds_that_agree_add_nothing() -> None:
    one = _draws(DEMO[:1], 0.01, 0.0)
    found = over_seeds(np.repeat(DEMO[:1], 3, 0), np.repeat(one, 3, 0), np.random.default_rng(0))
    np.testing.assert_allclose(found.replicates, one[0], rtol=1e-12)
    assert found.dominant == "samples"


def test_what_is_undefined_for_some_seeds_is_the_mean_of_the_others() -> None:
    values = DEMO.copy()
    values[0, 2] = np.nan
    values[:, 5] = np.nan
    found = over_seeds(values, _draws(values, 0.01, 0.0), np.random.default_rng(0))
    assert found.values[2] == pytest.approx(DEMO[1:, 2].mean())
    assert np.isnan(found.interval(0.9)[5]).all()
    assert np.isfinite(found.interval(0.9)[:5]).all()


def test_deviations_of_weights_cancel() -> None:
    found = over_seeds(DEMO, _draws(DEMO, 0.0, 0.0), np.random.default_rng(0), fixed_sum=True)
    np.testing.assert_allclose(found.replicates.sum(axis=-1), DEMO.mean(axis=0).sum(), rtol=1e-12)


@pytest.mark.parametrize(
    ("seeds", "deviation"), [(1, 0.0), (2, 0.0), (3, 0.0), (2, 0.02), (2, 0.04), (3, 0.02), (5, 0.04)]
)
@pytest.mark.parametrize("scores", [equal_scores, unequal_scores], ids=["equal", "unequal"])
def test_intervals_hold_the_truth_about_as_often_as_they_say(
    scores: object, seeds: int, deviation: float
) -> None:
    random = np.random.default_rng([seeds, int(1000 * deviation)])
    found = trials(scores(), seeds=seeds, seed_deviation=deviation, random=random)  # type: ignore[operator]
    mean = over_seeds(found.weights, found.draws, random, fixed_sum=True)
    low, high = np.quantile(mean.replicates, [0.05, 0.95], axis=-2)
    covered = float(((low <= found.truth) & (found.truth <= high)).mean())
    assert 0.85 <= covered <= 0.95
    if deviation == 0.04:
        # What intervals of the samples alone would hold, and those of seeds that are merely drawn again.
        alone = np.quantile(found.draws.mean(axis=1), [0.05, 0.95], axis=-2)
        assert ((alone[0] <= found.truth) & (found.truth <= alone[1])).mean() < 0.7
    if scores is equal_scores:
        tested = over_seeds(found.weights, found.draws, random, fixed_sum=True, pooled=True)
        chance = chance_of_equal(tested.values, tested.replicates)
        assert (chance > LEVEL).mean() >= 0.95


def test_drawing_two_seeds_again_is_not_enough() -> None:
    """Why the seeds' deviation is drawn from a t distribution."""
    random = np.random.default_rng(0)
    found = trials(equal_scores(), seeds=2, seed_deviation=0.04, random=random)
    count, seeds, draws, _ = found.draws.shape
    chosen = random.integers(0, seeds, (count, draws, seeds))[..., None]
    again = np.take_along_axis(found.draws.swapaxes(1, 2), chosen, axis=2).mean(axis=2)
    low, high = np.quantile(again, [0.05, 0.95], axis=-2)
    assert ((low <= found.truth) & (found.truth <= high)).mean() < 0.85
