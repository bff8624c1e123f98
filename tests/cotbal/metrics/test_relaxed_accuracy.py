"""Relaxed accuracy: five percent for numbers, equality for text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotbal.metrics.relaxed_accuracy import relaxed_accuracy


@pytest.mark.parametrize(
    ("prediction", "reference", "score"),
    [
        ("100", "100", 1),
        ("104.9", "100", 1),
        ("105", "100", 1),
        ("95", "100", 1),
        ("1.05", "1", 1),
        ("105.1", "100", 0),
        ("94.9", "100", 0),
        ("-104", "-100", 1),
        ("104", "-100", 0),
        ("12%", "0.12", 1),
        ("12%", "12", 0),
        ("12.5%", "12%", 1),
        ("0", "0", 1),
        ("0.0", "0", 0),
        ("0.001", "0", 0),
        ("Blue", "blue", 1),
        (" blue ", "Blue", 1),
        ("dark blue", "blue", 0),
        ("nan", "nan", 1),
        ("inf", "1e9", 0),
        ("1_00", "100", 0),
        ("about 100", "100", 0),
        ("%", "%", 1),
        ("", "5", 0),
    ],
)
def test_examples(prediction: str, reference: str, score: float) -> None:
    assert relaxed_accuracy([prediction], [[reference]]) == [score]


@given(st.integers(1, 10**6), st.integers(-20, 20))
def test_a_whole_percentage_decides(target: int, percent: int) -> None:
    # target * 100 and its percentages are exact in decimal, so only the rule decides.
    prediction = f"{target * (100 + percent)}"
    assert relaxed_accuracy([prediction], [[f"{target * 100}"]]) == [float(abs(percent) <= 5)]


@given(st.text(), st.lists(st.text(), min_size=1, max_size=3))
def test_any_reference_will_do(prediction: str, references: list[str]) -> None:
    each = [relaxed_accuracy([prediction], [[reference]])[0] for reference in references]
    assert relaxed_accuracy([prediction], [references]) == [max(each)]
