"""The weights: the published case, their properties, and what uncertainty does to them."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support.method import method_oracle as oracle
from support.method.measured import Terms, sampled_tables, terms

from cotbal.method.bootstrap import Resampled
from cotbal.method.measurement import Measurement, measure
from cotbal.method.scores import ScoreTable
from cotbal.method.undefined import UndefinedContributionsWarning
from cotbal.method.weighing import OneSeedWarning, combine_terms, weigh
from cotbal.method.weights import TaskWeights

# exp(x / T) is off by |x / T| eps or so, with |x| <= 10 between two drawn values and T >= 0.05; the sums of at most
# eight terms and the few other operations add a handful of roundings.
BUDGET = (10 / 0.05 + 40) * oracle.EPS

VICUNA_7B = (
    [0.1637, 0.1903, 0.1952, 0.1433, 0.0768, 0.1316, 0.1582],
    [0.1634, 0.2179, 0.1326, 0.1775, 0.1674, 0.0783, 0.1219],
    1 - np.array([0.7597, 0.5313, 0.8852, 0.7979, 0.5511, 0.8680, 0.1904]),
)


def _weights(drawn: Terms) -> TaskWeights:
    return combine_terms(drawn.outward, drawn.inward, drawn.difficulty, drawn.temperature)


def _undefined_as_none(values: list[float]) -> list[float | None]:
    return [None if np.isnan(value) else value for value in values]


def test_the_authors_weights_for_vicuna_7b() -> None:
    found = combine_terms(*VICUNA_7B, temperature=0.5)
    np.testing.assert_array_equal(found.values.round(3), [0.859, 1.056, 0.811, 0.815, 1.002, 0.818, 1.640])


@given(terms(undefined=True))
def test_the_weights_are_the_formula_s(drawn: Terms) -> None:
    wanted = oracle.weights(
        _undefined_as_none(drawn.outward),
        _undefined_as_none(drawn.inward),
        drawn.difficulty,
        drawn.temperature,
    )
    np.testing.assert_allclose(_weights(drawn).values, wanted, rtol=BUDGET)


@given(terms(undefined=True))
def test_every_term_and_the_weights_sum_to_the_number_of_tasks(drawn: Terms) -> None:
    found = _weights(drawn)
    count = len(drawn.difficulty)
    for values in (found.outward, found.inward, found.difficulty, found.values):
        assert abs(values.sum() - count) <= 10 * count * oracle.EPS
        assert (values >= 0).all()


@given(terms(undefined=True))
def test_an_undefined_term_is_one(drawn: Terms) -> None:
    found = _weights(drawn)
    assert (found.outward[np.isnan(drawn.outward)] == 1).all()
    assert (found.inward[np.isnan(drawn.inward)] == 1).all()


@given(terms(undefined=True), st.randoms(use_true_random=False))
def test_tasks_in_another_order_have_the_same_weights_in_that_order(drawn: Terms, random: object) -> None:
    order = list(range(len(drawn.difficulty)))
    random.shuffle(order)  # type: ignore[attr-defined]
    shuffled = Terms(
        *([values[k] for k in order] for values in (drawn.outward, drawn.inward, drawn.difficulty)),
        drawn.temperature,
    )
    np.testing.assert_allclose(_weights(shuffled).values, _weights(drawn).values[order], rtol=10 * oracle.EPS)


@given(terms(undefined=True), st.floats(-100, 100))
def test_adding_the_same_to_all_tasks_of_a_term_changes_nothing(drawn: Terms, shift: float) -> None:
    found = _weights(drawn)
    # Rounding the shifted values to floats moves them by up to 105 eps / 2 each, then divided by T.
    rtol = BUDGET + 2 * 105 * oracle.EPS / drawn.temperature
    shifted = [
        (np.array(values) + shift).tolist() for values in (drawn.outward, drawn.inward, drawn.difficulty)
    ]
    given_terms = [drawn.outward, drawn.inward, drawn.difficulty]
    for index in range(3):
        changed = [*given_terms]
        changed[index] = shifted[index]
        np.testing.assert_allclose(combine_terms(*changed, drawn.temperature).values, found.values, rtol=rtol)


@given(terms(count=st.integers(2, 8)), st.data())
def test_weights_follow_each_argument(drawn: Terms, data: st.DataObject) -> None:
    which = data.draw(st.integers(0, 2))
    task = data.draw(st.integers(0, len(drawn.difficulty) - 1))
    step = data.draw(st.floats(0.01, 1.0))
    raised = [list(drawn.outward), list(drawn.inward), list(drawn.difficulty)]
    raised[which][task] += step
    before = _weights(drawn)
    after = combine_terms(*raised, drawn.temperature)
    change = after.values - before.values
    sign = -1 if which == 1 else 1
    others = np.arange(change.size) != task
    assert (sign * change[others] <= BUDGET * before.values[others]).all()
    assert sign * change[task] >= -BUDGET * before.values[task]
    own = (before.outward, before.inward, before.difficulty)[which] / change.size
    # Where the softmax is not saturated the change is visible, not only of the right sign.
    assume(0.01 < own[task] < 0.99)
    assert sign * change[task] > 0


@given(st.integers(1, 8), st.floats(-5, 5), st.floats(-5, 5), st.floats(-5, 5), st.floats(1e-3, 1e3))
def test_equal_tasks_have_equal_weights(
    count: int, out: float, into: float, hard: float, temperature: float
) -> None:
    found = combine_terms([out] * count, [into] * count, [hard] * count, temperature)
    np.testing.assert_allclose(found.values, np.ones(count), rtol=4 * count * oracle.EPS)


@given(terms(undefined=True))
def test_a_large_temperature_makes_all_weights_one(drawn: Terms) -> None:
    hot = combine_terms(drawn.outward, drawn.inward, drawn.difficulty, 1e12)
    # |x| / T <= 10 / 1e12 moves a weight by no more than e^1e-11 - 1, from either side.
    np.testing.assert_allclose(hot.values, np.ones(len(drawn.difficulty)), rtol=2.1e-11)


def test_a_tiny_temperature_gives_everything_to_the_largest() -> None:
    found = combine_terms([1.0, 2.0], [2.0, 1.0], [-1.0, 1.0], 5e-324)
    np.testing.assert_array_equal(found.values, [0.0, 2.0])


def test_one_task_has_weight_one() -> None:
    assert combine_terms([np.nan], [np.nan], [0.7]).values == [1.0]


def test_a_term_without_any_defined_entry_is_one_for_all() -> None:
    found = combine_terms([np.nan] * 3, [np.nan] * 3, [0.0, 0.0, 0.0])
    np.testing.assert_array_equal(found.values, [1.0, 1.0, 1.0])


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([0, 1], [0], [0, 1]), {}, r"inward has shape \(1,\)"),
        (([0], [0], [0, 1]), {}, r"difficulty has shape \(2,\)"),
        (([[0]], [0], [0]), {}, "outward must have 1 dimension"),
        (([], [], []), {}, "outward is empty"),
        (([0], [0], [np.nan]), {}, r"difficulty\[0\] is nan"),
        (([0, np.inf], [0, 0], [0, 0]), {}, r"outward\[1\] is inf"),
        (([0], [-np.inf], [0]), {}, r"inward\[0\] is -inf"),
        (([0], [0], [0]), {"temperature": 0}, "temperature is 0.0; a finite number above 0"),
        (([0], [0], [0]), {"temperature": -0.5}, "temperature is -0.5"),
        (([0], [0], [0]), {"temperature": np.nan}, "temperature is nan"),
        (([0], [0], [0]), {"temperature": np.inf}, "temperature is inf"),
        (([0], [0], [0]), {"tasks": ["a", "b"]}, "tasks has 2 names; there are 1"),
        (([0, 1], [0, 1], [0, 1]), {"tasks": ["a", "a"]}, "'a' is named twice"),
    ],
)
def test_bad_values_are_named(arguments: tuple, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        combine_terms(*arguments, **options)


def test_what_is_no_number_is_named() -> None:
    with pytest.raises(TypeError, match="temperature must be a number; found str"):
        combine_terms([0], [0], [0], "0.5")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="outward must be made of real numbers"):
        combine_terms(["a"], [0], [0])
    with pytest.raises(TypeError, match="measurement must be a Measurement; found dict"):
        weigh({})  # type: ignore[arg-type]


def _measured(table: ScoreTable, **options: object) -> Measurement:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedContributionsWarning)
        return measure(table, **options)  # type: ignore[arg-type]


def _mixture(size: int, gain: float = 0.3, seed: int = 0) -> ScoreTable:
    """Three tasks; `a` helps the others, `c` is the hardest."""
    random = np.random.default_rng(seed)
    level = {"a": 0.6, "b": 0.5, "c": 0.2}
    samples: dict[str, dict[str, list[float]]] = {
        model: {} for model in ("mini", "plus_a", "plus_b", "plus_c")
    }
    for task, start in level.items():
        ease = random.random(size)
        for model in samples:
            lift = gain if model == f"plus_{task}" else gain / 2 if model == "plus_a" else 0.0
            samples[model][task] = (ease < start + lift).astype(float).tolist()
    return ScoreTable.from_samples(samples)


@given(sampled_tables(), st.floats(0.05, 10))
def test_weighing_a_measurement_is_weighing_its_numbers(table: ScoreTable, temperature: float) -> None:
    found = _measured(table, replicates=100)
    weights = weigh(found, temperature)
    numbers = combine_terms(found.outward, found.inward, found.difficulty, temperature, tasks=table.tasks)
    np.testing.assert_array_equal(weights.values, numbers.values)
    assert weights.tasks == table.tasks
    assert weights.provenance.scores_sha256 == table.sha256
    assert weights.provenance.undefined == tuple(column.task for column in found.undefined)


def test_intervals_are_those_of_the_weights_of_the_replicates() -> None:
    found = measure(_mixture(200), replicates=150)
    weights = weigh(found, 0.5)
    assert found.resampled is not None
    by_replicate = [
        oracle.weights(_undefined_as_none(out), _undefined_as_none(into), hard.tolist(), 0.5)
        for out, into, hard in zip(
            found.resampled.outward, found.resampled.inward, found.resampled.difficulty, strict=True
        )
    ]
    assert weights.intervals is not None
    np.testing.assert_allclose(
        weights.intervals, np.quantile(by_replicate, [0.05, 0.95], axis=0).T, rtol=1e-12
    )
    assert (weights.intervals[:, 0] < weights.values).all()
    assert (weights.values < weights.intervals[:, 1]).all()


def test_replicates_without_a_value_that_is_needed_are_left_out_of_the_intervals() -> None:
    found = measure(_mixture(200), replicates=150)
    assert found.resampled is not None
    inward = found.resampled.inward.copy()
    inward[::3, 1] = np.nan
    gappy = replace(found, resampled=replace(found.resampled, inward=inward))
    kept = np.arange(150) % 3 != 0
    whole = replace(
        found,
        resampled=Resampled(
            *(getattr(found.resampled, f)[kept] for f in ("outward", "inward", "difficulty"))
        ),
    )
    np.testing.assert_array_equal(weigh(gappy).intervals, weigh(whole).intervals)  # type: ignore[arg-type]


def test_more_samples_make_narrower_intervals() -> None:
    widths = []
    for size in (200, 3200):
        intervals = weigh(measure(_mixture(size))).intervals
        assert intervals is not None
        widths.append(np.diff(intervals, axis=1).mean())
    # The width goes with 1 / sqrt(samples): 4 here, up to the noise of two draws of the data.
    assert 2.5 < widths[0] / widths[1] < 6.5


def test_an_undefined_task_keeps_a_weight_and_an_interval() -> None:
    table = _mixture(100)
    entries = {model: dict(row) for model, row in table.entries.items()}
    entries["plus_b"]["b"] = entries["mini"]["b"]
    with pytest.warns(UndefinedContributionsWarning, match="'b'"):
        found = measure(ScoreTable(table.tasks, table.higher_is_better, entries))
    weights = weigh(found)
    assert weights.inward[1] == 1.0
    assert weights.provenance.undefined == ("b",)
    assert weights.intervals is not None
    assert np.isfinite(weights.intervals).all()


def test_means_alone_have_no_intervals() -> None:
    table = ScoreTable.from_means([0.5, 0.2], [[0.7, 0.3], [0.6, 0.5]], tasks=["a", "b"])
    weights = weigh(measure(table))
    assert weights.intervals is None
    assert weights.provenance.source == "means"
    with pytest.raises(ValueError, match="needs bootstrap replicates"):
        weigh(measure(table), shrink=True)


def _shrunk(found: Measurement) -> TaskWeights:
    with pytest.warns(OneSeedWarning, match=r"cannot know .* `preparation.seeds`"):
        return weigh(found, shrink=True)


def test_shrinking_pulls_each_term_toward_one_and_keeps_the_sum() -> None:
    found = measure(_mixture(150))
    plain, shrunk = weigh(found), _shrunk(found)
    for name in ("outward", "inward", "difficulty"):
        before, after = getattr(plain, name), getattr(shrunk, name)
        assert abs(after.sum() - 3) <= 30 * oracle.EPS
        assert np.abs(after - 1).sum() < np.abs(before - 1).sum()
    assert shrunk.provenance.shrink
    assert plain.intervals is not None
    assert shrunk.intervals is not None
    assert np.diff(shrunk.intervals, axis=1).sum() < np.diff(plain.intervals, axis=1).sum()


def test_shrinking_hardly_moves_what_is_certain() -> None:
    found = measure(_mixture(20_000))
    np.testing.assert_allclose(_shrunk(found).values, weigh(found).values, atol=0.01)


def test_shrinking_is_the_stated_estimate() -> None:
    found = measure(_mixture(150))
    plain, shrunk = weigh(found), _shrunk(found)
    assert found.resampled is not None
    replicated = np.array([oracle.term(row.tolist(), 0.5) for row in found.resampled.difficulty])
    noise = replicated.var(axis=0, ddof=1)
    spread = max(0.0, np.mean((plain.difficulty - 1) ** 2 - noise))
    pulled = 1 + spread / (spread + noise) * (plain.difficulty - 1)
    np.testing.assert_allclose(shrunk.difficulty, pulled * 3 / pulled.sum(), rtol=1e-12)


def test_unmeasured_tasks_are_added_with_their_own_weights() -> None:
    weights = weigh(measure(_mixture(100)), explicit={"text-only": 1.5})
    assert weights.tasks == ("a", "b", "c", "text-only")
    assert weights.as_dict()["text-only"] == 1.5
    assert weights.measured.tolist() == [True, True, True, False]
    assert abs(weights.values[:3].sum() - 3) < 1e-12
    with pytest.raises(ValueError, match="task 'a' already has a weight"):
        weigh(measure(_mixture(100)), explicit={"a": 1.0})
