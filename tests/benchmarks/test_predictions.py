"""Predicted GPU times: their arithmetic, and that the page calls them predictions."""

import pytest

from benchmarks.predictions import BANDWIDTH, CASES, FLOPS, LAUNCH_SECONDS, LAUNCHES, Prediction, section


def test_the_arithmetic_is_that_of_three_products_and_two_passes() -> None:
    case = Prediction(4096, 4096, 128_256, 1.0)
    assert case.flops == 3 * 2 * 4096 * 4096 * 128_256
    assert case.product_seconds == pytest.approx(13.05e-3, rel=1e-3)
    assert case.row_seconds == pytest.approx(4 * 4096 * 128_256 / BANDWIDTH)
    assert case.seconds > case.product_seconds + case.row_seconds + LAUNCHES * LAUNCH_SECONDS
    assert case.flops / FLOPS == case.product_seconds


def test_a_tenth_of_the_rows_is_a_tenth_of_the_products() -> None:
    whole, part = Prediction(8192, 4096, 32_000, 1.0), Prediction(8192, 4096, 32_000, 0.1)
    assert part.rows == 819
    assert part.flops * 8192 == whole.flops * 819
    assert part.ratio > whole.ratio > 1


def test_the_page_says_that_nothing_of_it_was_measured() -> None:
    text = "\n".join(section())
    assert "Predicted, not measured" in text
    assert "No figure in this section was measured" in text
    assert text.count("\n| ") == len(CASES) + 1
