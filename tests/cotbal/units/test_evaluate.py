"""Scoring: answers kept batch by batch, the same after an interruption, losses equal to the stock model's."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.models import tiny_models

from cotbal import metrics
from cotbal.config.yaml_file import ConfigError
from cotbal.data.collate import TaskCollator
from cotbal.data.records import Record, Turn
from cotbal.units.evaluate import (
    _finished_batches,
    answer,
    check_references,
    group_of,
    score_samples,
    teacher_forced_loss,
)
from cotbal.units.store import json_line


def record(index: int, text: str = "three") -> Record:
    turns = (Turn("user", f"How many are there in {'scene ' * (index % 3)}?"), Turn("assistant", text))
    return Record(str(index), "count", (), turns, (text,), Path("v.json"), index)


RECORDS = [record(index, ("three", "one", "a red four")[index % 3]) for index in range(7)]


@given(count=st.integers(0, 12), batch=st.integers(1, 5), done=st.integers(0, 12), torn=st.integers(0, 30))
def test_only_complete_batches_are_kept(
    tmp_path_factory: pytest.TempPathFactory, count: int, batch: int, done: int, torn: int
) -> None:
    done = min(done, count)
    path = tmp_path_factory.mktemp("p") / "count.jsonl"
    whole = "".join(json_line({"index": i, "answer": f"answer {i}"}) for i in range(done))
    path.write_text(whole + json_line({"index": done, "answer": "x" * 40})[:torn])
    kept = _finished_batches(path, count, batch)
    expected = count if done == count else done - done % batch
    assert kept == [f"answer {i}" for i in range(expected)]
    assert path.read_text().count("\n") == expected
    assert _finished_batches(path, count, batch) == kept


@pytest.mark.parametrize("name", ["exact_match", "loss"])
@pytest.mark.parametrize("kept", [0, 2, 3, 7])
def test_an_interrupted_call_ends_with_the_same_answers(tmp_path: Path, name: str, kept: int) -> None:
    model, processor = tiny_models.tiny_llama()
    told: list[int] = []

    def run(path: Path) -> list[str | float]:
        told.clear()
        return answer(
            model,
            processor,
            RECORDS,
            metric=metrics.get(name),
            batch_size=2,
            max_new_tokens=3,
            max_length=None,
            path=path,
            advance=told.append,
        )

    whole = run(tmp_path / "whole.jsonl")
    lines = (tmp_path / "whole.jsonl").read_text().splitlines(keepends=True)
    assert len(lines) == len(whole) == len(RECORDS)
    part = tmp_path / "part.jsonl"
    part.write_text("".join(lines[:kept]) + "{torn")
    assert run(part) == whole
    assert part.read_text() == (tmp_path / "whole.jsonl").read_text()
    assert sum(told) == len(RECORDS)


def test_losses_are_the_stock_models_one_sample_at_a_time() -> None:
    model, processor = tiny_models.tiny_llama()
    collator = TaskCollator(processor, ["count"])
    together = teacher_forced_loss(model, collator(RECORDS))
    for one, loss in zip(RECORDS, together, strict=True):
        batch = collator([one])
        with torch.no_grad():
            stock = model(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=batch["labels"]
            ).loss
        # Padding changes the order of sums: a few float32 roundings of a loss of about 6.
        assert loss == pytest.approx(float(stock), rel=1e-5)


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
