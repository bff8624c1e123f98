"""The output folder: manifests and scores come back as written, and a kill never leaves half of one."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotbal.config.yaml_file import ConfigError
from cotbal.data.records import Problem
from cotbal.output.manifest import Manifest
from cotbal.output.score_file import SampleScore
from cotbal.output.store import OutputFolder, UnitFolder

text = st.text(max_size=8)
scores = st.builds(
    SampleScore,
    task=text,
    index=st.integers(0, 10**6),
    id=text,
    group=text,
    prediction=st.none() | text,
    references=st.lists(text, max_size=3).map(tuple),
    score=st.floats(allow_nan=False, allow_infinity=False),
)


def manifest(**changes: object) -> Manifest:
    return Manifest("mini", "mini", "prepare", 0, {"seed": 0}, {"vqa": {"metric": "loss"}}).advanced(
        "planned", **changes
    )


def numbered(found: list[SampleScore]) -> list[SampleScore]:
    """Each task's samples, counted from 0."""
    counts: dict[str, int] = {}
    made = []
    for score in found:
        index = counts.get(score.task, 0)
        counts[score.task] = index + 1
        made.append(replace(score, index=index))
    return made


@given(st.lists(scores, max_size=5).map(numbered))
def test_scores_come_back(tmp_path_factory: pytest.TempPathFactory, found: list[SampleScore]) -> None:
    folder = UnitFolder(tmp_path_factory.mktemp("unit"))
    folder.write_scores(found)
    assert folder.scores() == found


def test_manifests_come_back_and_advance(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path).unit("mini")
    assert folder.manifest() is None
    begun = manifest(versions={"torch": "2"})
    folder.write_manifest(begun)
    assert folder.manifest() == begun
    folder.write_manifest(begun.advanced("trained", steps=3))
    stored = folder.manifest()
    assert stored is not None
    assert (stored.state, stored.steps, stored.versions) == ("trained", 3, {"torch": "2"})


@pytest.mark.parametrize("content", ["{", "[]", '{"schema": 99}'])
def test_other_manifests_are_refused_with_what_to_do(tmp_path: Path, content: str) -> None:
    folder = UnitFolder(tmp_path)
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ConfigError, match=r"manifest\.json.*redo it"):
        folder.manifest()


def test_missing_and_damaged_scores_are_named(tmp_path: Path) -> None:
    folder = UnitFolder(tmp_path)
    with pytest.raises(ConfigError, match="not been scored"):
        folder.scores()
    folder.write_scores([SampleScore("t", 0, "i", "g", "p", ("r",), 1.0)])
    path = tmp_path / "scores.jsonl"
    path.write_text(path.read_text() + json.dumps({"task": "t"}) + "\n")
    with pytest.raises(ConfigError, match=r"scores\.jsonl:2"):
        folder.scores()


def test_discarding_scores_keeps_the_model(tmp_path: Path) -> None:
    folder = UnitFolder(tmp_path / "mini")
    folder.write_manifest(manifest())
    folder.write_scores([])
    folder.model.mkdir()
    folder.predictions.mkdir()
    folder.discard_scores()
    assert folder.model.is_dir()
    assert not folder.predictions.exists()
    folder.discard()
    assert not folder.path.exists()


def test_problems_of_files_that_were_not_read_again_stay(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path)
    assert folder.problems() == ()
    old = [Problem(Path("a"), 0, "x"), Problem(Path("b"), 1, "y")]
    folder.write_problems(old, {Path("a"), Path("b")})
    folder.write_problems([Problem(Path("b"), 2, "z")], {Path("b")})
    assert folder.problems() == (old[0], Problem(Path("b"), 2, "z"))


def test_only_our_own_files_are_touched(tmp_path: Path) -> None:
    """An output folder that is someone's home: nothing in it that we did not make is deleted or changed."""
    theirs = [
        ".notes.tmp",
        "docs/.draft.txt.1234-abcdef12.tmp",
        "units/mini/model/model.safetensors",
        "units/mini/.manifest.json.tmp",
        "units/old/.scores.jsonl.77-0123abcd.tmp",
        "units/.discarded-mini",
        "checkpoints/checkpoint-3/.COMPLETE.12-0123abcd.tmp",
    ]
    for name in theirs:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    folder = OutputFolder(tmp_path)
    with folder.locked():
        pass
    with pytest.raises(ConfigError, match=r"units/mini: not a unit's folder \(it holds"):
        folder.unit("mini").discard()
    assert all((tmp_path / name).read_text() == name for name in theirs)
    assert list(folder.manifests()) == []


def test_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path)
    unit = folder.unit("mini")
    unit.write_manifest(manifest())
    ours = [
        ".scores.csv.12-0123abcd.tmp",
        "units/mini/.scores.jsonl.77-0123abcd.tmp",
        "units/mini/checkpoints/checkpoint-3/.COMPLETE.12-0123abcd.tmp",
        "units/.discarded-mini-0123abcd/manifest.json",
    ]
    for name in ours:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    with folder.locked():
        pass
    assert not any((tmp_path / name).exists() for name in ours)
    assert not (tmp_path / "units/.discarded-mini-0123abcd").exists()
    assert unit.manifest() == manifest()
    (tmp_path / "units/plus_a").mkdir()
    (tmp_path / "units/plus_a/.manifest.json.77-0123abcd.tmp").write_text("{")
    folder.unit("plus_a").discard()
    assert not (tmp_path / "units/plus_a").exists()
