"""Score tables through CSV files."""

import csv
import re
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.method.measured import sampled_tables

import cotbal
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


def test_seeds_come_back_exactly_and_one_seed_writes_no_column(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    first = ScoreTable.from_samples({"mini": {"a": [0.0, 1.0]}}, groups={"a": ["x", "y"]})
    second = ScoreTable.from_samples({"mini": {"a": [0.5, 1.0]}}, groups={"a": ["x", "y"]})
    table = ScoreTable.from_seeds({4: first, 0: second})
    table.to_csv(path)
    back = ScoreTable.from_csv(path)
    assert (back.seeds, back.sha256) == ((4, 0), table.sha256)
    first.to_csv(path)
    assert "seed" not in path.read_text()


def test_samples_are_paired_over_seeds_by_their_ids(tmp_path: Path) -> None:
    table = _read(
        tmp_path,
        "model,task,score,sample,seed\nmini,a,1,s,0\nmini,a,0,t,0\nmini,a,0.5,t,1\nmini,a,0.25,s,1\n",
    )
    assert table.seeds == (0, 1)
    np.testing.assert_array_equal(table.of_seed(1).samples("mini", "a"), [0.25, 0.5])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("mini,a,1,s,0\nmini,a,1,s,\n", "line 3: the row has no seed, and others have one"),
        ("mini,a,1,s,one\n", "line 2: seed is 'one'; a whole number"),
        ("mini,a,1,s,0\nmini,a,1,t,1\n", "sample 's' of task 'a' .*or not with every seed"),
        ("mini,a,1,s,0\nmini,b,1,s,0\nmini,a,1,s,1\n", "scores of seeds 0 and 1 have other"),
    ],
)
def test_broken_seeds_are_named(rows: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        _read(tmp_path, "model,task,score,sample,seed\n" + rows)


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
        (HEADER + "mini,a,1,,,,x\n", "line 2: the row does not have 6 fields"),
        (HEADER + "mini,a,1,,,\nmini,b,x,,,\n", "line 3: score is 'x'"),
        (HEADER + "mini,a,nan,,,\n", "line 2: score is 'nan'"),
        (HEADER + "mini,a,1e999,,,\n", "line 2: score is '1e999'; a finite number"),
        (HEADER + "mini,a,1_0,,,\n", "line 2: score is '1_0'"),
        (
            "model;task;score\nmini;a;1.234,5\n",
            "line 2: score is '1.234,5'; a finite number without thousands",
        ),
        ("model;task;score\nmini;a;0,5\nmini;b;0.5\n", "line 3: '0.5' has a decimal point, .*, line 2 a"),
        (
            "model,task,score\nmini,a,50%\nplus_a,a,0.7\n",
            "line 3: '0.7' has no percent sign, .*line 2 has one",
        ),
        ("model,task,score\nmini,a,0,5\n", "line 2: .* 3 fields .* but 4; write numbers with decimal points"),
        ("model,task,score,Score\nmini,a,1,1\n", "the header has the column 'score' twice"),
        ('model,task,score\nmini,"a,1\n', "line 2: not readable as CSV"),
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


TABLE = """model,task,score
mini,vqa,0.5
mini,cap,0.25
plus_vqa,vqa,0.75
plus_vqa,cap,0.375
plus_cap,vqa,0.625
plus_cap,cap,0.5
"""


def _commas(text: str) -> str:
    return text.replace(",", ";").replace(".", ",")


def _percents(text: str) -> str:
    return re.sub(r"[\d.]+$", lambda match: f"{100 * float(match.group()):g}%", text, flags=re.MULTILINE)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    "written",
    [
        lambda text: text,
        _commas,
        lambda text: text.replace(",", "\t"),
        lambda text: text.replace(",", "|"),
        lambda text: "sep=;\n" + text.replace(",", ";"),
        lambda text: '"sep=\t"\n' + text.replace(",", "\t").replace(".", ","),
        lambda text: text.replace("model,task,score", " Model ,TASK,Score"),
        lambda text: text.replace("\n", ",,\n") + ",,,,\n,,\n\n",
        lambda text: "\n,,\n" + text.replace("plus_vqa,vqa", "\n , ,\nplus_vqa,vqa"),
        _percents,
        lambda text: _commas(_percents(text)).replace("%", "\xa0%"),
        lambda text: re.sub(r"([^,\n]+)", r'"\1"', text),
        lambda text: re.sub(r"([\d.]+)$", lambda m: f'"{m[1].replace(".", ",")}"', text, flags=re.MULTILINE),
    ],
)
def test_tables_as_spreadsheet_programs_save_them(
    tmp_path: Path, written: Callable[[str], str], ends: str, encoding: str
) -> None:
    path = tmp_path / "scores.csv"
    path.write_bytes(written(TABLE).replace("\n", ends).encode(encoding))
    (tmp_path / "plain.csv").write_text(TABLE)
    assert ScoreTable.from_csv(path).sha256 == ScoreTable.from_csv(tmp_path / "plain.csv").sha256


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "model,task,score\nmini,a,1\nplus_é,a,1\n".encode("cp1252"),
            "line 3: byte 31 is not UTF-8 text; save it",
        ),
        (TABLE.encode("utf-16-le"), "null characters, as UTF-16 without a byte order mark"),
        (b"\xff\xfem", "is not UTF-16 text"),
        (
            b"PK\x03\x04",
            "this is an .xlsx or .ods workbook, not a CSV file; open it and save it as 'CSV UTF-8'",
        ),
        (b"\xd0\xcf\x11\xe0", "this is an .xls workbook"),
        (b"", "no column 'model'"),
    ],
)
def test_other_encodings_and_files_are_told_what_to_do(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "scores.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        ScoreTable.from_csv(path)


CELLS = st.sampled_from(
    ["mini", "plus_a", "a", "b", "0.5", "0,5", "50%", "1e9", "nan", "true", "", " ", '"', "=1"]
)
PIECES = st.sampled_from(
    [",", ";", "\t", "|", "\n", "\r", "\r\n", "sep=;", "sep=", "model,task,score\n", "sample"]
)
FILES = st.lists(CELLS | PIECES | st.text(max_size=3), max_size=30).map("".join)


def _reads_or_says_why(path: Path, text: str, encoding: str, start: str) -> None:
    path.write_bytes((start + text).encode(encoding, "surrogatepass"))
    error = None
    try:
        assert ScoreTable.from_csv(path).models
    except ValueError as found:
        error = found
    if error is not None:
        # Python's own errors say nothing of a file or a field.
        raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        assert not isinstance(error, UnicodeError)
        assert Path(cotbal.__file__).parent in raised_in.parents


ENCODINGS = st.sampled_from(["utf-8", "utf-8", "utf-16", "utf-16-le", "utf-32"])
STARTS = st.sampled_from(
    ["", "model,task,score\n", "model;task;score;sample\nmini;a;0,5;1\n", "sep=;\n", "sep="]
)


@given(FILES, ENCODINGS, STARTS)
def test_any_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, text: str, encoding: str, start: str
) -> None:
    _reads_or_says_why(tmp_path_factory.getbasetemp() / "any.csv", text, encoding, start)


@pytest.mark.soak
@settings(max_examples=100_000, derandomize=False)
@given(FILES, ENCODINGS, STARTS)
def test_any_file_is_read_or_refused_at_length(
    tmp_path_factory: pytest.TempPathFactory, text: str, encoding: str, start: str
) -> None:
    _reads_or_says_why(tmp_path_factory.getbasetemp() / "any.csv", text, encoding, start)


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
