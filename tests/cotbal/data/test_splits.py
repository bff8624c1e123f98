"""Nested, seeded subsets and the sets of the preparation runs."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotbal.data import Record, Turn, mini_indices, preparation_sets

fractions = st.floats(0.01, 1.0)
seeds = st.integers(-(2**31), 2**31)


def records(task: str, count: int) -> list[Record]:
    turns = (Turn("user", "?"), Turn("assistant", "."))
    return [Record(str(i), task, (), turns, (".",), Path("x.json"), i) for i in range(count)]


@given(st.integers(1, 300), fractions, fractions, seeds)
def test_subsets_are_nested_and_of_the_size_asked_for(count: int, one: float, two: float, seed: int) -> None:
    small, large = (mini_indices(count, fraction, seed) for fraction in sorted((one, two)))
    assert set(small) <= set(large) <= set(range(count))
    assert small == sorted(set(small))
    assert len(small) == math.ceil(round(min(one, two) * count, 9))


@given(st.integers(1, 300), st.integers(0, 50), seeds)
def test_appended_samples_do_not_reshuffle_the_others(count: int, more: int, seed: int) -> None:
    before = mini_indices(count, 0.2, seed)
    after = mini_indices(count + more, 1.0, seed)
    again = mini_indices(count + more, 0.2, seed)
    # A sample that was chosen leaves only when new ones with lower ranks take its place.
    assert len(set(before) - set(again)) <= more
    assert after == list(range(count + more))


def test_seed_and_stream_change_the_subset() -> None:
    chosen = [
        mini_indices(1000, 0.1, 0),
        mini_indices(1000, 0.1, 1),
        mini_indices(1000, 0.1, 0, stream="vqa"),
    ]
    assert len({tuple(indices) for indices in chosen}) == 3
    # Two independent tenths of 1000 share 10 on average, standard deviation 2.8.
    assert all(len(set(a) & set(b)) < 25 for a in chosen for b in chosen if a is not b)


def test_subsets_stay_the_same_from_version_to_version() -> None:
    assert mini_indices(40, 0.1, 0, stream="caption") == [10, 19, 30, 38]


@given(
    st.dictionaries(st.sampled_from("abcd"), st.integers(1, 60), min_size=1),
    st.floats(0.05, 0.5),
    st.floats(0.5, 1.0),
    st.integers(0, 5),
)
def test_preparation_sets(sizes: dict[str, int], mini: float, plus: float, seed: int) -> None:
    tasks = {name: records(name, size) for name, size in sizes.items()}
    sets = preparation_sets(tasks, mini_fraction=mini, plus_fraction=plus, seed=seed)
    assert list(sets) == ["mini", *(f"plus_{name}" for name in tasks)]
    minis = {(r.task, r.index) for r in sets["mini"]}
    assert {task for task, _ in minis} == set(tasks)
    for name in tasks:
        chosen = {(r.task, r.index) for r in sets[f"plus_{name}"]}
        assert len(chosen) == len(sets[f"plus_{name}"])
        assert minis <= chosen
        assert {place for place in chosen if place[0] != name} == {
            place for place in minis if place[0] != name
        }
        assert sum(place[0] == name for place in chosen) == math.ceil(round(plus * sizes[name], 9))


def test_unmeasured_tasks_take_part_with_their_mini_subset_only() -> None:
    tasks = {"a": records("a", 20), "text": records("text", 20)}
    sets = preparation_sets(tasks, mini_fraction=0.1, measured=["a"])
    assert list(sets) == ["mini", "plus_a"]
    assert sum(r.task == "text" for r in sets["plus_a"]) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mini_fraction": 0.0}, "mini_fraction is 0.0"),
        ({"plus_fraction": 1.5}, "plus_fraction is 1.5"),
        ({"mini_fraction": 0.5, "plus_fraction": 0.1}, "is below mini_fraction"),
        ({"measured": ["b"]}, "measured task 'b'"),
    ],
)
def test_bad_arguments_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        preparation_sets({"a": records("a", 4)}, **changes)  # type: ignore[arg-type]


def test_empty_input_is_named() -> None:
    with pytest.raises(ValueError, match="records_by_task is empty"):
        preparation_sets({})
    with pytest.raises(ValueError, match="'a' has no training records"):
        preparation_sets({"a": []})
    with pytest.raises(ValueError, match="count is -1"):
        mini_indices(-1)
