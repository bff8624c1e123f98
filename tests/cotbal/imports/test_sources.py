"""Files found by patterns that name models and tasks."""

from pathlib import Path

import pytest

from cotbal.imports.sources import Source, find_sources


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (
        "out/mini/ckpt__a/2026_samples_vqav2_val.jsonl",
        "out/mini/ckpt__a/2026_samples_pope.jsonl",
        "out/plus/ckpt__b/2026_samples_vqav2_val.jsonl",
        "out/plus/ckpt__b/2026_results.json",
        "work/mini/T1/mini_ChartQA_TEST_results.xlsx",
        "work/mini/T1/mini_ChartQA_TEST.xlsx",
        "answers/mini.jsonl",
        "answers/mini[1].jsonl",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


LMMS = "out/{model}/*/*_samples_{task}.jsonl"


def test_names_are_those_of_the_paths_or_the_given_ones(folder: Path) -> None:
    found = find_sources([LMMS], tasks={}, models={})
    assert {(s.model, s.task) for s in found} == {
        ("mini", "vqav2_val"),
        ("mini", "pope"),
        ("plus", "vqav2_val"),
    }
    named = find_sources([LMMS], tasks={"vqa": "vqav2_val"}, models={"plus_vqa": "plus", "mini": "mini"})
    assert named == (
        Source("mini", "vqa", Path("out/mini/ckpt__a/2026_samples_vqav2_val.jsonl")),
        Source("plus_vqa", "vqa", Path("out/plus/ckpt__b/2026_samples_vqav2_val.jsonl")),
    )


def test_a_name_that_comes_twice_is_the_same(folder: Path) -> None:
    pattern = "work/{model}/**/{model}_{task}_results.xlsx"
    assert [(s.model, s.task) for s in find_sources([pattern], tasks={}, models={})] == [
        ("mini", "ChartQA_TEST")
    ]


def test_one_task_needs_no_place_in_the_pattern(folder: Path) -> None:
    found = find_sources(["answers/{model}.jsonl"], tasks={"vqa": "vqa"}, models={"mini": "mini"})
    assert found == (Source("mini", "vqa", Path("answers/mini.jsonl")),)


@pytest.mark.parametrize(
    ("pattern", "tasks", "models", "message"),
    [
        ("answers/{model}.jsonl", {}, {}, r"\{model\} and \{task\} are needed"),
        ("answers/{task}.jsonl", {}, {}, r"\{model\} and \{task\} are needed"),
        ("none/{model}/{task}.jsonl", {}, {}, "no file is there"),
        (LMMS, {"vqa": "vqa2"}, {}, "no file is of task 'vqa2', which is to be 'vqa'"),
        (LMMS, {}, {"mini": "small"}, "no file is of model 'small', which is to be 'mini'"),
        ("work/{model}/*/*_{task}*.xlsx", {"t": "TEST"}, {}, "model 'mini' has another file for task 't'"),
    ],
)
def test_what_is_not_found_or_found_twice_is_named(
    folder: Path, pattern: str, tasks: dict[str, str], models: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        find_sources([pattern], tasks=tasks, models=models)
