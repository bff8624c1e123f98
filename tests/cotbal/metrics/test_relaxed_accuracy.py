"""Relaxed accuracy: five percent for numbers, equality for text."""

from decimal import Decimal, InvalidOperation

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
        ("1,284", "1284", 1),
        ("1,284.5", "1,300", 1),
        ("12,84", "1284", 0),
        ("12 %", "0.12", 1),
        ("9" * 5000, "9", 0),
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


def _as_published(prediction: str, target: str) -> bool:
    """Masry et al., section 5.1, in decimals: no binary rounding, no shared code."""
    values = []
    for text in (prediction, target):
        try:
            values.append(Decimal(text.rstrip("%")) / 100 if text.endswith("%") else Decimal(text))
        except InvalidOperation:
            values.append(None)
    found, wanted = values
    if found is not None and wanted:
        return abs(found - wanted) / abs(wanted) <= Decimal("0.05")
    return prediction.lower() == target.lower()


NUMBERS = st.builds(
    lambda sign, whole, decimals, percent: f"{sign}{whole}{decimals}{percent}",
    st.sampled_from(["", "-"]),
    st.integers(0, 120),
    st.sampled_from(["", ".5", ".25", ".05"]),
    st.sampled_from(["", "", "%"]),
)


@given(NUMBERS | st.sampled_from(["Yes", "yes", "%", "blue"]), NUMBERS | st.sampled_from(["yes", "blue"]))
def test_it_is_the_published_rule(prediction: str, target: str) -> None:
    assert relaxed_accuracy([prediction], [[target]]) == [float(_as_published(prediction, target))]
