"""One process at a time in an output folder: the second is told who is there, and a killed one is no obstacle."""

import errno
import multiprocessing
import os
import re
import socket
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from cotbal.config.yaml_file import ConfigError
from cotbal.units.locking import HOLDER, HeldError, locked
from cotbal.units.store import OutputFolder


def _hold(path: Path, begun: Event) -> None:
    with OutputFolder(path).locked():
        begun.set()
        multiprocessing.Event().wait()


def test_a_folder_is_locked_until_its_holder_is_gone(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    begun = context.Event()
    holder = context.Process(target=_hold, args=(tmp_path, begun), daemon=True)
    holder.start()
    assert begun.wait(30)
    with (
        pytest.raises(HeldError, match="another cotbal process") as caught,
        OutputFolder(tmp_path).locked(),
    ):
        pass
    told = str(caught.value)
    assert f"process {holder.pid} on {socket.gethostname()} since 20" in told
    assert str(tmp_path) in told
    holder.kill()
    holder.join()
    assert (tmp_path / HOLDER).is_file(), "what a killed process wrote is no obstacle"
    with OutputFolder(tmp_path).locked():
        pass


def test_the_holder_is_told_while_it_holds_and_not_after(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "here"
    with locked(folder):
        first = (folder / HOLDER).read_text()
        with (
            pytest.raises(
                ConfigError, match=re.escape(f"process {multiprocessing.current_process().pid} on ")
            ),
            locked(folder),
        ):
            pass
        assert (folder / HOLDER).read_text() == first, "the loser changes nothing"
    assert not (folder / HOLDER).exists()
    with locked(folder):
        pass


@pytest.mark.parametrize("content", [None, "", "{", "[]", "null", "{}"])
def test_a_holder_that_has_not_said_who_it_is_still_holds(tmp_path: Path, content: str | None) -> None:
    with locked(tmp_path):
        (tmp_path / HOLDER).unlink()
        if content is not None:
            (tmp_path / HOLDER).write_text(content)
        with pytest.raises(ConfigError, match="another cotbal process"), locked(tmp_path):
            pass


def test_an_error_inside_ends_the_lock(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="stopped"), locked(tmp_path):
        raise RuntimeError("stopped")
    with locked(tmp_path):
        pass


def test_what_a_killed_process_was_writing_is_cleared_away(tmp_path: Path) -> None:
    torn = tmp_path / ".weights.json.1-0123abcd.tmp"
    torn.write_text("{")
    with OutputFolder(tmp_path).locked():
        assert not torn.exists()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(ConfigError, match=r"\.lock: cannot be locked"), locked(tmp_path):
        pass
