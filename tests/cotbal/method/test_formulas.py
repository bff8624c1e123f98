"""The plain formulas against exact fractions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.method import method_oracle as oracle
from support.method.measured import COUNTS, POSITIVE, VALUES, vectors

from cotbal.method.formulas import (
    improvement_and_error,
    inter_task_contributions,
    intra_task_difficulty,
    relative_improvements,
)

# A difference of two floats, a ratio and a last subtraction are rounded once each.
THREE_ROUNDINGS = 4 * oracle.EPS


@st.composite
def _means(draw: st.DrawFn) -> tuple[list[float], list[list[float]]]:
    count = draw(COUNTS)
    entries = VALUES.map(lambda value: round(value, 3))  # Equal entries, hence denominators of 0, are likely.
    return draw(vectors(count, entries)), [draw(vectors(count, entries)) for _ in range(count)]


@given(_means())
def test_contributions_are_the_formula_s(means: tuple[list[float], list[list[float]]]) -> None:
    mini, plus = means
    found = inter_task_contributions(mini, plus)
    wanted = oracle.contributions(mini, plus)
    for (i, j), value in np.ndenumerate(found):
        exact = wanted[i][j]
        if exact is None:
            assert np.isnan(value)
        else:
            assert abs(value - float(exact)) <= THREE_ROUNDINGS * abs(float(exact))


@given(_means())
def test_the_direction_of_a_metric_cancels_in_contributions(
    means: tuple[list[float], list[list[float]]],
) -> None:
    mini, plus = (np.array(values) for values in means)
    np.testing.assert_array_equal(
        inter_task_contributions(-mini, -plus), inter_task_contributions(mini, plus)
    )


def test_a_difference_that_is_only_rounding_is_none() -> None:
    mini, own = sum([0.1] * 10), 1.0
    assert mini != own
    assert np.isnan(inter_task_contributions([mini, 0.0], [[own, 1.0], [2.0, 1.0]])[1, 0])


def test_one_task_has_no_contributions() -> None:
    np.testing.assert_array_equal(inter_task_contributions([0.5], [[0.7]]), [[np.nan]])


@given(st.data())
def test_difficulty_is_the_formula_s(data: st.DataObject) -> None:
    count = data.draw(COUNTS)
    mini, own = data.draw(vectors(count, POSITIVE)), data.draw(vectors(count, POSITIVE))
    higher = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
    found = intra_task_difficulty(mini, own, higher)
    np.testing.assert_array_equal(found, intra_task_difficulty(mini, np.diag(own), higher))
    for value, m, p, h in zip(found, mini, own, higher, strict=True):
        exact = float(oracle.difficulty(m, p, h))
        assert abs(value - exact) <= THREE_ROUNDINGS * (1 + abs(exact))


def test_nothing_learnt_from_the_mini_subset_is_a_difficulty_of_one() -> None:
    np.testing.assert_array_equal(intra_task_difficulty([0.0, 0.0], [0.5, 1e-9]), [1.0, 1.0])
    np.testing.assert_array_equal(intra_task_difficulty([2.0], [0.0], higher_is_better=False), [1.0])


@pytest.mark.parametrize(
    ("mini", "plus", "higher", "message"),
    [
        (
            [0.0, 0.1],
            [0.5, 0.0],
            True,
            r"difficulty of task 'b' is undefined: V\[plus\] is 0 .* explicit weight",
        ),
        ([0.0, 0.1], [0.5, -0.2], True, r"difficulty of task 'b' is undefined: V\[plus\] is -0.2"),
        (
            [1.0, 0.0],
            [0.5, 0.1],
            False,
            r"difficulty of task 'b' is undefined: V\[mini\] is 0 .* lower is better",
        ),
    ],
)
def test_a_denominator_of_difficulty_must_be_positive(
    mini: list[float], plus: list[float], higher: bool, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        intra_task_difficulty(mini, plus, higher, tasks=["a", "b"])


@given(st.data())
def test_improvement_and_error_are_the_formulas(data: st.DataObject) -> None:
    count = data.draw(COUNTS)
    method, single = data.draw(vectors(count)), data.draw(vectors(count, POSITIVE))
    higher = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
    found = improvement_and_error(method, single, higher)
    improvement, error = oracle.improvement_and_error(method, single, higher)
    # Each r_i is rounded at most five times, and their sum count times; the terms may cancel.
    budget = (5 + count) * oracle.EPS * float(np.abs(relative_improvements(method, single, higher)).mean())
    assert abs(found.improvement - float(improvement)) <= budget
    assert abs(found.error - float(error)) <= budget


@given(st.data())
def test_a_method_compared_with_itself_gains_and_loses_nothing(data: st.DataObject) -> None:
    scores = data.draw(vectors(data.draw(COUNTS), POSITIVE))
    assert improvement_and_error(scores, scores) == (0.0, 0.0)


def test_the_sign_turns_where_lower_is_better() -> None:
    assert improvement_and_error([1.0], [2.0], higher_is_better=False) == (50.0, 0.0)
    assert improvement_and_error([1.0], [2.0], higher_is_better=True) == (-50.0, 50.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: inter_task_contributions([0.5, 0.2], [[1, 2, 3]] * 3), r"plus has shape \(3, 3\); \(2, 2\)"),
        (lambda: inter_task_contributions([[0.5]], [[1]]), r"mini must have 1 dimension"),
        (lambda: inter_task_contributions([], []), "mini is empty"),
        (lambda: inter_task_contributions([np.nan], [[1]]), r"mini\[0\] is nan"),
        (lambda: inter_task_contributions([0.5], [[1]], [True, False]), "higher_is_better has 2 entries"),
        (lambda: intra_task_difficulty([0.5, 0.2], [1.0]), r"plus has shape \(1,\)"),
        (lambda: intra_task_difficulty([0.5], [1.0], [True, False]), "higher_is_better has 2 entries"),
        (lambda: improvement_and_error([0.5, 1.0], [0.5]), "single_task_scores has shape"),
        (lambda: improvement_and_error([0.5, 1.0], [0.5, 0.0]), r"single_task_scores\[1\] is 0"),
        (lambda: improvement_and_error([0.5, np.inf], [0.5, 1.0]), r"scores\[1\] is inf"),
    ],
)
def test_bad_arguments_are_named(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]


@pytest.mark.parametrize("mini", [["x"], [None], [[1.0], [1.0, 2.0]], [1j]])
def test_what_is_no_number_is_named(mini: list) -> None:
    with pytest.raises(TypeError, match="mini must be"):
        inter_task_contributions(mini, [[1.0]])
