"""Scores and what they were given for, groups of samples, and references that a metric cannot judge."""

from pathlib import Path

import pytest

from cotbal import metrics
from cotbal.config.yaml_file import ConfigError
from cotbal.data.records import Record, Turn
from cotbal.units.scoring import check_references, group_of, score_samples


def record(index: int, text: str = "three") -> Record:
    turns = (Turn("user", "How many are there?"), Turn("assistant", text))
    return Record(str(index), "count", (), turns, (text,), Path("v.json"), index)


RECORDS = [record(index, ("three", "one", "a red four")[index % 3]) for index in range(7)]


def test_scores_keep_what_they_were_given_for() -> None:
    scored = score_samples(RECORDS[:3], ["three", "two", "a red four"], metrics.get("exact_match"), "count")
    assert [(s.index, s.score, s.prediction) for s in scored] == [
        (0, 1.0, "three"),
        (1, 0.0, "two"),
        (2, 1.0, "a red four"),
    ]
    assert scored[0].references == ("three",)
    losses = score_samples(RECORDS[:2], [0.5, 2.0], metrics.get("loss"), "count")
    assert [(s.score, s.prediction) for s in losses] == [(0.5, None), (2.0, None)]


def test_questions_on_one_picture_are_one_group() -> None:
    seen = Record("1", "t", (Path("a.png"),), RECORDS[0].turns, ("x",), Path("v.json"), 0)
    assert group_of(seen) == "a.png"
    moved = Record("1", "t", (Path("/data/new/b/a.png"),), RECORDS[0].turns, ("x",), Path("/data/v.json"), 0)
    assert group_of(moved) == "new/b/a.png"
    assert group_of(moved, Path("/data/new")) == "b/a.png"
    assert group_of(moved, Path("/elsewhere")) == "/data/new/b/a.png"
    assert group_of(RECORDS[0]) != group_of(RECORDS[1])


def test_references_a_metric_cannot_judge_are_found_beforehand() -> None:
    check_references(RECORDS, metrics.get("exact_match"), "count")
    check_references(RECORDS, metrics.get("loss"), "count")
    boxes = [record(0, "[0, 0, 1, 1]"), record(1, "[3, 0, 2, 1]"), record(2, "dog")]
    with pytest.raises(ConfigError) as caught:
        check_references(boxes, metrics.get("iou@0.5"), "where")
    lines = str(caught.value).split("\n")
    assert lines[0] == "task 'where', metric iou@0.5: 2 of 3 references cannot be scored"
    assert lines[1].startswith("  v.json, record 1: has no proper xyxy box: '[3, 0, 2, 1]'")
    assert lines[2].startswith("  v.json, record 2: has no proper xyxy box: 'dog'")
    with pytest.raises(ConfigError, match=r"7 of 7 references cannot be scored(.*\n)*.* v\.json, record 6"):
        check_references(RECORDS, metrics.get("yes_no"), "count")
    many = [record(index, "dog") for index in range(14)]
    with pytest.raises(ConfigError, match=r"\.\.\. and 4 more\nMend or remove"):
        check_references(many, metrics.get("iou"), "count")
