"""Checkpoints: whatever a kill leaves behind, only whole ones are used."""

from pathlib import Path

import pytest

from cotbal.output.checkpoints import (
    discard_incomplete,
    is_complete,
    last_complete,
    mark_complete,
    step_of,
    usable_checkpoint,
)


def checkpoint(folder: Path, step: int, *, mark: bool = True) -> Path:
    path = folder / f"checkpoint-{step}"
    (path / "inner").mkdir(parents=True)
    (path / "model.safetensors").write_bytes(b"x" * step)
    (path / "inner" / "rng.pth").write_bytes(b"y")
    if mark:
        mark_complete(path)
    return path


def test_the_last_whole_one_is_found(tmp_path: Path) -> None:
    checkpoint(tmp_path, 9)
    newest = checkpoint(tmp_path, 100)
    checkpoint(tmp_path, 200, mark=False)
    assert last_complete(tmp_path) == newest
    assert step_of(newest) == 100


@pytest.mark.parametrize("damage", ["unmarked", "shorter", "longer", "missing", "extra", "torn mark"])
def test_damage_is_seen_and_discarded(tmp_path: Path, damage: str) -> None:
    whole = checkpoint(tmp_path, 5)
    broken = checkpoint(tmp_path, 10, mark=damage != "unmarked")
    model = broken / "model.safetensors"
    if damage == "shorter":
        model.write_bytes(b"x" * 9)
    elif damage == "longer":
        model.write_bytes(b"x" * 11)
    elif damage == "missing":
        (broken / "inner" / "rng.pth").unlink()
    elif damage == "extra":
        (broken / "more").write_bytes(b"")
    elif damage == "torn mark":
        mark = broken / "COMPLETE"
        mark.write_text(mark.read_text()[:-5])
    assert not is_complete(broken)
    assert last_complete(tmp_path) == whole
    assert discard_incomplete(tmp_path) == [broken]
    assert not broken.exists()
    assert whole.exists()


def test_folders_of_other_names_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-last").mkdir()
    (tmp_path / "other").mkdir()
    assert discard_incomplete(tmp_path) == []
    assert last_complete(tmp_path) is None
    assert last_complete(tmp_path / "absent") is None
    assert (tmp_path / "checkpoint-last").exists()


@pytest.mark.parametrize("damage", ["flipped", "shorter", "torn mark", "unmarked"])
def test_a_damaged_last_one_falls_back_to_the_one_before_with_a_word(tmp_path: Path, damage: str) -> None:
    whole = checkpoint(tmp_path, 5)
    broken = checkpoint(tmp_path, 10, mark=damage != "unmarked")
    model = broken / "model.safetensors"
    if damage == "flipped":
        model.write_bytes(b"x" * 9 + b"y")
    elif damage == "shorter":
        model.write_bytes(b"x" * 9)
    elif damage == "torn mark":
        (broken / "COMPLETE").write_bytes(b"\xff{")
    said: list[str] = []
    assert usable_checkpoint(tmp_path, said.append) == whole
    assert not broken.exists()
    if damage == "unmarked":
        assert said == [], "a kill's leavings are nothing to speak of"
    else:
        (word,) = said
        assert str(broken) in word
        assert "the checkpoint before it" in word


def test_with_none_left_a_unit_starts_anew(tmp_path: Path) -> None:
    broken = checkpoint(tmp_path, 5)
    (broken / "inner" / "rng.pth").write_bytes(b"z")
    said: list[str] = []
    assert usable_checkpoint(tmp_path, said.append) is None
    assert len(said) == 1
