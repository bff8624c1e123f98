"""IoU against counted cells, and boxes as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotbal.metrics.boxes import Box, parse_box
from cotbal.metrics.iou import IoU, UnlikeBoxesWarning, intersection_over_union


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    x1, x2 = sorted(draw(st.tuples(st.integers(0, 9), st.integers(0, 9))))
    y1, y2 = sorted(draw(st.tuples(st.integers(0, 9), st.integers(0, 9))))
    return Box(x1, y1, x2, y2)


def _cells(box: Box) -> set[tuple[int, int]]:
    return {(x, y) for x in range(int(box.x1), int(box.x2)) for y in range(int(box.y1), int(box.y2))}


@given(boxes(), boxes())
def test_it_is_the_share_of_cells_in_both(first: Box, second: Box) -> None:
    both, either = _cells(first) & _cells(second), _cells(first) | _cells(second)
    assert intersection_over_union(first, second) == (
        len(both) / len(either) if either else float(first == second)
    )


@given(boxes(), boxes(), st.sampled_from([0.001, 1 / 3, 100.0]))
def test_units_do_not_matter(first: Box, second: Box, scale: float) -> None:
    scaled = [Box(*(scale * side for side in (b.x1, b.y1, b.x2, b.y2))) for b in (first, second)]
    assert intersection_over_union(*scaled) == pytest.approx(
        intersection_over_union(first, second), rel=1e-9, abs=1e-9
    )


@pytest.mark.parametrize(
    "text",
    [
        "[1, 2, 3, 4]",
        "[1,2,3,4]",
        "(1, 2, 3, 4)",
        "[1 2 3 4]",
        "1, 2, 3, 4",
        " 1 2 3 4. ",
        "The 7 dogs are at [1.0, 2.0, 3.0, 4.0], the cats at [5, 6, 7, 8].",
        "(1,2),(3,4)",
        "<|box_start|>(1,2),(3,4)<|box_end|>",
        "[[1, 2, 3, 4]]",
        "[[1, 2], [3, 4]]",
        '```json\n[{"bbox_2d": [1, 2, 3, 4], "label": "dog"}]\n```',
        "{'size': [9, 9, 9, 9], 'bbox_2d': [1, 2, 3, 4]}",
        "[+1e0, 2., 3.0e0, .4e1]",
    ],
)
def test_boxes_are_found_as_people_write_them(text: str) -> None:
    assert parse_box(text) == Box(1, 2, 3, 4)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "none",
        "[1, 2, 3]",
        "[1, 2, 3, 4, 5]",
        "1 2 3 4 5",
        "[3, 2, 1, 4]",
        "[1, 4, 3, 2]",
        "[a, 2, 3, 4]",
        "[1e999, 2, 3, 4]",
    ],
)
def test_what_is_no_box(text: str) -> None:
    assert parse_box(text) is None
    assert IoU()([text], [["[1, 2, 3, 4]"]]) == [0.0]


def test_widths_and_heights() -> None:
    assert parse_box("[1, 2, 3, 4]", "xywh") == Box(1, 2, 4, 6)
    assert parse_box("[1, 2, -3, 4]", "xywh") is None
    assert IoU("xywh")(["[0, 0, 2, 2]"], [["[1, 1, 2, 2]"]]) == [1 / 7]


def test_a_threshold_must_be_passed() -> None:
    references = [["[0, 0, 2, 1]"], ["[0, 0, 2, 1]"], ["[0, 0, 4, 1]"]]
    predictions = ["[0, 0, 1, 1]", "[0, 0, 1.01, 1]", "[0, 0, 1, 1]"]
    assert IoU(threshold=0.5)(predictions, references) == [0.0, 1.0, 0.0]


def test_the_best_reference_counts() -> None:
    assert IoU()(["[0, 0, 1, 1]"], [["[5, 5, 6, 6]", "[0, 0, 1, 1]", "[0, 0, 9, 9]"]]) == [1.0]


def test_a_reference_without_a_box_is_named() -> None:
    with pytest.raises(ValueError, match=r"references\[1\] has no proper xyxy box: 'dog'"):
        IoU()(["[0, 0, 1, 1]"] * 2, [["[0, 0, 1, 1]"], ["dog"]])


@pytest.mark.parametrize("reference", ["[10, 20, 10, 20]", "[0, 0, 0, 5]", "[1, 5, 2, 5]"])
def test_a_reference_without_area_is_met_by_itself_alone(reference: str) -> None:
    assert IoU(threshold=0.5)([reference, "[0, 0, 30, 30]"], [[reference]] * 2) == [1.0, 0.0]


def test_location_tokens_are_compared_with_one_another_only() -> None:
    tokens = "<loc0010><loc0020><loc0030><loc0040>"
    assert IoU()([tokens], [[tokens]]) == [1.0]
    assert IoU()(["<loc0010><loc0020><loc0030><loc0030>"], [[tokens]]) == [0.5]
    with pytest.warns(UnlikeBoxesWarning, match="1 of 2 answers write their box in location tokens"):
        assert IoU()([tokens, "[1, 2, 3, 4]"], [["[10, 20, 30, 40]"], ["[1, 2, 3, 4]"]]) == [0.0, 1.0]
