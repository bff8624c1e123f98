"""Files replaced as a whole or not at all."""

from pathlib import Path

import pytest

from cotbal.atomic import replacing


def test_the_new_text_takes_the_old_one_s_place(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with replacing(target) as file:
        file.write("new ä")
        assert target.read_text() == "old"
    assert target.read_text(encoding="utf-8") == "new ä"
    assert list(tmp_path.iterdir()) == [target]


def test_an_error_leaves_the_old_text_and_no_litter(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError):
        _fail_half_way(target)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def _fail_half_way(target: Path) -> None:
    with replacing(target) as file:
        file.write("half")
        raise RuntimeError


def test_a_new_file_is_as_readable_as_any(tmp_path: Path) -> None:
    with replacing(tmp_path / "a.txt") as file:
        file.write("x")
    (tmp_path / "b.txt").write_text("x")
    assert (tmp_path / "a.txt").stat().st_mode == (tmp_path / "b.txt").stat().st_mode
