"""Score tables through CSV files."""

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.method.measured import sampled_tables

from cotbal.method import scores_csv
from cotbal.method.scores import ScoreTable

HEADER = "model,task,score,sample,group,higher_is_better\n"


def _read(tmp_path: Path, text: str, **options: object) -> ScoreTable:
    path = tmp_path / "scores.csv"
    path.write_text(text, encoding="utf-8")
    return ScoreTable.from_csv(path, **options)  # type: ignore[arg-type]


@given(table=sampled_tables())
def test_a_table_comes_back_exactly(table: ScoreTable, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("csv") / "scores.csv"
    table.to_csv(path)
    back = ScoreTable.from_csv(path)
    assert back.sha256 == table.sha256
    assert (back.tasks, back.models, back.higher_is_better) == (
        table.tasks,
        table.models,
        table.higher_is_better,
    )


def test_means_come_back_exactly(tmp_path: Path) -> None:
    table = ScoreTable.from_means([1 / 3, 0.1], [[0.7, 1e-17], [2 / 3, 5.0]], tasks=["a", "b"])
    table.to_csv(tmp_path / "scores.csv")
    assert ScoreTable.from_csv(tmp_path / "scores.csv").sha256 == table.sha256


def test_three_columns_from_another_tool_are_enough(tmp_path: Path) -> None:
    table = _read(tmp_path, "\ufefftask, score ,model\nvqa,0.5,mini\nvqa,0.75,plus_vqa\n")
    assert table.mean("plus_vqa", "vqa") == 0.75
    assert table.higher_is_better == (True,)


def test_samples_are_paired_by_their_ids(tmp_path: Path) -> None:
    rows = ["mini,a,0,q1", "mini,a,1,q2", "plus_a,a,0.5,q2", "plus_a,a,0.25,q1"]
    table = _read(tmp_path, "model,task,score,sample\n" + "\n".join(rows))
    np.testing.assert_array_equal(table.samples("mini", "a"), [0, 1])  # type: ignore[arg-type]
    np.testing.assert_array_equal(table.samples("plus_a", "a"), [0.25, 0.5])  # type: ignore[arg-type]


def test_tasks_and_directions_can_be_told(tmp_path: Path) -> None:
    text = "model,task,score\nmini,a,1\nmini,b,2\n"
    table = _read(tmp_path, text, tasks=["b", "a"], higher_is_better={"a": False, "b": True})
    assert table.tasks == ("b", "a")
    assert table.higher_is_better == (True, False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column 'model'"),
        ("model,task\nmini,a\n", "no column 'score'"),
        ("model,task,score,scores\nmini,a,1,1\n", "unknown column 'scores'"),
        (HEADER, "no scores"),
        (HEADER + "mini,a,1\n", "line 2: the row does not have 6 fields"),
        (HEADER + "mini,a,1,,,,\n", "line 2: the row does not have 6 fields"),
        (HEADER + "mini,a,1,,,\nmini,b,x,,,\n", "line 3: score is 'x'"),
        (HEADER + "mini,a,nan,,,\n", "line 2: score is 'nan'"),
        (HEADER + "mini,a,1,,,maybe\n", "line 2: higher_is_better is 'maybe'"),
        (HEADER + "mini,a,1,,,\nmini,a,0,,,\n", "line 3: a score without a sample id .* given before"),
        (HEADER + "mini,a,1,s,,\nmini,a,0,s,,\n", "line 3: sample 's' .* given before"),
        (HEADER + "mini,a,1,s,,\nmini,a,0,,,\n", "line 3: .* both a mean and per-sample scores"),
        (HEADER + "mini,a,1,s,,\nplus_a,a,0,t,,\n", "sample 's' of task 'a' is scored for some models only"),
        (HEADER + "mini,a,1,s,g,\nplus_a,a,0,s,h,\n", "other groups for model 'plus_a'"),
        (HEADER + "mini,a,1,s,g,\nmini,a,0,t,,\n", "some have none"),
        (HEADER + "mini,a,1,s,,true\nmini,a,0,t,,false\n", "line 3: higher_is_better .* contradicts"),
        (HEADER + "mini,a a,1,,,\n", "task name 'a a'"),
        (HEADER + ",a,1,,,\n", "model id ''"),
    ],
)
def test_broken_files_are_named_with_line_and_field(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _read(tmp_path, text)


def test_an_argument_must_not_contradict_the_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="True in the file and False in the call"):
        _read(tmp_path, HEADER + "mini,a,1,,,true\n", higher_is_better=False)


def test_a_task_outside_the_given_ones_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"line 2: task 'a' is not among the tasks \['b'\]"):
        _read(tmp_path, "model,task,score\nmini,a,1\n", tasks=["b"])


@given(text=st.text(st.characters(exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"]), min_size=1, max_size=6))
def test_no_cell_is_a_formula_and_every_text_comes_back(text: str) -> None:
    cell = scores_csv._cell(text)
    assert cell[0] not in "=+-@"
    assert scores_csv._text(cell) == text


@pytest.mark.parametrize("group", ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "'quoted", "plain.png"])
def test_groups_that_look_like_formulas_are_cells_of_text(tmp_path: Path, group: str) -> None:
    samples = {model: {"a": [0.0, 1.0]} for model in ("mini", "plus_a")}
    table = ScoreTable.from_samples(samples, tasks=["a"], groups={"a": [group, "other"]})
    table.to_csv(tmp_path / "s.csv")
    with (tmp_path / "s.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert all(row["group"][0] not in "=+-@" for row in rows)
    assert ScoreTable.from_csv(tmp_path / "s.csv").groups["a"].tolist() == [group, "other"]


@given(content=st.binary(max_size=80) | st.text('ab,"\n=1\0', max_size=40).map(str.encode))
def test_any_bytes_are_read_or_refused_with_the_files_name(
    content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("csv") / "scores.csv"
    path.write_bytes(b"model,task,score\n" + content)
    try:
        ScoreTable.from_csv(path)
        refused = ""
    except ValueError as error:
        refused = f"{type(error).__name__}: {error}"
    assert not refused or refused.startswith(f"ValueError: {path}") or "task" in refused
