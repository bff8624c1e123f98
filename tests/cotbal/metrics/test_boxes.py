"""Boxes as models write them, found by a parser that has to answer for every text."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotbal.metrics.boxes import LARGEST, Box, Layout, parse_box

NUMBERS = st.integers(0, 999).map(str) | st.floats(0, 999, allow_subnormal=False).map(lambda x: f"{x:.3f}")
NOTATIONS = [
    "[{}, {}, {}, {}]",
    "[{},{},{},{}]",
    "({} {} {} {})",
    "[{}, {}, {}, {}, 0.87]",
    "[{}, {}, {}, {}, 1]",
    "({},{}),({},{})",
    "[[{}, {}], [{}, {}]]",
    "{}, {}, {}, {}",
    "{} {} {} {}",
    "The box is {}, {}, {}, {}.",
    "It stands at ({},{}),({},{}) beside 2 dogs.",
    'box: "bbox_2d": [{}, {}, {}, {}]',
    '```json\n[\n  {{"label": "9", "bbox_2d": [\n{},\n{},\n{},\n{}]}}\n]\n```',
    "{{'bbox_2d': [{}, {}, {}, {}], 'label': 'cat'}}, {{'bbox_2d': [0, 0, 1, 1]}}",
    "At [{}, {}, {}, {}], and another at [5, 6, 7, 8]",
    "In 3 of 4 rows: [{}, {}, {}, {}]",
]


@given(st.tuples(NUMBERS, NUMBERS), st.tuples(NUMBERS, NUMBERS), st.sampled_from(NOTATIONS))
def test_every_notation_reads_back(xs: tuple[str, str], ys: tuple[str, str], notation: str) -> None:
    (x1, x2), (y1, y2) = (sorted(pair, key=float) for pair in (xs, ys))
    assert parse_box(notation.format(x1, y1, x2, y2)) == Box(*map(float, (x1, y1, x2, y2)))
    width, height = float(x1) + float(x2), float(y1) + float(y2)
    assert parse_box(notation.format(x1, y1, x2, y2), "xywh") == Box(float(x1), float(y1), width, height)


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("<loc0010><loc0020><loc0030><loc0040> dog", Box(20, 10, 40, 30, "tokens")),
        ("dog<loc_10><loc_20><loc_30><loc_40>", Box(10, 20, 30, 40, "tokens")),
        ("<loc0010><loc0020><loc0030>", None),
        ("<loc0040><loc0020><loc0030><loc0040>", None),
        ("<loc_10><loc0020><loc0030><loc0040>", None),
    ],
)
@pytest.mark.parametrize("layout", ["xyxy", "xywh"])
def test_location_tokens_are_corners_in_every_layout(text: str, box: Box | None, layout: Layout) -> None:
    assert parse_box(text, layout) == box


@pytest.mark.parametrize(
    "text",
    [
        "[1, 2, 3, 4, 5]",
        "[1, 2, 3, 4, 0.9, 7]",
        "1, 2, 3, 4, 5",
        "in 1, 2, 3, 4, 5, 6 steps",
        "[1, 2, 3, 4",
        "x1, y2, x3, y4",
        "there are 1 2 3 4 dogs",
        f"[0, 0, 1, {LARGEST * 1.1}]",
        "[1, 2, inf, 4]",
    ],
)
def test_what_is_no_box(text: str) -> None:
    assert parse_box(text) is None


MARKS = list('[](),.-+e1": \n')
WHOLE = [
    "0.5",
    "9" * 400,
    "1e999",
    "bbox_2d",
    "<loc",
    "0010>",
    "_10>",
    "<loc0010>",
    "<loc_10>",
    "٣",
    "\x00",
    "\ud800",
]
PIECES = st.sampled_from([*MARKS, *WHOLE])
ANSWERS = st.lists(PIECES, max_size=30).map("".join) | st.text(max_size=40)


def _answers_for(text: str, layout: Layout) -> None:
    box = parse_box(text, layout)
    assert box is None or (box.x1 <= box.x2 and box.y1 <= box.y2 and 0 <= box.area <= (4 * LARGEST) ** 2)
    assert box is None or len(re.findall(r"\d", text)) >= 4


@given(ANSWERS, st.sampled_from(["xyxy", "xywh"]))
def test_any_text_has_an_answer(text: str, layout: Layout) -> None:
    _answers_for(text, layout)


@pytest.mark.soak
@settings(max_examples=100_000, derandomize=False)
@given(ANSWERS, st.sampled_from(["xyxy", "xywh"]))
def test_any_text_has_an_answer_at_length(text: str, layout: Layout) -> None:
    _answers_for(text, layout)
