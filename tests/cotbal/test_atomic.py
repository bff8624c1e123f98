"""Files replaced as a whole or not at all."""

import errno
import os
from pathlib import Path

import pytest

from cotbal.atomic import read_file, replacing, sync


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


@pytest.mark.parametrize("operation", ["read", "sync"])
def test_what_an_open_file_does_not_say_is_named(
    tmp_path: Path, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading and syncing fail with the number alone: the disk knows no paths."""
    path = tmp_path / "a.txt"
    path.write_text("x")

    def fail(*_: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    if operation == "read":
        monkeypatch.setattr(Path, "read_bytes", fail)
    else:
        monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error") as caught:
        read_file(path) if operation == "read" else sync(path)
    assert caught.value.filename == str(path)


def test_an_error_that_names_a_file_stays_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        read_file(tmp_path / "none")
    assert caught.value.filename == str(tmp_path / "none")
