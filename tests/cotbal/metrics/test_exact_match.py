"""Exact match, on the rules of the authors' evaluation."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotbal.metrics.exact_match import exact_match


@pytest.mark.parametrize(
    ("prediction", "reference", "score"),
    [
        ("yes", "yes", 1),
        ("Yes.", "yes", 1),
        (" yes \n", "YES.", 1),
        ("yes..", "yes", 0),
        ("yes..", "yes.", 0),
        ("yes .", "yes", 0),
        ("yes it is", "yes", 0),
        ("", "yes", 0),
        ("", "", 1),
        (".", "", 1),
        ("3.0", "3", 0),
    ],
)
def test_examples(prediction: str, reference: str, score: float) -> None:
    assert exact_match([prediction], [[reference]]) == [score]


@given(st.text(), st.lists(st.text(), min_size=1, max_size=4))
def test_any_reference_will_do(prediction: str, references: list[str]) -> None:
    each = [exact_match([prediction], [[reference]])[0] for reference in references]
    assert exact_match([prediction], [references]) == [max(each)]


@given(st.text())
def test_a_text_matches_itself(text: str) -> None:
    assert exact_match([text], [[text]]) == [1.0]
