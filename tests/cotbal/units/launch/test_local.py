"""Commands side by side: real processes, their failures, and a request to stop."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from cotbal.units.launch.command import UnitCommand, unit_command
from cotbal.units.launch.local import LocalEngine
from cotbal.units.launch.side_by_side import UnitFailedError, follow_all


def command(unit: str, folder: Path, code: str) -> UnitCommand:
    return UnitCommand(unit, (sys.executable, "-c", textwrap.dedent(code)), 1, folder / f"{unit}.log")


def test_as_many_run_at_once_as_there_are_places(tmp_path: Path) -> None:
    code = """
        import os, pathlib, time
        here = pathlib.Path(os.environ["MARKS"])
        (here / str(os.getpid())).touch()
        time.sleep(1.0)
        seen = len(list(here.iterdir()))
        (here / str(os.getpid())).unlink()
        print("seen", seen, os.environ["PLACE"])
    """
    marks = tmp_path / "marks"
    marks.mkdir()
    commands = [command(f"unit{number}", tmp_path, code) for number in range(4)]
    commands = [UnitCommand(c.unit, c.words, 1, c.log, {"MARKS": str(marks)}) for c in commands]
    running: list[int] = []
    finished: list[str] = []
    follow_all(
        commands,
        LocalEngine([{"PLACE": "a"}, {"PLACE": "b"}]),
        watch=lambda units: running.append(len(units)),
        finished=finished.append,
    )
    assert max(running) == 2
    assert sorted(finished) == [f"unit{number}" for number in range(4)]
    said = [each.log.read_text().split()[-2:] for each in commands]
    assert all(int(seen) <= 2 for seen, _ in said)
    assert {place for _, place in said} == {"a", "b"}


def test_a_failure_is_named_with_its_words_and_nothing_more_is_started(tmp_path: Path) -> None:
    commands = [
        command("good", tmp_path, "print('fine')"),
        command("bad", tmp_path, "import sys; print('loading'); print('error: no such model'); sys.exit(2)"),
        command("later", tmp_path, "print('never')"),
    ]
    with pytest.raises(
        UnitFailedError, match=r"bad: its command ended with exit code 2.*\n.*error: no such model"
    ):
        follow_all(commands, LocalEngine([{}]))
    assert (tmp_path / "good.log").is_file()
    assert not (tmp_path / "later.log").exists()


def test_a_killed_command_is_told_by_its_signal(tmp_path: Path) -> None:
    killed = command("plus_vqa", tmp_path, "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(UnitFailedError, match="plus_vqa: its command was killed by SIGKILL"):
        follow_all([killed], LocalEngine([{}]))


def test_a_request_to_stop_reaches_every_command(tmp_path: Path) -> None:
    driver = f"""
        import sys
        from pathlib import Path
        from cotbal.units.launch.command import UnitCommand
        from cotbal.units.launch.local import LocalEngine
        from cotbal.units.launch.side_by_side import follow_all
        from cotbal.units.stopping import UnitStoppedError

        code = (
            "import signal, sys, time\\n"
            "signal.signal(signal.SIGTERM, lambda *_: (print('saved'), sys.exit(75)))\\n"
            "print('ready', flush=True); time.sleep(60)"
        )
        folder = Path({str(tmp_path)!r})
        commands = [UnitCommand(n, (sys.executable, "-c", code), 1, folder / n) for n in "ab"]
        try:
            follow_all(commands, LocalEngine([{{}}, {{}}]))
        except UnitStoppedError as error:
            print(error)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(driver)], stdout=subprocess.PIPE, text=True, env=os.environ
    )
    deadline = time.monotonic() + 60
    while not all("ready" in _text(tmp_path / name) for name in "ab"):
        assert time.monotonic() < deadline, "the commands did not start"
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert "stopped; the same command goes on from here" in said
    assert all("saved" in _text(tmp_path / name) for name in "ab")


def _text(path: Path) -> str:
    # The command itself stands in the first line.
    return path.read_text().partition("\n")[2] if path.is_file() else ""


def test_one_process_is_started_plainly_and_several_by_torchrun(tmp_path: Path) -> None:
    alone = unit_command(tmp_path / "m.yaml", "mini", processes=1, log=tmp_path / "log")
    assert alone.words == (sys.executable, "-m", "cotbal", "unit", str(tmp_path / "m.yaml"), "mini")
    several = unit_command(
        tmp_path / "m.yaml", "mini", processes=4, log=tmp_path / "log", options=["--output", "x"]
    )
    assert several.words[1:6] == ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4")
    assert several.words[-7:] == ("-m", "cotbal", "unit", str(tmp_path / "m.yaml"), "mini", "--output", "x")
    launched = unit_command(
        tmp_path / "m.yaml", "mini", processes=4, log=tmp_path / "log", launcher=["accelerate", "launch"]
    )
    assert launched.words[:4] == ("accelerate", "launch", "-m", "cotbal")
