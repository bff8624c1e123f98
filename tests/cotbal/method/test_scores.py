"""Score tables: what goes in comes out, and what does not belong is refused by name."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from support.method.measured import sampled_tables

from cotbal.method.scores import ScoreTable

SAMPLES = {
    "mini": {"a": [0.0, 1.0], "b": [0.5, 0.25, 0.0]},
    "plus_a": {"a": [1.0, 1.0], "b": [0.5, 0.5, 0.5]},
    "plus_b": {"a": [0.0, 1.0], "b": [1.0, 1.0, 0.25]},
}


def test_means_are_those_of_the_samples() -> None:
    table = ScoreTable.from_samples(SAMPLES)
    assert table.tasks == ("a", "b")
    assert table.models == ("mini", "plus_a", "plus_b")
    np.testing.assert_array_equal(table.mini, [0.5, 0.25])
    np.testing.assert_array_equal(table.plus, [[1.0, 0.5], [0.5, 0.75]])
    assert table.mean("plus_b", "b") == 0.75


def test_tasks_can_be_put_in_another_order() -> None:
    table = ScoreTable.from_samples(SAMPLES, tasks=["b", "a"], higher_is_better={"a": True, "b": False})
    np.testing.assert_array_equal(table.mini, [0.25, 0.5])
    np.testing.assert_array_equal(table.plus, [[0.75, 0.5], [0.5, 1.0]])
    assert table.higher_is_better == (False, True)


def test_from_means_keeps_the_numbers() -> None:
    plus = [[0.7, 0.3], [0.6, 0.5]]
    table = ScoreTable.from_means([0.5, 0.2], plus, tasks=["a", "b"])
    np.testing.assert_array_equal(table.mini, [0.5, 0.2])
    np.testing.assert_array_equal(table.plus, plus)
    assert table.samples("mini", "a") is None


def test_samples_cannot_be_changed_through_the_table_or_behind_it() -> None:
    scores = np.array([0.0, 1.0])
    table = ScoreTable.from_samples({"mini": {"a": scores}})  # type: ignore[dict-item]
    scores[0] = 7.0
    kept = table.samples("mini", "a")
    assert kept is not None
    np.testing.assert_array_equal(kept, [0.0, 1.0])
    with pytest.raises(ValueError, match="read-only"):
        kept[0] = 3.0
    with pytest.raises(TypeError):
        table.entries["mini"]["a"] = 1.0  # type: ignore[index]


@pytest.mark.parametrize(
    ("samples", "options", "message"),
    [
        ({}, {"tasks": ["a"]}, "no model"),
        ({"mini": {"a": []}}, {}, "score of model 'mini' on task 'a' is empty"),
        ({"mini": {"a": [0.1, float("nan")]}}, {}, r"model 'mini' on task 'a'\[1\] is nan"),
        ({"mini": {"a": float("inf")}}, {}, "model 'mini' on task 'a' is inf"),
        (
            {"mini": {"a": [1, 0]}, "plus_a": {"a": [1]}},
            {},
            "2 samples from model 'mini' and 1 from model 'plus_a'",
        ),
        ({"mini": {"a": [[1, 0]]}}, {}, r"1 dimension\(s\); found shape \(1, 2\)"),
        ({"mini": {"b": [1]}}, {"tasks": ["a"]}, r"has scores of 'b'; the tasks are \['a'\]"),
        ({"mini": {"a": [1]}}, {"tasks": ["a", "a"]}, "'a' is named twice"),
        ({"mini": {"a b": [1]}}, {}, "task name 'a b'"),
        ({" mini": {"a": [1]}}, {}, "model id ' mini'"),
        ({"mini": {"a": [1, 1]}}, {"groups": {"a": ["x"]}}, "1 labels; the task has 2 samples"),
        ({"mini": {"a": [1, 1]}}, {"groups": {"b": ["x"]}}, "groups names the task 'b'"),
        ({"mini": {"a": 0.5}}, {"groups": {"a": ["x"]}}, "no per-sample scores"),
        ({"mini": {"a": [1]}}, {"higher_is_better": [True, False]}, "2 entries; there are 1"),
        ({"mini": {"a": [1]}}, {"higher_is_better": {"b": True}}, r"names the tasks \['b'\]"),
    ],
)
def test_what_does_not_belong_is_named(samples: dict, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScoreTable.from_samples(samples, **options)


@pytest.mark.parametrize(
    ("samples", "options", "message"),
    [
        ({"mini": {"a": ["x"]}}, {}, "must be made of real numbers"),
        ({"mini": {"a": [1]}}, {"higher_is_better": [1]}, r"higher_is_better\[0\] is 1"),
        ({"mini": {"a": [1]}}, {"tasks": "a"}, "one string 'a'"),
    ],
)
def test_wrong_types_are_named(samples: dict, options: dict, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        ScoreTable.from_samples(samples, **options)


@pytest.mark.parametrize(
    ("mini", "plus", "message"),
    [
        ([0.5], [[0.7, 0.3], [0.6, 0.5]], "mini has shape"),
        ([0.5, 0.2], [[0.7, 0.3]], "plus has shape"),
        ([0.5, 0.2], [0.7, 0.3], r"plus must have 2 dimension\(s\)"),
        ([0.5, float("nan")], [[0.7, 0.3], [0.6, 0.5]], r"mini\[1\] is nan"),
        ([0.5, 0.2], [[0.7, 0.3], [float("inf"), 0.5]], r"plus\[\(1, 0\)\] is inf"),
    ],
)
def test_wrong_means_are_named(mini: list, plus: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScoreTable.from_means(mini, plus, tasks=["a", "b"])


def test_what_is_missing_is_named_when_it_is_asked_for() -> None:
    table = ScoreTable.from_samples({"mini": {"a": [1.0], "b": [1.0]}, "plus_a": {"a": [1.0]}})
    assert table.has("plus_a", "a")
    assert not table.has("plus_a", "b")
    with pytest.raises(ValueError, match="model 'plus_a' has no score on task 'b'"):
        _ = table.plus
    with pytest.raises(ValueError, match="no scores for model 'plus_b'"):
        table.mean("plus_b", "a")
    with pytest.raises(ValueError, match="no task 'c'"):
        table.mean("mini", "c")


def test_the_hash_sees_every_part() -> None:
    table = ScoreTable.from_samples(SAMPLES)
    same = ScoreTable.from_samples({model: dict(row) for model, row in reversed(SAMPLES.items())})
    others = [
        ScoreTable.from_samples(SAMPLES, higher_is_better=False),
        ScoreTable.from_samples(SAMPLES, tasks=["b", "a"]),
        ScoreTable.from_samples(SAMPLES, groups={"a": ["x", "x"]}),
        ScoreTable.from_samples({**SAMPLES, "mini": {**SAMPLES["mini"], "a": [1.0, 0.0]}}),
        ScoreTable.from_samples({**SAMPLES, "mini": {**SAMPLES["mini"], "a": 0.5}}),  # type: ignore[dict-item]
    ]
    assert same.sha256 == table.sha256
    assert len({table.sha256, *(other.sha256 for other in others)}) == 6


@given(sampled_tables())
def test_means_agree_with_samples(table: ScoreTable) -> None:
    for model in table.models:
        for task in table.tasks:
            samples = table.samples(model, task)
            assert samples is not None
            assert table.mean(model, task) == samples.mean()


def _preparation(shift: float = 0.0) -> ScoreTable:
    return ScoreTable.from_samples(
        {
            "mini": {"a": [0.0, 1.0, 0.5], "b": [shift, 0.25]},
            "plus_a": {"a": [1.0, 1.0 - shift, 1.0], "b": [0.5, 0.5]},
        },
        groups={"a": ["x", "x", "y"]},
        higher_is_better=[True, False],
    )


def test_preparations_of_several_seeds_make_one_table_and_come_back_from_it() -> None:
    tables = {3: _preparation(), 1: _preparation(0.5)}
    table = ScoreTable.from_seeds(tables)
    assert table.seeds == (3, 1)
    assert table.mean("mini", "b") == np.mean([[0.0, 0.25], [0.5, 0.25]])
    np.testing.assert_array_equal(table.samples("plus_a", "a"), [1.0, 0.75, 1.0])
    for seed, wanted in tables.items():
        assert table.of_seed(seed).sha256 == wanted.sha256
        assert table.of_seed(seed).seeds == ()
    assert table.sha256 not in {part.sha256 for part in tables.values()}
    with pytest.raises(ValueError, match=r"no scores of seed 0; the seeds are \[3, 1\]"):
        table.of_seed(0)


def test_one_seed_is_a_table_without_seeds() -> None:
    assert ScoreTable.from_seeds({7: _preparation()}).sha256 == _preparation().sha256


def test_means_of_several_seeds_have_no_samples() -> None:
    means = {
        s: ScoreTable.from_means([0.5 + s], [[0.7 + s]], tasks=["a"], higher_is_better=True) for s in (0, 1)
    }
    table = ScoreTable.from_seeds(means)
    assert table.samples("mini", "a") is None
    assert table.mini.tolist() == [1.0]
    assert table.of_seed(1).mini.tolist() == [1.5]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (ScoreTable.from_means([0.5], [[0.7]], tasks=["a"]), "have other tasks"),
        (replace(_preparation(), higher_is_better=(True, True)), "have other higher_is_better"),
        (replace(_preparation(), groups={}), "have other groups"),
        (replace(_preparation(), entries={"mini": _preparation().entries["mini"]}), "have other models"),
        (
            ScoreTable.from_means(
                [0.5, 0.1], [[0.7, 1]] * 2, tasks=["a", "b"], higher_is_better=[True, False]
            ),
            "models",
        ),
    ],
)
def test_preparations_that_differ_in_more_than_the_seed_are_named(other: ScoreTable, message: str) -> None:
    with pytest.raises(ValueError, match=f"seeds 0 and 5 .*{message}"):
        ScoreTable.from_seeds({0: _preparation(), 5: other})


@pytest.mark.parametrize(
    ("seeds", "entry", "message"),
    [
        ((0,), [[1.0, 0.0]], r"seeds is \[0\]; at least two different ones"),
        ((2, 2), [[1.0, 0.0]] * 2, r"seeds is \[2, 2\]"),
        ((0, 1), [[1.0, 0.0]] * 3, r"has shape \(3, 2\); one row for each of the 2 seeds"),
        ((0, 1), 0.5, "must have 1 dimension"),
    ],
)
def test_entries_have_a_row_for_every_seed(seeds: tuple[int, ...], entry: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScoreTable(("a",), (True,), {"mini": {"a": entry}}, seeds=seeds)  # type: ignore[dict-item]
