"""Numbers as they are written."""

from __future__ import annotations

import math
import re

from hypothesis import example, given
from hypothesis import strategies as st

from cotbal.report.names import duration, interval, number, percent, score

FLOATS = st.floats(-1e9, 1e9)


@given(FLOATS, st.integers(0, 4))
def test_a_number_reads_back_to_its_digits_and_zero_has_no_sign(value: float, digits: int) -> None:
    text = number(value, digits)
    assert abs(float(text.replace("−", "-")) - value) <= 0.5 * 10**-digits * (1 + 1e-9) + 1e-12 * abs(value)
    assert not (float(text.replace("−", "-")) == 0 and text.startswith("−"))
    assert "-" not in text


@given(st.floats(-1e6, 1e6))
def test_a_score_keeps_three_figures(value: float) -> None:
    read = float(score(value).replace("−", "-"))
    assert math.isclose(read, value, rel_tol=0.006) or value == 0


@given(FLOATS)
def test_percent_has_a_sign_exactly_when_it_is_not_zero(value: float) -> None:
    text = percent(value)
    assert (text[0] in "+−") == (float(text.strip("+−")) != 0)


def test_nan_is_undefined_and_no_interval_is_nothing() -> None:
    assert {number(math.nan), score(math.nan), percent(math.nan)} == {"undefined"}
    assert interval(math.nan, 1.0) == ""


@given(st.floats(0, 1e7))
@example(59.96)
@example(3599.7)
def test_durations_never_show_sixty_seconds_or_minutes(seconds: float) -> None:
    assert not re.search(r"\b60(\.0)? (s|min)", duration(seconds))
