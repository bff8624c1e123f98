"""Files of other tools, in their published shapes, made into one score table; and each of their traps."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.imported_files import (
    factory_row,
    lmms_results,
    lmms_row,
    swift_row,
    write_lines,
    write_sheet,
)

from cotbal.cli import main
from cotbal.imports.results import texts
from cotbal.imports.sources import Source
from cotbal.imports.table import ImportedScores, import_scores, read
from cotbal.method.scores import ScoreTable
from cotbal.method.weights import TaskWeights


def _imported(*files: Path, task: str = "vqa", **options: Any) -> ImportedScores:
    names = ("mini", f"plus_{task}")
    return import_scores([Source(m, task, f) for m, f in zip(names, files, strict=False)], **options)


def _scores(*files: Path, task: str = "vqa", **options: Any) -> list[list[float]]:
    table = _imported(*files, task=task, **options).table
    return [table.samples(model, task).tolist() for model in table.models]  # type: ignore[union-attr]


def test_lmms_eval_is_paired_by_document_in_any_order(tmp_path: Path) -> None:
    rows = [lmms_row(i, "two", "2", exact_match=score) for i, score in enumerate([0.0, 1.0, 0.5])]
    other = [lmms_row(i, "2", "2", exact_match=score) for i, score in ((2, 1.0), (0, 0.25), (1, 0))]
    mini = write_lines(tmp_path / "m" / "2026_samples_t.jsonl", rows)
    plus = write_lines(tmp_path / "p" / "2026_samples_t.jsonl", other)
    assert _scores(mini, plus) == [[0.0, 1.0, 0.5], [0.25, 0.0, 1.0]]
    imported = _imported(mini, plus)
    assert imported.ids == {"vqa": ("0", "1", "2")}
    assert imported.table.higher_is_better == (True,)


def test_a_metric_of_lmms_eval_is_chosen_and_its_direction_read(tmp_path: Path) -> None:
    rows = [lmms_row(i, "x", "y", wer=0.25 * i, exact_match=1.0) for i in range(3)]
    path = write_lines(tmp_path / "2026_samples_speech.jsonl", rows)
    lmms_results(path, "speech", {"wer": False, "exact_match": True})
    with pytest.raises(
        ValueError, match=r"line 1: several metrics, wer, exact_match; choose one.*--score vqa=NAME"
    ):
        _scores(path)
    imported = _imported(path, keys={"vqa": "wer"})
    assert imported.table.higher_is_better == (False,)
    assert _scores(path, keys={"vqa": "wer"}) == [[0.0, 0.25, 0.5]]
    with pytest.raises(ValueError, match="no metric 'bleu'; the file has wer, exact_match"):
        _scores(path, keys={"vqa": "bleu"})
    with pytest.raises(ValueError, match="says that higher is better"):
        _imported(path, keys={"vqa": "exact_match"}, lower_is_better=["vqa"])


def test_scores_inside_objects_are_read(tmp_path: Path) -> None:
    rows = [
        lmms_row(i, "Yes", "yes", pope_accuracy={"question_id": i, "score": s, "prediction": "yes"})
        for i, s in enumerate([1.0, True, 0])
    ]
    assert _scores(write_lines(tmp_path / "d_samples_pope.jsonl", rows)) == [[1.0, 1.0, 0.0]]


def test_raw_data_has_no_score_and_is_scored_by_our_metric(tmp_path: Path) -> None:
    raw = {"answer": "the dog on the left", "pred": [0.0, 0.0, 0.5, 1.0], "ann_id": 7, "bbox": [0, 0, 1, 1]}
    boxes = write_lines(
        tmp_path / "d_samples_refcoco.jsonl",
        [lmms_row(0, "It is [0.0, 0.0, 0.5, 1.0]", "the dog on the left", refcoco_IoU=raw)],
    )
    with pytest.raises(
        ValueError, match=r"line 1: refcoco_IoU holds raw data \(answer, pred, ann_id, bbox\) and no"
    ):
        _scores(boxes)
    assert _scores(boxes, metrics={"vqa": "iou"}) == [[0.5]]

    captions = [["a dog runs fast", "one dog is running"], ["two cats sleep here"]]
    rows = [
        lmms_row(i, text, "", nocaps_CIDEr={"answer": wanted, "pred": text, "image_id": i})
        for i, (text, wanted) in enumerate(zip(["a dog runs fast", "a tree"], captions, strict=True))
    ]
    (scores,) = _scores(write_lines(tmp_path / "d_samples_nocaps.jsonl", rows), metrics={"vqa": "cider"})
    assert scores[0] > 4 > scores[1] == 0


def test_targets_that_were_lists_are_several_references(tmp_path: Path) -> None:
    rows = [
        lmms_row(0, "12 may", ["May 12", "12 May"], anls=0.0),
        lmms_row(1, "[1, 2, 3, 4]", [1, 2, 3, 4], anls=1.0),
    ]
    assert _scores(write_lines(tmp_path / "d_samples_t.jsonl", rows), metrics={"vqa": "anls"}) == [[1.0, 1.0]]
    assert texts("['a', 'b']") == ("a", "b")
    assert texts("[1, 2, 3, 4]") == ("[1, 2, 3, 4]",)
    assert texts("[" * 5000) == ("[" * 5000,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [*rows, rows[0]], r"line 4: doc_id 0 again, after .*line 1: several filters wrote"),
        (
            lambda rows: rows[:2],
            r"no sample 2, which is in .*line 3; every model has to be scored on the same",
        ),
        (
            lambda rows: [*rows, lmms_row(9, "x", "y", exact_match=1)],
            r"line 4: sample 9 is not in .*a_samples_t",
        ),
        (
            lambda rows: [rows[0] | {"doc_hash": "0"}, *rows[1:]],
            r"line 1: sample 0 is another one than in .*line 1",
        ),
        (
            lambda rows: [rows[0] | {"exact_match": None}, *rows[1:]],
            r"line 1: exact_match is None, which is not",
        ),
        (lambda rows: [rows[0] | {"exact_match": float("nan")}, *rows[1:]], r"line 1: exact_match is nan"),
        (lambda rows: [rows[0] | {"exact_match": "1"}, *rows[1:]], r"line 1: exact_match is '1'"),
        (
            lambda rows: [rows[0], {"doc_id": 1, "resps": []}, *rows[2:]],
            "line 2: .*another one|line 2: no exact_m",
        ),
        (lambda rows: [rows[0], {"x": 1}], "line 2: no doc_id"),
        (lambda rows: [rows[0], [1]], "line 2: found list; an object"),
    ],
)
def test_what_lmms_eval_wrote_and_cannot_be_paired_is_named(
    tmp_path: Path, change: Callable[[list[Any]], list[Any]], message: str
) -> None:
    rows = [lmms_row(i, "a", "b", exact_match=1.0) for i in range(3)]
    first = write_lines(tmp_path / "a_samples_t.jsonl", rows)
    second = write_lines(tmp_path / "b_samples_t.jsonl", change(rows))
    with pytest.raises(ValueError, match=message):
        _scores(first, second)


@pytest.mark.parametrize("suffix", [".xlsx", ".tsv", ".json"])
def test_vlmevalkits_sheets_give_the_scores_of_their_own_summaries(tmp_path: Path, suffix: str) -> None:
    def sheet(name: str, *rows: dict[str, Any]) -> Path:
        return write_sheet(tmp_path / f"{name}{suffix}", rows)

    def row(index: int, **more: Any) -> dict[str, Any]:
        return {
            "index": index,
            "question": "What,\nwhere?",
            "answer": "['a \"b\"', 'c']",
            "prediction": "a",
            **more,
        }

    vqa = sheet("m_TextVQA_VAL_results", row(3, eval_match="[0.0, 1.0]", eval_score=0.5))
    choice = sheet("m_MMBench_exact_matching_result", row(3, hit=1), row(5, hit=0))
    polar = sheet("m_POPE_auxmatch", row(3, score=True), row(4, score=False))
    distances = sheet(
        "m_DocVQA_VAL_results",
        row(0, eval_match="[0.0, 0.75]", eval_score=0.375),
        row(1, eval_match="[0.25]", eval_score=0.25),
        row(2, eval_match="[0.5, 0.9]", eval_score=0.7),
        row(3, eval_match="[0.625]", eval_score=0.625),
    )
    best = sheet("m_ChartQA_TEST_results", row(0, eval_match="[False, True]", eval_score=0.5))
    assert _scores(vqa) == [[0.5]]
    assert _scores(choice) == [[1.0, 0.0]]
    assert _scores(polar) == [[1.0, 0.0]]
    assert _scores(distances) == [[1.0, 0.75, 0.5, 0.0]]
    assert _scores(best) == [[1.0]]
    assert _imported(choice).ids == {"vqa": ("3", "5")}


@pytest.mark.parametrize("suffix", [".xlsx", ".tsv", ".json"])
def test_sheets_of_predictions_are_scored_by_our_metric(tmp_path: Path, suffix: str) -> None:
    rows = [{"index": i, "answer": "['two', '2']", "prediction": p} for i, p in enumerate(["2", "three"])]
    path = write_sheet(tmp_path / f"m_VQA{suffix}", rows)
    assert _scores(path, metrics={"vqa": "exact_match"}) == [[1.0, 0.0]]
    with pytest.raises(
        ValueError, match=r"(line|row|record) \d: predictions without a score.*--metric vqa=NAME"
    ):
        _scores(path)


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        (
            "x.json",
            [{"index": 1, "hit": 1}, {"index": 1, "hit": 0}],
            "record 1: index 1 again, after .*record 0",
        ),
        ("x.json", [{"index": 1, "hit": 1}, {"hit": 0}], "record 1: no index; rows are paired by it"),
        ("x.json", [{"index": 1, "hit": None}], "record 0: hit is None, which is not a finite number"),
        ("x.xlsx", [{"index": 1, "hit": 1}, {"index": 2, "hit": "?"}], r"row 3: hit is '\?'"),
        ("DocVQA.json", [{"index": 1, "eval_score": 0.2}], "eval_match is None; a list of numbers is needed"),
        ("OCRVQA.tsv", [{"index": 1, "eval_score": 0.2, "eval_match": "['x']"}], r"line 2: eval_match is "),
        (
            "x.json",
            [{"index": 1, "prediction": "Failed to obtain answer via API.", "hit": 0}],
            "record 0: the prediction is 'Failed to obtain answer via API.'; run these samples again",
        ),
    ],
)
def test_what_vlmevalkit_wrote_and_cannot_be_scored_is_named(
    tmp_path: Path, name: str, rows: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        _scores(write_sheet(tmp_path / name, rows))


@pytest.mark.parametrize("made", [swift_row, factory_row])
def test_answers_without_ids_are_paired_by_order_and_label(
    tmp_path: Path, made: Callable[..., dict[str, Any]]
) -> None:
    labels = ["red", "two", "a dog"]
    mini = write_lines(tmp_path / "mini.jsonl", [made("q", "x", label) for label in labels])
    plus = write_lines(tmp_path / "plus.jsonl", [made("q", label, label) for label in labels])
    assert _scores(mini, plus, metrics={"vqa": "exact_match"}) == [[0.0] * 3, [1.0] * 3]
    with pytest.raises(ValueError, match=r"line 1: answers without a score.*--metric vqa=NAME"):
        _scores(mini, plus)
    moved = write_lines(tmp_path / "moved.jsonl", [made("q", label, label) for label in reversed(labels)])
    with pytest.raises(
        ValueError, match=r"moved\.jsonl, line 1: sample 0 is another one than in .*mini\.jsonl, "
    ):
        _scores(mini, moved, metrics={"vqa": "exact_match"})
    short = write_lines(tmp_path / "short.jsonl", [made("q", label, label) for label in labels[:2]])
    with pytest.raises(ValueError, match=r"short\.jsonl: no sample 2"):
        _scores(mini, short, metrics={"vqa": "exact_match"})


def test_pictures_make_groups(tmp_path: Path) -> None:
    rows = [swift_row("q", "a", "a", image) for image in ("1.png", "1.png", "2.png")]
    path = write_lines(tmp_path / "mini.jsonl", rows)
    table = _imported(path, metrics={"vqa": "exact_match"}).table
    np.testing.assert_array_equal(table.groups["vqa"], ["1.png", "1.png", "2.png"])


@pytest.mark.parametrize(
    ("rows", "metric", "message"),
    [
        ([swift_row("q", "a", None)], "exact_match", "line 1: labels is None; a reference is needed to pair"),
        ([{"predict": None, "label": "a"}], "exact_match", "line 1: predict is None; the text of an answer"),
        (
            [factory_row("q", "a", "dog")],
            "iou",
            "line 1: iou cannot score this sample: has no proper xyxy box",
        ),
        ([factory_row("q", "a", "dog")], "loss", "--metric vqa=loss: the loss is the model's"),
        ([factory_row("q", "a", "dog")], "bleu", "there is no metric 'bleu'"),
        ([{"text": "a"}], "exact_match", "line 1: the fields are text; known are samples of lmms-eval"),
    ],
)
def test_answers_that_cannot_be_scored_are_named(
    tmp_path: Path, rows: list[dict[str, Any]], metric: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        _scores(write_lines(tmp_path / "mini.jsonl", rows), metrics={"vqa": metric})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.pkl", b"", r"\.pkl files are not read, .*a pickle can run code"),
        ("x.xlsx", b"PK", "not readable as a workbook"),
        ("x.jsonl", b"", "no rows; at least one"),
        ("x.jsonl", b"{\n", "line 1: not readable as JSON"),
        ("x.json", b"[" * 100_000, "not readable as JSON"),
        ("x.jsonl", b'{"a": ' + b"9" * 9999 + b"}", "line 1: holds a number of too many digits"),
        ("x.jsonl", b"\xff", "byte 0 is not UTF-8 text"),
    ],
)
def test_files_that_cannot_be_read_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read(path)


def test_options_of_no_task_are_refused(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a_samples_t.jsonl", [lmms_row(0, "a", "b", exact_match=1.0)])
    with pytest.raises(ValueError, match="--score cap: no file is of this task; they are of vqa"):
        _imported(path, keys={"cap": "x"})


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["score", "pred", "bbox"]), inner)
    ),
    max_leaves=4,
)
NAMES = [
    "doc_id",
    "filtered_resps",
    "target",
    "m",
    "index",
    "prediction",
    "hit",
    "eval_score",
    "answer",
    "response",
]
FIELDS = st.dictionaries(st.sampled_from([*NAMES, "labels"]), VALUES)


@settings(max_examples=100)
@given(st.lists(FIELDS, max_size=3))
def test_any_rows_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    path = write_lines(tmp_path_factory.getbasetemp() / "DocVQA.jsonl", rows)
    for metrics in ({}, {"vqa": "anls"}):
        try:
            scores = _scores(path, metrics=metrics)
        except ValueError as error:
            refused = str(error)
        else:
            refused = ""
            assert all(np.isfinite(scores[0]))
        assert not refused or "DocVQA.jsonl" in refused


def test_from_the_files_of_two_tools_to_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = {"mini": (0.2, 0.5), "plus_vqa": (0.6, 0.55), "plus_chart": (0.3, 0.9)}
    for model, (vqa, chart) in scores.items():
        rows = [lmms_row(i, "a", "b", exact_match=float(i < 20 * vqa)) for i in range(20)]
        write_lines(tmp_path / "out" / model / "ckpt" / "2026_samples_vqav2_val.jsonl", rows)
        answers = [
            {
                "index": i,
                "answer": "4",
                "prediction": "4" if i < 20 * chart else "9",
                "eval_score": "",
                "x": "",
            }
            | {"eval_match": f"[{i < 20 * chart}]"}
            for i in range(20)
        ]
        write_sheet(tmp_path / "outputs" / model / "T1" / f"{model}_ChartQA_TEST_results.tsv", answers)
    output = tmp_path / "new" / "scores.csv"
    arguments = [
        *("import", f"{tmp_path}/out/{{model}}/*/*_samples_{{task}}.jsonl"),
        *(f"{tmp_path}/outputs/{{model}}/*/{{model}}_{{task}}_results.tsv", "-o", str(output)),
        *("--task", "vqa=vqav2_val", "--task", "chart=ChartQA_TEST"),
    ]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "vqa: 20 samples, higher is better" in said
    assert "6 files of 3 models on 2 tasks" in said
    assert f"next: cotbal weigh {output}" in " ".join(said.split())
    table = ScoreTable.from_csv(output)
    assert table.mean("plus_chart", "chart") == 0.9
    assert output.read_text().splitlines()[1] == "mini,vqa,1.0,0,,true"
    assert main(["weigh", str(output), "-o", str(tmp_path / "w.json")]) == 0
    assert sum(TaskWeights.load(tmp_path / "w.json").values) == pytest.approx(2)


def test_what_is_missing_for_weighing_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_lines(tmp_path / "mini_samples_t.jsonl", [lmms_row(0, "a", "b", m=1.0)])
    pattern, output = f"{tmp_path}/{{model}}_samples_{{task}}.jsonl", str(tmp_path / "s.csv")
    assert main(["import", pattern, "-o", output]) == 0
    assert "missing for weighing: plus_t on t" in capsys.readouterr().out
    assert main(["import", pattern, "-o", output, "--score", "t"]) == 2
    assert "NAME=VALUE is needed" in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert main(["import", pattern, "-o", output, "--metric", "t=loss"]) == 2
    assert json.dumps("error:")[1:-1] in capsys.readouterr().err
