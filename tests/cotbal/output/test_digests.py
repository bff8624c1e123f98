"""Digests of whole files: any changed byte counts, and a large file that has not changed is read once."""

import hashlib
import os
from pathlib import Path

import pytest

from cotbal.output import digests
from cotbal.output.digests import file_digest, file_digests

SIZE = 80 * 2**20


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "cotbal" / "digests"


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A file of more than 64 MiB, last changed an hour ago."""
    path = tmp_path / "weights.bin"
    with path.open("wb") as stream:
        stream.truncate(SIZE)
    settle(path, 3600)
    return path


def settle(path: Path, seconds: int) -> None:
    when = path.stat().st_mtime_ns - seconds * 10**9
    os.utime(path, ns=(when, when))


def forget() -> None:
    """As a new process begins."""
    digests._digest.cache_clear()


def test_a_digest_follows_content_and_not_time(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("one")
    first = file_digest(path)
    assert first == f"sha256:{hashlib.sha256(b'one').hexdigest()}"
    os.utime(path, ns=(1, 1))
    assert file_digest(path) == first
    path.write_text("two")
    assert file_digest(path) != first
    assert not cache.exists(), "small files are read each time"


@pytest.mark.parametrize("place", [0, SIZE // 2, SIZE - 1])
def test_a_changed_byte_of_a_large_file_is_seen(large: Path, cache: Path, place: int) -> None:
    first = file_digest(large)
    with large.open("rb+") as stream:
        stream.seek(place)
        stream.write(b"x")
    settle(large, 1800)
    forget()
    assert file_digest(large) != first


def test_a_large_file_is_read_once(large: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = file_digest(large)
    forget()
    with monkeypatch.context() as patched:
        patched.setattr(digests, "_read", lambda path: pytest.fail("read again"))
        assert file_digest(large) == first
    for entry in cache.iterdir():
        entry.write_text("{")
    forget()
    assert file_digest(large) == first, "a damaged entry is none"


def test_a_file_that_has_just_changed_is_not_kept(large: Path, cache: Path) -> None:
    os.utime(large)
    file_digest(large)
    assert not cache.exists()


def test_a_cache_that_cannot_be_written_is_no_obstacle(
    large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert file_digest(large).startswith("sha256:")


def test_several_files_keep_their_order(tmp_path: Path) -> None:
    paths = [tmp_path / str(number) for number in range(9)]
    for path in paths:
        path.write_text(path.name)
    assert file_digests(paths) == [file_digest(path) for path in paths]
