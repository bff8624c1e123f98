"""Commands that are interrupted are started again, those that fail are not; real processes, real torchrun."""

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from cotbal.output.unit_output import exit_codes
from cotbal.units.launch.command import UnitCommand
from cotbal.units.launch.local import LocalEngine, start_process
from cotbal.units.launch.side_by_side import UnitFailedError, follow_all, interrupted


class RetryingEngine(LocalEngine):
    """Starts commands on this machine, and wants them back when they are interrupted."""

    retries = 2


def command(unit: str, folder: Path, code: str) -> UnitCommand:
    return UnitCommand(unit, (sys.executable, "-c", textwrap.dedent(code)), 1, folder / f"{unit}.log")


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), 9)", "os._exit(75)"])
def test_an_interrupted_command_is_started_again(tmp_path: Path, end: str) -> None:
    code = f"""
        import os, pathlib
        marks = pathlib.Path({str(tmp_path)!r}) / "marks"
        marks.open("a").write("x")
        if len(marks.read_text()) < 3:
            {end}
    """
    said: list[str] = []
    follow_all([command("mini", tmp_path, code)], RetryingEngine([{}]), say=said.append)
    assert said == [
        "mini was interrupted and is started again (retries left: 1)",
        "mini was interrupted and is started again (retries left: 0)",
    ]
    assert (tmp_path / "mini.log").read_text().count("$ ") == 3


def test_a_command_is_not_started_again_forever_nor_after_an_error(tmp_path: Path) -> None:
    killed = command("killed", tmp_path, "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(UnitFailedError, match=r"killed by SIGKILL; it was asked to stop, or .* was killed"):
        follow_all([killed], RetryingEngine([{}]))
    assert (tmp_path / "killed.log").read_text().count("$ ") == 3
    wrong = command("wrong", tmp_path, "import sys; sys.exit(2)")
    with pytest.raises(UnitFailedError, match="ended with exit code 2;"):
        follow_all([wrong], RetryingEngine([{}]))
    assert (tmp_path / "wrong.log").read_text().count("$ ") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "again"), [("os.kill(os.getpid(), 9)", True), ("os._exit(75)", True), ("os._exit(3)", False)]
)
def test_torchrun_tells_how_its_processes_ended(tmp_path: Path, end: str, again: bool) -> None:
    script = tmp_path / "rank.py"
    script.write_text(f"import os, time\nif os.environ['RANK'] == '1':\n    {end}\ntime.sleep(60)\n")
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    words = UnitCommand("mini", (sys.executable, *torchrun, str(script)), 2, tmp_path / "mini.log")
    code = start_process(words, {"OMP_NUM_THREADS": "1"}).wait(timeout=300)
    assert code == 1
    assert interrupted(code, words) == again
    assert exit_codes(words.log)[0] == {"os.kill(os.getpid(), 9)": -9, "os._exit(75)": 75}.get(end, 3)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone ties a process to its parent")
def test_a_tied_command_is_told_when_its_starter_is_killed(tmp_path: Path) -> None:
    child = f"""
        import pathlib, signal, sys, time
        told = pathlib.Path({str(tmp_path / "told")!r})
        signal.signal(signal.SIGTERM, lambda *_: (told.write_text("asked to stop"), sys.exit(75)))
        told.with_name("ready").touch()
        time.sleep(120)
    """
    starter = f"""
        import subprocess, time
        from cotbal.units.launch.tied import tied_words
        child = subprocess.Popen(tied_words(({sys.executable!r}, "-c", {textwrap.dedent(child)!r})))
        print(child.pid, flush=True)
        time.sleep(120)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(starter)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    _await(tmp_path / "ready")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    _await(tmp_path / "told")


def _await(path: Path, seconds: float = 60.0) -> None:
    import time

    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.05)
