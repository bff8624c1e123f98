"""Task weights as a value and as a file."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.method.measured import Terms, terms

from cotbal.method.weighing import combine_terms
from cotbal.method.weights import Provenance, TaskWeights


def _example() -> TaskWeights:
    return combine_terms(
        [0.2, 0.1, np.nan], [0.3, 0.1, 0.2], [0.5, 0.1, 0.9], tasks=["vqa", "caption", "ocr"]
    ).with_explicit({"text-only": 0.5})


def _same(first: TaskWeights, second: TaskWeights) -> None:
    assert first.tasks == second.tasks
    assert first.temperature == second.temperature
    assert first.provenance == second.provenance
    for name in ("values", "outward", "inward", "difficulty", "intervals"):
        one, other = getattr(first, name), getattr(second, name)
        assert (one is None) == (other is None)
        if one is not None:
            np.testing.assert_array_equal(one, other)


@given(drawn=terms(undefined=True), explicit=st.floats(0, 1e3), bounds=st.booleans())
def test_what_is_saved_comes_back_exactly(
    drawn: Terms, explicit: float, bounds: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    made = combine_terms(drawn.outward, drawn.inward, drawn.difficulty, drawn.temperature)
    intervals = np.stack([made.values * 0.9, made.values * 1.1], axis=1) if bounds else None
    provenance = Provenance.here(
        "samples", scores_sha256="ab", confidence=0.9, replicates=500, seed=3, undefined=("b",)
    )
    weights = TaskWeights(
        made.tasks,
        made.values,
        made.outward,
        made.inward,
        made.difficulty,
        made.temperature,
        intervals,
        provenance,
    ).with_explicit({"text-only": explicit})
    path = tmp_path_factory.mktemp("weights") / "weights.json"
    weights.save(path)
    _same(TaskWeights.load(path), weights)


def test_the_same_weights_give_the_same_bytes(tmp_path: Path) -> None:
    _example().save(tmp_path / "a.json")
    _example().save(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


@given(st.permutations(["vqa", "caption", "ocr", "text-only"]))
def test_tasks_can_be_put_in_another_order(names: list[str]) -> None:
    weights = _example()
    ordered = weights.for_tasks(names)
    assert ordered.tasks == tuple(names)
    assert ordered.as_dict() == weights.as_dict()
    _same(ordered.for_tasks(weights.tasks), weights)


def test_other_tasks_are_named() -> None:
    with pytest.raises(ValueError, match="no weight for task 'count'"):
        _example().for_tasks(["vqa", "caption", "ocr", "text-only", "count"])
    with pytest.raises(ValueError, match="weight of task 'text-only' is left over"):
        _example().for_tasks(["vqa", "caption", "ocr"])
    with pytest.raises(ValueError, match="'vqa' is named twice"):
        _example().for_tasks(["vqa", "vqa"])


def test_arrays_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        _example().values[0] = 2.0


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_a_bad_explicit_weight_is_named(weight: float) -> None:
    with pytest.raises(ValueError, match=f"weight of task 'other' is {weight}"):
        _example().with_explicit({"other": weight})


def _set(*path: str | int, value: Any) -> Callable[[Any], None]:
    def change(content: Any) -> None:
        for step in path[:-1]:
            content = content[step]
        content[path[-1]] = value

    return change


def _delete(*path: str | int) -> Callable[[Any], None]:
    def change(content: Any) -> None:
        for step in path[:-1]:
            content = content[step]
        del content[path[-1]]

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("format", value="other"), "a field 'format' of 'cotbal-task-weights'"),
        (_delete("format"), "a field 'format'"),
        (_set("version", value=2), "version is 2; this cotbal reads version 1"),
        (_delete("version"), "version is None"),
        (_delete("temperature"), "the file has no field 'temperature'"),
        (_set("temperature", value=0), "temperature is 0.0; a finite number above 0"),
        (_set("temperature", value="0.5"), "temperature is '0.5'"),
        (_set("temperatur", value=0.5), "unknown field 'temperatur'"),
        (_set("tasks", value=[]), "at least one entry"),
        (_set("tasks", value={}), "tasks must be a list"),
        (_set("tasks", 0, value="vqa"), r"tasks\[0\] is str"),
        (_set("tasks", 0, "task", value="a b"), "task name 'a b'"),
        (_set("tasks", 0, "task", value="ocr"), "'ocr' is named twice"),
        (_delete("tasks", 1, "weight"), r"tasks\[1\] has no field 'weight'"),
        (_set("tasks", 1, "weight", value=None), r"tasks\[1\].weight is None"),
        (_set("tasks", 1, "weight", value=True), r"tasks\[1\].weight is True"),
        (_set("tasks", 1, "weight", value=1.01), "weight of task 'caption' is 1.01, but its terms make"),
        (_set("tasks", 1, "weight", value=-1), "weight of task 'caption' is -1"),
        (_set("tasks", 1, "outward", value=0.7), "weight of task 'caption' is .*, but its terms make"),
        (_set("tasks", 1, "outward", value=None), "task 'caption' has some terms and lacks others"),
        (_set("tasks", 1, "interval", value=[0.1]), r"tasks\[1\].interval is \[0.1\]"),
        (_set("tasks", 1, "interval", value=[0.1, "x"]), r"tasks\[1\].interval is 'x'"),
        (_set("tasks", 3, "inward", value=1.0), "task 'text-only' has some terms and lacks others"),
        (_delete("tasks", 0), "terms of 2 measured task"),
        (_delete("provenance"), "the file has no field 'provenance'"),
        (_set("provenance", value=[]), "provenance is list"),
        (_set("provenance", "source", value="guess"), "provenance.source is 'guess'"),
        (_set("provenance", "seed", value=0.5), "provenance.seed is 0.5"),
        (_set("provenance", "replicates", value=True), "provenance.replicates is True"),
        (_set("provenance", "shrink", value=1), "provenance.shrink is 1"),
        (_set("provenance", "undefined", value=["a b"]), "task name 'a b'"),
        (_set("provenance", "cotbal_version", value=None), "provenance.cotbal_version is None"),
        (_delete("provenance", "scores_sha256"), "provenance has no field 'scores_sha256'"),
        (_set("provenance", "date", value="today"), "unknown field 'date'"),
    ],
)
def test_every_field_of_a_file_is_checked(
    change: Callable[[Any], None], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "weights.json"
    _example().save(path)
    content = copy.deepcopy(json.loads(path.read_text()))
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message) as error:
        TaskWeights.load(path)
    assert str(error.value).startswith(str(path))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": NaN}', "\ud800"])
def test_files_that_hold_no_weights_are_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ValueError, match=r"weights\.json: "):
        TaskWeights.load(path)


def test_a_missing_file_is_the_system_s_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        TaskWeights.load(tmp_path / "none.json")
