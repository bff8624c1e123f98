"""Colours, markers and line styles that differ without colour vision, on light and on dark paper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from matplotlib.colors import LinearSegmentedColormap

from cotbal.report.names import strategy_label
from cotbal.report.plots.svg import BLUE

# From Okabe and Ito's colour-blind safe set, without its black and yellow (unreadable on dark and on light paper).
# Its blue comes from `svg`, because dark pages need a lighter one.
ORANGE, GREEN, VERMILLION, PURPLE, SKY = "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
GREY = "#8A929B"

# Negative: orange-brown. Positive: blue. They differ for every common colour blindness, and from zero in lightness.
DIVERGING = LinearSegmentedColormap.from_list(
    "contribution", ["#8F3E00", VERMILLION, "#F3B58A", "#F6F6F4", "#8DBDDD", "#0072B2", "#00406B"], N=61
)


@dataclass(frozen=True)
class Look:
    """The look of one series everywhere in the report."""

    label: str
    colour: str
    marker: str
    line: Any  # a matplotlib line style: a name, or an offset with dash lengths


_DASHES: tuple[Any, ...] = (
    "solid",
    (0, (5, 1.5)),
    (0, (1.2, 1.2)),
    (0, (5, 1.5, 1.2, 1.5)),
    (0, (8, 2)),
    (0, (3, 1.5, 1.2, 1.5, 1.2, 1.5)),
)
_KNOWN = {
    "single": Look("single-task", GREY, "D", (0, (1.2, 1.2))),
    "ew": Look("EW", ORANGE, "s", (0, (5, 1.5))),
    "cotbal": Look("CoTBal", BLUE, "o", "solid"),
    "mini": Look("mini", ORANGE, "s", (0, (5, 1.5))),
    "plus": Look("plus, this task", BLUE, "o", "solid"),
    "other": Look("plus, other tasks", GREY, "", "solid"),
}
_SPARE = (
    (GREEN, "^"),
    (VERMILLION, "v"),
    (PURPLE, "P"),
    (SKY, "X"),
    (GREEN, "<"),
    (VERMILLION, ">"),
    (PURPLE, "h"),
)


def looks(strategies: tuple[str, ...]) -> dict[str, Look]:
    """Return one look per strategy by name; known strategies always have the same."""
    found: dict[str, Look] = {}
    spare = 0
    for strategy in strategies:
        if strategy in _KNOWN:
            found[strategy] = _KNOWN[strategy]
            continue
        colour, marker = _SPARE[spare % len(_SPARE)]
        found[strategy] = Look(strategy_label(strategy), colour, marker, _DASHES[(spare + 2) % len(_DASHES)])
        spare += 1
    return found
