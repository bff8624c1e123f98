"""Pictures say what their numbers say."""

from __future__ import annotations

import re
from collections import Counter
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotbal.report.names import number
from cotbal.report.plots.comparison import Series, changes_plot, summary_plot
from cotbal.report.plots.curves import Line, curves_plot
from cotbal.report.plots.heat_map import contribution_heat_map
from cotbal.report.plots.labels import short
from cotbal.report.plots.palette import looks
from cotbal.report.plots.svg import Picture
from cotbal.report.plots.weights import Estimate, measures_plot, weights_plot

SVG = "{http://www.w3.org/2000/svg}"


def texts(picture: Picture) -> list[str]:
    """All text drawn in a picture."""
    return [text.text or "" for text in ElementTree.fromstring(picture.file).iter(f"{SVG}text")]


def contributions(count: int, undefined: tuple[int, ...] = ()) -> np.ndarray:
    values = np.random.default_rng(count).normal(0.2, 0.3, (count, count))
    values[:, list(undefined)] = np.nan
    np.fill_diagonal(values, np.nan)
    return values


def means(values: np.ndarray, axis: int) -> np.ndarray:
    defined = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(defined, values, 0).sum(axis) / defined.sum(axis)


def heat_map(values: np.ndarray, margin: float | None = None) -> Picture:
    count = len(values)
    bounds = {} if margin is None else {"lower": values - margin, "upper": values + margin}
    return contribution_heat_map(
        [f"t{i}" for i in range(count)], values, means(values, 1), means(values, 0), **bounds
    )


@pytest.mark.parametrize("count", [2, 7, 20])
def test_heat_map_writes_every_defined_entry_and_hatches_the_rest(count: int) -> None:
    values = contributions(count, undefined=(1,))
    picture = heat_map(values)
    written = texts(picture)
    shown = [*values.ravel(), *means(values, 1), *means(values, 0)]
    expected = Counter(number(value, 2) for value in shown if np.isfinite(value))
    scale = Counter(text for text in written if re.fullmatch(r"[≤≥] ?−?[\d.]+|−?[\d.]+", text)) - expected
    assert not expected - Counter(written)
    assert scale.total() == 5
    assert "undefined" in written
    assert f"{count - 1} entries are undefined" in picture.alt
    hatched = picture.file.count("fill: url(#")
    # The column but its diagonal, its mean, and the key; with two tasks also the mean of the row that is left empty.
    assert hatched == (count - 1) + 1 + 1 + (1 if count == 2 else 0)


def test_heat_map_sets_what_is_beyond_noise_in_bold() -> None:
    values = contributions(4)
    beyond = int((np.abs(values) > 0.25).sum())
    assert heat_map(values, margin=0.25).file.count("font-weight: 700") == beyond > 0
    assert "font-weight" not in heat_map(values).file


def test_heat_map_of_many_tasks_leaves_the_figures_to_the_table() -> None:
    assert not [text for text in texts(heat_map(contributions(30))) if re.fullmatch(r"−?\d\.\d\d", text)]


def test_extreme_contributions_keep_their_figures_and_the_scale_says_it_ends() -> None:
    values = contributions(3)
    values[0, 1] = -12.4
    written = texts(heat_map(values))
    assert "−12" in written
    assert "≥ 1" in written


def test_weights_are_written_beside_their_bars() -> None:
    weights = np.array([1.25, 0.75, 1.0])
    terms = {"outward": Estimate(np.array([1.5, 0.5, np.nan]))}
    picture = weights_plot(["a", "b", "given"], Estimate(weights), terms)
    assert {"1.250", "0.750", "1.000", "a", "b", "given"} <= set(texts(picture))
    assert "a 1.250, b 0.750" in picture.alt


