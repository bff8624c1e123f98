"""One process at a time in an output folder: the second is told who is there, and a killed one is no obstacle."""

import errno
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
from filelock import FileLock

from cotbal.config.yaml_file import ConfigError
from cotbal.output.holder import DEAD_SECONDS, HOLDER, Holder, read_holder
from cotbal.output.locking import HeldError, held_by_other, locked
from cotbal.output.manifest import Manifest
from cotbal.output.store import OutputFolder
from cotbal.units.joint_lock import joint_lock


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


def elsewhere(folder: Path, age: float, **changes: str) -> Holder:
    """A holder on another machine, as it leaves its file behind."""
    folder.mkdir(parents=True, exist_ok=True)
    holder = replace(Holder.here(), host="node7", kernel="another boot", **changes)
    holder.write(folder)
    when = time.time() - age
    os.utime(folder / HOLDER, (when, when))
    return holder


def test_a_living_holder_on_another_machine_holds(tmp_path: Path) -> None:
    holder = elsewhere(tmp_path, age=DEAD_SECONDS / 2)
    assert held_by_other(tmp_path) == holder
    with pytest.raises(HeldError, match=r"process \d+ on node7 since 20") as caught, locked(tmp_path):
        pass
    assert caught.value.holder == holder
    assert read_holder(tmp_path) == holder, "the loser changes nothing"


def test_a_dead_holder_on_another_machine_is_replaced(tmp_path: Path) -> None:
    elsewhere(tmp_path, age=DEAD_SECONDS + 1)
    assert held_by_other(tmp_path) is None
    with locked(tmp_path):
        found = read_holder(tmp_path)
        assert found is not None
        assert found.pid == os.getpid()


def test_a_lock_that_a_file_server_keeps_for_a_dead_machine_is_replaced(tmp_path: Path) -> None:
    with FileLock(tmp_path / ".lock"):
        elsewhere(tmp_path, age=DEAD_SECONDS + 1)
        with locked(tmp_path):
            pass
        elsewhere(tmp_path, age=0)
        with pytest.raises(HeldError, match="node7"), locked(tmp_path):
            pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_without_locks_the_holders_file_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    with locked(tmp_path), pytest.raises(HeldError, match=f"process {os.getpid()} on "), locked(tmp_path):
        pass
    assert not (tmp_path / HOLDER).exists()
    ended = subprocess.Popen(["true"])
    ended.wait()
    replace(Holder.here(), pid=ended.pid).write(tmp_path)
    with locked(tmp_path):
        pass


def _wait_for(path: Path) -> None:
    with locked(path, waiting=lambda held: None) as waited:
        os._exit(7 if waited else 0)


def test_who_waits_gets_the_lock_and_is_told_who_had_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    with locked(tmp_path):
        waiter = context.Process(target=_wait_for, args=(tmp_path,), daemon=True)
        waiter.start()
        waiter.join(2)
        assert waiter.is_alive()
    waiter.join(30)
    assert waiter.exitcode == 7


def test_a_holder_gives_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cotbal.output.locking.BEAT_SECONDS", 0.05)
    with locked(tmp_path):
        os.utime(tmp_path / HOLDER, (0, 0))
        deadline = time.monotonic() + 30
        while (tmp_path / HOLDER).stat().st_mtime == 0:
            assert time.monotonic() < deadline
            time.sleep(0.02)


SUSPENDED = """
import sys, time
from pathlib import Path
from cotbal.output import locking
locking.BEAT_SECONDS = 0.1
with locking.locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_holder_that_was_taken_for_dead_ends_itself(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SUSPENDED, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    other = elsewhere(tmp_path, age=0)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL
    assert f"was taken over by {other}" in said
    assert read_holder(tmp_path) == other


def test_a_living_units_files_are_left_alone(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path)
    torn = []
    for name in ("alive", "dead"):
        unit = folder.unit(name)
        unit.write_manifest(Manifest(name, name, "tune", 0, {}, {}))
        torn.append(unit.path / ".manifest.json.1-0123abcd.tmp")
        torn[-1].write_text("{")
    elsewhere(folder.running / "alive", age=0)
    elsewhere(folder.running / "dead", age=DEAD_SECONDS + 1)
    with folder.locked():
        assert [path.exists() for path in torn] == [True, False]


def test_processes_of_one_launcher_share_a_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = OutputFolder(tmp_path)
    for name, value in (("WORLD_SIZE", "2"), ("MASTER_ADDR", "here"), ("MASTER_PORT", "7")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.delenv("TORCHELASTIC_RESTART_COUNT", raising=False)
    entered: list[str] = []

    def second() -> None:
        with joint_lock(folder, "mini", entered.append):
            entered.append("second")

    monkeypatch.setenv("RANK", "1")
    thread = threading.Thread(target=second, daemon=True)
    elsewhere(folder.running / "mini", age=0)
    thread.start()
    thread.join(1)
    assert entered == [], "another launcher's processes hold it"
    elsewhere(folder.running / "mini", age=DEAD_SECONDS + 1)
    monkeypatch.setenv("RANK", "0")
    with joint_lock(folder, "mini", entered.append):
        thread.join(30)
        assert entered == ["second"]
