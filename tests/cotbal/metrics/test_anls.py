"""ANLS against a recursive edit distance."""

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotbal.metrics.anls import anls

TEXTS = st.text(alphabet="abc d", max_size=9)


def _distance(first: str, second: str) -> int:
    @cache
    def between(i: int, j: int) -> int:
        if i == 0 or j == 0:
            return i + j
        return min(
            between(i - 1, j) + 1,
            between(i, j - 1) + 1,
            between(i - 1, j - 1) + (first[i - 1] != second[j - 1]),
        )

    return between(len(first), len(second))


def _by_definition(prediction: str, reference: str) -> float:
    one, other = (" ".join(text.lower().split()) for text in (prediction, reference))
    if not one and not other:
        return 1.0
    similarity = 1 - _distance(one, other) / max(len(one), len(other))
    return similarity if similarity >= 0.5 else 0.0


@given(TEXTS, st.lists(TEXTS, min_size=1, max_size=3))
def test_the_best_reference_by_the_definition(prediction: str, references: list[str]) -> None:
    wanted = max(_by_definition(prediction, reference) for reference in references)
    assert anls([prediction], [references]) == [wanted]


@pytest.mark.parametrize(
    ("prediction", "references", "score"),
    [
        ("kitten", ["sitting"], 1 - 3 / 7),
        ("Room B12", ["room  b12 "], 1.0),
        ("room b1", ["room b12"], 1 - 1 / 8),
        ("$1,284.5", ["$1,284.50", "total"], 1 - 1 / 9),
        ("ab", ["ax"], 0.5),
        ("abcdef", ["uvwxyz"], 0.0),
        ("", ["a"], 0.0),
        ("", [""], 1.0),
        ("東京 都", ["東京都"], 1.0),
        ("東京駅", ["東京都"], 1 - 1 / 3),
        ("cafe\u0301", ["café"], 1.0),
        ("a long sentence with the answer 42 in it", ["42"], 0.0),
    ],
)
def test_examples(prediction: str, references: list[str], score: float) -> None:
    assert anls([prediction], [references]) == [pytest.approx(score)]


@given(TEXTS, TEXTS)
def test_it_is_symmetric_and_between_zero_and_one(first: str, second: str) -> None:
    (score,) = anls([first], [[second]])
    assert anls([second], [[first]]) == [score]
    assert score == 0 or 0.5 <= score <= 1


@given(st.text(alphabet="ab", max_size=40), st.text(alphabet="ab", max_size=40))
def test_the_distance_is_that_of_the_plain_table(first: str, second: str) -> None:
    row = list(range(len(second) + 1))
    for letter in first:
        above, row = row, [row[0] + 1]
        for column, other in enumerate(second):
            row.append(min(above[column] + (letter != other), above[column + 1] + 1, row[column] + 1))
    longest = max(len(first), len(second), 1)
    similarity = 1 - row[-1] / longest
    assert anls([first], [[second]]) == [similarity if similarity >= 0.5 else 0.0]


def test_references_longer_than_an_answer_are_refused() -> None:
    with pytest.raises(ValueError, match=r"references\[0\] has 20001 characters; anls compares .* 20000"):
        anls(["x"], [["x" * 20_001]])
