"""The output folder: manifests and scores come back as written, and a kill never leaves half of one."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotbal.config.yaml_file import ConfigError
from cotbal.data.records import Problem
from cotbal.units.store import Manifest, OutputFolder, SampleScore, UnitFolder

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


@given(st.lists(scores, max_size=5))
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
