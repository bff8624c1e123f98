"""Measuring: the formulas on the table's means, undefined columns, and honest intervals."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.method import method_oracle as oracle
from support.method.measured import COUNTS, sampled_tables, vectors

from cotbal.method.bootstrap import generator
from cotbal.method.measurement import Measurement, measure
from cotbal.method.scores import ScoreTable
from cotbal.method.undefined import UndefinedContributionsWarning
from cotbal.method.weighing import weigh
from cotbal.tasks import plus_model

SCORES = st.floats(0.01, 1.0).map(lambda value: round(value, 2))


def _measured(table: ScoreTable, **options: object) -> Measurement:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedContributionsWarning)
        return measure(table, **options)  # type: ignore[arg-type]


def _binary(task: str, mini: int, plus: dict[str, int], size: int = 200) -> dict[str, dict[str, list[float]]]:
    """Scores of `task`: the first so many samples right, by model."""
    counts = {"mini": mini, **{plus_model(name): right for name, right in plus.items()}}
    return {model: {task: [1.0] * right + [0.0] * (size - right)} for model, right in counts.items()}


def _merged(*parts: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, list[float]]]:
    return {model: {task: row for part in parts for task, row in part[model].items()} for model in parts[0]}


@st.composite
def _mean_tables(draw: st.DrawFn) -> ScoreTable:
    count = draw(COUNTS)
    return ScoreTable.from_means(
        draw(vectors(count, SCORES)),
        [draw(vectors(count, SCORES)) for _ in range(count)],
        tasks=[f"t{i}" for i in range(count)],
        higher_is_better=draw(st.lists(st.booleans(), min_size=count, max_size=count)),
    )


@given(_mean_tables())
def test_means_alone_follow_the_formulas(table: ScoreTable) -> None:
    found = _measured(table)
    plain = oracle.contributions(table.mini.tolist(), table.plus.tolist())
    count = len(table.tasks)
    signs = [1 if higher else -1 for higher in table.higher_is_better]
    gains = [signs[j] * (table.plus[j, j] - table.mini[j]) for j in range(count)]
    lost = {j for j in range(count) if gains[j] <= 0 and count > 1}
    assert {table.tasks.index(column.task) for column in found.undefined} == lost
    wanted = [[None if j in lost else plain[i][j] for j in range(count)] for i in range(count)]
    _assert_equal(found.contributions.ravel(), [entry for row in wanted for entry in row])
    _assert_equal(found.outward, oracle.outward(wanted))
    _assert_equal(found.inward, oracle.inward(wanted))
    difficulties = [
        oracle.difficulty(table.mini[j], table.plus[j, j], table.higher_is_better[j]) for j in range(count)
    ]
    _assert_equal(found.difficulty, difficulties)
    assert found.replicates == 0
    assert found.resampled is None
    assert np.isnan(found.gain_intervals).all()


def _assert_equal(found: np.ndarray, wanted: list) -> None:
    for value, exact in zip(found, wanted, strict=True):
        if exact is None:
            assert np.isnan(value)
        else:
            # Scores of two decimals give |C| <= 99; a mean of at most 8 such terms may cancel.
            assert abs(value - float(exact)) <= 16 * oracle.EPS * 100


@given(_mean_tables())
def test_the_plain_formula_stays_available(table: ScoreTable) -> None:
    found = _measured(table, plain=True)
    plain = oracle.contributions(table.mini.tolist(), table.plus.tolist())
    _assert_equal(found.contributions.ravel(), [entry for row in plain for entry in row])
    zero = {table.tasks[j] for j in range(len(table.tasks)) if table.mini[j] == table.plus[j, j]}
    assert {column.task for column in found.undefined} == (zero if len(table.tasks) > 1 else set())


@given(sampled_tables(), st.randoms(use_true_random=False))
def test_tasks_in_another_order_give_the_same_in_that_order(table: ScoreTable, random: object) -> None:
    order = list(range(len(table.tasks)))
    random.shuffle(order)  # type: ignore[attr-defined]
    names = tuple(table.tasks[k] for k in order)
    higher = tuple(table.higher_is_better[k] for k in order)
    first = _measured(table, replicates=100)
    second = _measured(ScoreTable(names, higher, table.entries, table.groups), replicates=100)
    assert {column.task for column in first.undefined} == {column.task for column in second.undefined}
    np.testing.assert_array_equal(second.contributions, first.contributions[np.ix_(order, order)])
    np.testing.assert_array_equal(second.dropped, first.dropped[order])
    # The columns of a product of matrices come out in other places, and rows are added up in another order.
    for name in ("gain_intervals", "outward_intervals", "inward_intervals", "difficulty_intervals"):
        np.testing.assert_allclose(getattr(second, name), getattr(first, name)[order], rtol=1e-9, atol=1e-12)


@given(sampled_tables())
def test_a_column_is_undefined_when_the_interval_of_its_denominator_reaches_zero(table: ScoreTable) -> None:
    found = _measured(table, replicates=100)
    for j, task in enumerate(table.tasks):
        labels = table.groups.get(task, np.arange(10**6)[: table.samples("mini", task).size])  # type: ignore[union-attr]
        members = [np.flatnonzero(labels == name) for name in np.unique(labels)]
        sign = 1 if table.higher_is_better[j] else -1
        gain = sign * (table.samples(plus_model(task), task) - table.samples("mini", task))  # type: ignore[operator]
        drawn = generator(0, task).integers(0, len(members), size=(100, len(members)))
        gains = [np.mean(np.concatenate([gain[members[g]] for g in replicate])) for replicate in drawn]
        low, high = np.quantile(gains, [0.05, 0.95])
        if len(members) > 1:
            np.testing.assert_allclose(found.gain_intervals[j], [low, high], rtol=1e-9, atol=1e-12)
        undefined = np.isnan(found.contributions[:, j]).all() and len(table.tasks) > 1
        reaches = (low if len(members) > 1 else np.mean(gain)) <= 1e-12
        assert undefined == (reaches and len(table.tasks) > 1)


@given(sampled_tables())
def test_undefined_entries_leave_the_means_and_everything_else_stays_finite(table: ScoreTable) -> None:
    found = _measured(table, replicates=100)
    lost = np.isin(table.tasks, [column.task for column in found.undefined])
    off_diagonal = ~np.eye(len(table.tasks), dtype=bool)
    np.testing.assert_array_equal(np.isfinite(found.contributions), off_diagonal & ~lost)
    has_other = (off_diagonal & ~lost).any(axis=1)
    np.testing.assert_array_equal(np.isfinite(found.outward), has_other)
    np.testing.assert_array_equal(np.isfinite(found.inward), ~lost & (len(table.tasks) > 1))
    assert np.isfinite(found.difficulty).all()


def test_a_task_that_is_mastered_already_is_named_with_its_scores_and_what_to_do() -> None:
    table = ScoreTable.from_samples(
        _merged(
            _binary("easy", 190, {"easy": 190, "hard": 188}),
            _binary("hard", 40, {"easy": 70, "hard": 120}),
        )
    )
    with pytest.warns(UndefinedContributionsWarning) as caught:
        found = measure(table)
    assert len(caught) == 1
    message = str(caught[0].message)
    for part in (
        "'easy'",
        "reaches 0",
        "V[mini] 0.95",
        "V[plus_easy] 0.95",
        "more validation samples",
        "another metric",
    ):
        assert part in message
    (lost,) = found.undefined
    assert (lost.task, lost.mini, lost.plus) == ("easy", 0.95, 0.95)
    np.testing.assert_allclose(found.contributions, [[np.nan, 30 / 80], [np.nan, np.nan]])
    np.testing.assert_allclose(found.outward, [30 / 80, np.nan])
    np.testing.assert_allclose(found.inward, [np.nan, 30 / 80])


def test_a_task_that_its_own_training_harms_is_undefined_and_said_to_be() -> None:
    table = ScoreTable.from_samples(
        _merged(_binary("a", 120, {"a": 60, "b": 30}), _binary("b", 40, {"a": 70, "b": 120}))
    )
    with pytest.warns(UndefinedContributionsWarning, match=r"'a' are undefined: .* made it worse"):
        found = measure(table)
    assert [column.task for column in found.undefined] == ["a"]
    assert _measured(table, plain=True).undefined == ()


def test_lower_is_better_counts_a_falling_loss_as_a_gain() -> None:
    rng = np.random.default_rng(0)
    loss = {"mini": 2.0, "plus_a": 1.0, "plus_b": 1.5}
    samples = {
        model: {"a": mean + 0.1 * rng.random(50), "b": 3 - mean + 0.1 * rng.random(50)}
        for model, mean in loss.items()
    }
    samples["plus_b"]["b"] = samples["plus_b"]["b"] + 1
    found = measure(ScoreTable.from_samples(samples, higher_is_better={"a": False, "b": True}))  # type: ignore[arg-type]
    assert found.undefined == ()
    assert (found.gains > 0).all()
    assert abs(found.difficulty[0] - 0.5) < 0.05


def test_one_task_is_measured_without_contributions_or_warnings() -> None:
    found = measure(ScoreTable.from_samples(_binary("a", 50, {"a": 50})))
    assert np.isnan([found.outward[0], found.inward[0]]).all()
    assert found.difficulty[0] == 0
    assert found.undefined == ()


def test_means_of_one_task_cost_only_the_intervals_that_need_them() -> None:
    samples = _merged(_binary("a", 50, {"a": 150, "b": 80}), _binary("b", 40, {"a": 70, "b": 120}))
    samples["mini"]["b"] = 0.2  # type: ignore[assignment]
    found = measure(ScoreTable.from_samples(samples))
    assert found.undefined == ()
    assert np.isfinite(found.gain_intervals[0]).all()
    assert np.isfinite(found.inward_intervals[0]).all()
    assert np.isfinite(found.difficulty_intervals[0]).all()
    assert np.isnan(found.gain_intervals[1]).all()
    assert np.isnan(found.outward_intervals).all()
    np.testing.assert_array_equal(found.samples, [200, 0])


def test_replicates_with_a_denominator_of_zero_are_dropped_and_counted() -> None:
    task_a = {"mini": [0.0] * 8, "plus_a": [1.0] * 3 + [0.0] * 5, "plus_b": [0.0, 1.0] * 4}
    rng = np.random.default_rng(0)
    others = {model: (rng.random(40) + (model == "plus_b")).tolist() for model in task_a}
    table = ScoreTable.from_samples({model: {"a": task_a[model], "b": others[model]} for model in task_a})
    found = measure(table, confidence=0.8, replicates=4000)
    drawn = generator(0, "a").integers(0, 8, size=(4000, 8))
    zero = (drawn >= 3).all(axis=1)
    assert found.undefined == ()
    assert found.dropped.tolist() == [zero.sum(), 0]
    assert zero.sum() > 0
    scores = np.array(task_a["plus_b"])[drawn].sum(axis=1)[~zero] / (drawn < 3).sum(axis=1)[~zero]
    np.testing.assert_allclose(
        found.contribution_intervals[1, 0], np.quantile(scores, [0.1, 0.9]), rtol=1e-12
    )
    np.testing.assert_allclose(found.outward_intervals[1], np.quantile(scores, [0.1, 0.9]), rtol=1e-12)


def test_a_dropped_entry_leaves_the_outward_mean_of_its_replicate() -> None:
    random = np.random.default_rng(0)
    gained = np.array([1.0] * 3 + [0.0] * 5)  # Some replicates of "a" draw none of the three.
    samples = {model: {"a": random.random(8)} for model in ("mini", "plus_a", "plus_b", "plus_c")}
    samples["plus_a"]["a"] = samples["mini"]["a"] + gained
    for task in "bc":
        for model in samples:
            samples[model][task] = random.random(40) + (model == f"plus_{task}")
    table = ScoreTable.from_samples(samples)  # type: ignore[arg-type]
    found = measure(table, confidence=0.8, replicates=2000)
    assert found.undefined == ()
    assert found.resampled is not None
    columns = [_replicated_contributions(table, task, 2000) for task in "abc"]
    assert 0 < found.dropped[0] == np.isnan(columns[0][1]).sum()
    for i in range(3):
        entries = np.array([columns[j][i] for j in range(3) if j != i])
        np.testing.assert_allclose(found.resampled.outward[:, i], np.nanmean(entries, axis=0), rtol=1e-9)


def _replicated_contributions(table: ScoreTable, task: str, replicates: int) -> list[np.ndarray]:
    """C[i, task] in every replicate, [N][R]; NaN where its denominator is 0."""
    mini = table.samples("mini", task)
    drawn = generator(0, task).integers(0, mini.size, size=(replicates, mini.size))  # type: ignore[union-attr]
    gains = [(table.samples(plus_model(i), task) - mini)[drawn].sum(axis=1) for i in table.tasks]  # type: ignore[operator]
    own = gains[table.tasks.index(task)]
    own = np.where(np.abs(own) < 1e-9, np.nan, own)
    return [gain / own for gain in gains]


def test_a_score_of_zero_after_full_training_is_named() -> None:
    table = ScoreTable.from_means([0.5, 0.0], [[0.7, 0.0], [0.6, 0.0]], tasks=["a", "b"])
    with pytest.raises(ValueError, match="difficulty of task 'b' is undefined"):
        measure(table)


def test_the_same_seed_gives_the_same_and_another_seed_does_not() -> None:
    table = ScoreTable.from_samples(
        _merged(_binary("a", 50, {"a": 90, "b": 60}), _binary("b", 50, {"a": 60, "b": 90}))
    )
    first, second, other = measure(table), measure(table), measure(table, seed=1)
    np.testing.assert_array_equal(first.contribution_intervals, second.contribution_intervals)
    assert not np.array_equal(first.contribution_intervals, other.contribution_intervals, equal_nan=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"confidence": 0.0}, "confidence is 0.0"),
        ({"confidence": 1.0}, "confidence is 1.0"),
        ({"confidence": float("nan")}, "confidence is nan"),
        ({"replicates": 10}, "replicates is 10"),
        ({"replicates": -1}, "replicates is -1"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_options_out_of_range_are_named(options: dict, message: str) -> None:
    table = ScoreTable.from_means([0.5], [[0.7]], tasks=["a"])
    with pytest.raises(ValueError, match=message):
        measure(table, **options)


def test_only_a_score_table_can_be_measured() -> None:
    with pytest.raises(TypeError, match=r"found dict\. Make one with ScoreTable"):
        measure({"mini": {}})  # type: ignore[arg-type]


def test_a_missing_model_is_named() -> None:
    with pytest.raises(ValueError, match="no scores for model 'plus_b'"):
        measure(
            ScoreTable.from_samples({"mini": {"a": [1.0], "b": [0.0]}, "plus_a": {"a": [1.0], "b": [1.0]}})
        )


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    """300 samples, scores of the models correlated per sample as real ones are; 90% intervals."""
    random = np.random.default_rng(7)
    truth = {"mini": (0.45, 0.5), "plus_a": (0.75, 0.56), "plus_b": (0.54, 0.8)}
    covered = dict.fromkeys(["C", "D", "gain"], 0)
    trials = 400
    for trial in range(trials):
        samples: dict[str, dict[str, list[float]]] = {model: {} for model in truth}
        for position, task in enumerate("ab"):
            ease = random.random(300)
            for model, probability in truth.items():
                # Half of a sample's luck is its own ease, half the model's.
                luck = np.where(random.random(300) < 0.5, ease, random.random(300))
                samples[model][task] = (luck < probability[position]).astype(float).tolist()
        found = measure(ScoreTable.from_samples(samples), replicates=400, seed=trial)
        covered["C"] += _inside(found.contribution_intervals[1, 0], 0.09 / 0.30)
        covered["C"] += _inside(found.contribution_intervals[0, 1], 0.06 / 0.30)
        covered["D"] += _inside(found.difficulty_intervals[0], 1 - 0.45 / 0.75)
        covered["gain"] += _inside(found.gain_intervals[0], 0.30)
    # Four standard deviations of a share of 90% among so many trials, and the bootstrap's own error of order 1/n.
    slack = 4 * np.sqrt(0.9 * 0.1 / trials) + 0.01
    assert abs(covered["C"] / (2 * trials) - 0.9) <= slack
    assert abs(covered["D"] / trials - 0.9) <= slack
    assert abs(covered["gain"] / trials - 0.9) <= slack


def _inside(interval: np.ndarray, value: float) -> bool:
    return bool(interval[0] <= value <= interval[1])


def _two_ways(samples: int = 60) -> tuple[ScoreTable, ScoreTable, ScoreTable]:
    """Metric scores of the models and tasks that difficulty needs, of all of them, and token accuracies."""
    random = np.random.default_rng(4)
    tasks = ["a", "b", "c"]
    groups = {task: [f"picture {index // 2}" for index in range(samples)] for task in tasks}
    models = {"mini": None, **{plus_model(task): task for task in tasks}}
    whole = {
        model: {
            task: (random.random(samples) < (0.8 if task == own else 0.4)).astype(float) for task in tasks
        }
        for model, own in models.items()
    }
    shares = {
        model: {task: random.random(samples) * (1.0 if task == own else 0.6) for task in tasks}
        for model, own in models.items()
    }
    needed = {
        model: {t: row[t] for t in tasks if model == "mini" or models[model] == t}
        for model, row in whole.items()
    }
    return tuple(ScoreTable.from_samples(s, tasks=tasks, groups=groups) for s in (needed, whole, shares))  # type: ignore[return-value]


def test_hybrid_takes_contributions_from_accuracies_and_difficulty_from_scores() -> None:
    needed, whole, shares = _two_ways()
    found = _measured(needed, accuracies=shares)
    by_tokens, by_metric = _measured(shares), _measured(whole)
    wanted = oracle.contributions(shares.mini.tolist(), shares.plus.tolist())
    lost = [shares.tasks.index(column.task) for column in found.undefined]
    for j in range(3):
        column = [None if j in lost else wanted[i][j] for i in range(3)]
        _assert_equal(found.contributions[:, j], column)
    _assert_equal(found.difficulty, [1 - needed.mini[i] / needed.own[i] for i in range(3)])
    assert found.estimator == "hybrid"
    assert by_metric.estimator == "full"
    # The same draws: intervals are those of either table alone.
    np.testing.assert_allclose(found.difficulty_intervals, by_metric.difficulty_intervals, rtol=1e-12)
    np.testing.assert_allclose(found.outward_intervals, by_tokens.outward_intervals, rtol=1e-12)
    np.testing.assert_allclose(found.contribution_intervals, by_tokens.contribution_intervals, rtol=1e-12)
    assert found.scores_sha256 not in (needed.sha256, shares.sha256)


def test_hybrid_weights_are_the_terms_by_hand() -> None:
    needed, _, shares = _two_ways()
    found = weigh(_measured(needed, accuracies=shares))
    tokens = _measured(shares)
    hard = 1 - needed.mini / needed.own

    def term(values: np.ndarray) -> np.ndarray:
        raised = np.exp(values / 0.5)
        return len(values) * raised / raised.sum()

    by_hand = ((term(tokens.outward) + term(-tokens.inward)) / 2 + term(hard)) / 2
    np.testing.assert_allclose(found.values, by_hand, rtol=1e-12)


def test_hybrid_is_measured_seed_by_seed() -> None:
    needed, _, shares = _two_ways()
    tables = [ScoreTable.from_seeds({0: table, 5: table}) for table in (needed, shares)]
    found, one = _measured(tables[0], accuracies=tables[1]), _measured(needed, accuracies=shares)
    np.testing.assert_allclose(found.contributions, one.contributions, rtol=1e-12)
    np.testing.assert_allclose(found.difficulty, one.difficulty, rtol=1e-12)
    assert (found.estimator, found.seeds) == ("hybrid", (0, 5))


def test_accuracies_of_other_samples_are_refused() -> None:
    needed, _, shares = _two_ways()
    fewer = _two_ways(samples=40)[2]
    with pytest.raises(ValueError, match="other numbers of samples"):
        measure(needed, accuracies=fewer)
    with pytest.raises(ValueError, match="no score on task"):
        measure(needed)
    with pytest.raises(ValueError, match="lower is better"):
        measure(
            needed, accuracies=ScoreTable(shares.tasks, (True, False, True), shares.entries, shares.groups)
        )
