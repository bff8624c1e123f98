"""Boxes and names as each family writes them: through its own processor, and the same in every way data come in."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.families.listing import FAMILIES

from cotbal.data import read_records
from cotbal.data.collate import TaskCollator
from cotbal.data.notation import THOUSANDTHS, BoxNotation, notation_of
from cotbal.metrics import get

WIDTH, HEIGHT = 80, 40
WRITTEN = {
    "Qwen2-VL": (
        "<|object_ref_start|>a dog<|object_ref_end|>",
        "<|box_start|>(100,250),(500,500)<|box_end|>",
        "<|box_start|>(500,250)<|box_end|>",
    ),
    # 80 x 40 pixels become 84 x 28, both multiples of 28.
    "Qwen2.5-VL": ("a dog", "[8, 7, 42, 14]", "[42, 7]"),
    "Qwen3-VL": ("a dog", "[100, 250, 500, 500]", "[500, 250]"),
    "InternVL": ("<ref>a dog</ref>", "<box>[[100, 250, 500, 500]]</box>", "<box>[[500, 250]]</box>"),
    "Gemma 3": ("a dog", "[100, 250, 500, 500]", "[500, 250]"),
    "Llama": ("a dog", "[100, 250, 500, 500]", "[500, 250]"),
}
RAW = {
    "messages": [
        {"role": "user", "content": "<image>Find <ref-object>"},
        {"role": "assistant", "content": "<bbox>, at <bbox>"},
    ],
    "images": ["a.png"],
    "objects": {"ref": ["a dog"], "bbox": [[8, 10, 40, 20], [40, 10]]},
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    Image.new("RGB", (WIDTH, HEIGHT), "red").save(tmp_path / "a.png")
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(RAW) + "\n")
    return path


@pytest.mark.parametrize("family", WRITTEN)
def test_boxes_are_written_as_the_family_does(file: Path, family: str) -> None:
    processor = FAMILIES[family].make()[1]
    (record,) = read_records(file, task="t", notation=lambda: notation_of(processor))
    name, box, point = WRITTEN[family]
    assert record.turns[0].text == f"<image>Find {name}"
    assert record.turns[1].text == f"{box}, at {point}"
    # The answer scores full marks against itself, and another box does not.
    metric = get("iou")
    assert metric.score([box], [[box]]) == [1.0]
    if FAMILIES[family].pictures:
        row = {**RAW, "images": [str(file.parent / "a.png")]}
        given = TaskCollator(processor, ["t"])([row])
        read = TaskCollator(processor, ["t"])([record])
        assert given["input_ids"].tolist() == read["input_ids"].tolist()
        assert given["labels"].tolist() == read["labels"].tolist()


def test_pixels_are_those_of_the_picture_that_the_model_sees(file: Path) -> None:
    processor = FAMILIES["Qwen2.5-VL"].make()[1]
    picture = Image.open(file.parent / "a.png")
    _, rows, columns = processor.image_processor(images=[picture], return_tensors="pt")["image_grid_thw"][0]
    patch = processor.image_processor.patch_size
    whole = notation_of(processor).write_box([0.0, 0.0, 1.0, 1.0], lambda: picture.size)
    assert whole == f"[0, 0, {int(columns) * patch}, {int(rows) * patch}]"
    thin = Image.new("RGB", (4020, 20))
    thin.save(file.parent / "a.png")
    found = read_records(file, task="t", on_bad="skip", notation=lambda: notation_of(processor))
    (problem,) = found.problems
    assert "a picture of 4020 x 20 pixels is refused: absolute aspect ratio" in problem.reason


def test_a_family_with_location_tokens_is_refused_by_name(file: Path) -> None:
    processor = FAMILIES["PaliGemma 2"].make()[1]
    (problem,) = read_records(file, task="t", on_bad="skip", notation=lambda: notation_of(processor)).problems
    assert "boxes from 'objects' are not written for PaliGemmaProcessor" in problem.reason


def test_the_notation_is_asked_for_where_there_are_boxes_alone(file: Path) -> None:
    def unwanted() -> BoxNotation:
        raise AssertionError

    file.write_text(json.dumps({"query": "q", "response": "x"}) + "\n")
    assert len(read_records(file, task="t", notation=unwanted)) == 1


@given(st.lists(st.floats(0, 1), min_size=4, max_size=4), st.sampled_from(list(WRITTEN)[:5]))
def test_what_is_written_is_read_back_by_the_metric(shares: list[float], family: str) -> None:
    left, right = sorted(shares[::2])
    top, bottom = sorted(shares[1::2])
    if min(right - left, bottom - top) < 0.1:
        return
    notation = _notation(family)
    box = notation.write_box([left, top, right, bottom], lambda: (640, 480))
    assert get("iou").score([box], [[box]]) == [1.0]


_kept: dict[str, Any] = {}


def _notation(family: str) -> BoxNotation:
    if family not in _kept:
        _kept[family] = notation_of(FAMILIES[family].make()[1])
    found: BoxNotation = _kept[family]
    return found


def test_thousandths_are_the_default() -> None:
    assert THOUSANDTHS.write_box([0.1, 0.2], lambda: (1, 1)) == "[100, 200]"
    assert THOUSANDTHS.write_name("a {cup}") == "a {cup}"