def test_whiskers_are_drawn_where_there_are_intervals() -> None:
    values = np.array([0.9, 0.8])
    terms = {"outward": Estimate(values)}
    plain = weights_plot(["a", "b"], Estimate(values), terms)
    half = weights_plot(["a", "b"], Estimate(values, np.array([0.7, np.nan]), np.array([1.1, np.nan])), terms)
    whole = weights_plot(["a", "b"], Estimate(values, values - 0.2, values + 0.2), terms)
    strokes = [picture.file.count("<use") for picture in (plain, half, whole)]
    assert strokes[1] == strokes[0] + 2
    assert strokes[2] == strokes[0] + 4
    assert "Whiskers" not in plain.caption
    assert "Whiskers" in half.caption


def test_undefined_measures_are_named_in_place() -> None:
    inward = np.array([0.1, np.nan])
    picture = measures_plot(["a", "b"], Estimate(inward), Estimate(inward), Estimate(np.array([0.3, 0.4])))
    assert texts(picture).count("undefined") == 2
    assert "b undefined, undefined, 0.40" in picture.alt


def test_changes_beyond_the_edge_are_written_out() -> None:
    look = looks(("ew",))["ew"]
    changes = np.array([[1.0, -2.0, 480.0, 1.5], [2.0, -1.0, 480.0, 1.0]])
    picture = changes_plot(
        ["a", "b", "c", "d"], [Series(look, changes, changes.mean(1), changes.mean(1))], "EW"
    )
    assert "+480" in texts(picture)
    assert "Values beyond the edge" in picture.caption


def test_a_summary_shows_means_and_undefined_ones() -> None:
    styles = looks(("ew", "cotbal"))
    known = Series(styles["ew"], np.array([[1.0], [3.0]]), np.array([1.0, 3.0]), np.array([0.0, 0.5]))
    unknown = Series(styles["cotbal"], np.full((2, 1), np.nan), np.full(2, np.nan), np.full(2, np.nan))
    picture = summary_plot([known, unknown], "single-task")
    assert {"+2.00", "0.25", "undefined"} <= set(texts(picture))
    assert "EW: dI +2.00, dE 0.25" in picture.alt


def test_curves_keep_gaps_single_points_and_empty_panels() -> None:
    styles = looks(("ew",))
    steps = np.arange(5.0)
    gap = Line("a", "ew", steps, np.array([3.0, np.nan, 2.0, np.nan, 1.0]))
    point = Line("b", "ew", steps[:1], np.array([0.5]))
    empty = Line("c", "ew", steps, np.full(5, np.nan))
    picture = curves_plot("curves", "Losses", ["a", "b", "c"], [gap, point, empty], styles, "")
    assert "no values logged" in texts(picture)
    assert "a: EW 1; b: EW 0.5" in picture.alt


def test_long_curves_are_thinned() -> None:
    styles = looks(("ew",))
    steps = np.arange(20000.0)
    picture = curves_plot(
        "curves", "Losses", ["a"], [Line("a", "ew", steps, 1 + 1 / (1 + steps))], styles, ""
    )
    assert len(picture.file) < 40_000
    assert "running mean" in picture.caption


def test_strategies_look_different_and_always_the_same() -> None:
    names = ("ew", "cotbal", "dwa", "igb", "rlw", "tla", "mine")
    found = looks(names)
    assert len({(look.colour, look.marker) for look in found.values()}) == len(names)
    assert len({look.marker for look in found.values()}) == len(names)
    assert looks(("cotbal",))["cotbal"] == found["cotbal"]


NAMES = st.lists(st.text("abc-", min_size=1, max_size=40), min_size=1, max_size=6, unique=True)


@given(NAMES, st.integers(8, 30))
def test_short_names_differ_where_the_names_do(names: list[str], limit: int) -> None:
    found = short(names, limit)
    assert len(set(found)) == len(names)
    assert found == tuple(names) or max(map(len, found)) <= limit


def test_no_group_without_attributes_and_no_empty_one_is_left() -> None:
    """matplotlib nests three such groups around each tick, a third of a picture's bytes."""
    measured = [Estimate(np.array([0.2, 0.4])) for _ in range(3)]
    for file in (weights_plot(["a", "b"], measured[0], {}).file, measures_plot(["a", "b"], *measured).file):
        assert "<g>" not in file
        assert not re.search(r"<g[^>]*/>", file)
        assert file.count("<g ") == file.count("</g>")
