"""`cotbal run` on a disk that fills up, and on one that fails; then the same command again, once that is mended.

The full disk is a tmpfs that is filled when a part of the run's work is done, and kept full until the command ends.
The failing disk is a library (`faulty_disk.c`) that makes chosen calls on chosen files return EIO. Either way the
command has to end with an error that names a file and says what to do, or, where it can do without, with the bits of
an undisturbed run; and the same command must then end with these bits, without doing again what was done.

Both need a process of their own: mounts are made in a namespace that ends with it, and the library is preloaded.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from soak.counted import counted, read_counts
from soak.forked import Ended, finish, start, warm
from soak.kills import UNITS, done_again
from soak.small_run import products, write_small_run
from soak.standing import look

__all__ = ["PLACES", "Place", "proof"]

POINTS = 20
# Of <sys/mount.h>.
_REMOUNT = 32
_HERE = Path(__file__).resolve().parent
# Of an error about a disk: what to do.
_ADVICE = re.compile("the same command (then )?goes on")


@dataclass(frozen=True)
class Place:
    """Where a disk fails.

    Attributes:
        call: open, read, write, sync or rename.
        pattern: of the paths of the files.
        first: the first of these calls that fails.
        count: how many fail; 0: all from then on.
        start: what there is already: nothing, an ended preparation, or a unit killed after two checkpoints.
        command: `unit` makes one unit of five, `run` all of them.
    """

    call: str
    pattern: str
    first: int = 1
    count: int = 0
    start: str = "nothing"
    command: str = "unit"


PLACES = (
    Place("open", "*/mixture.yaml"),
    Place("read", "*/mixture.yaml"),
    Place("read", "*/images/3.png"),
    Place("open", "*/images/3.png"),
    Place("read", "*/images/5.png", count=2),
    Place("read", "*/colour_train.json"),
    Place("read", "*/count_validation.json"),
    Place("open", "*/mixture/model/model.safetensors"),
    Place("read", "*/mixture/model/config.json"),
    Place("read", "*/mixture/model/tokenizer.json"),
    Place("write", "*/..lock.holder*"),
    Place("write", "*/check/*"),
    Place("write", "*/.bad_records.jsonl*"),
    Place("write", "*/.manifest.json*", first=2),
    Place("rename", "*/units/mini/manifest.json", first=2),
    Place("write", "*/units/mini/log.jsonl"),
    Place("write", "*/units/mini/.log.jsonl*"),
    Place("write", "*/units/mini/checkpoints/checkpoint-4/.tmp*"),
    Place("write", "*/units/mini/checkpoints/checkpoint-4/optimizer.pt"),
    Place("sync", "*/units/mini/checkpoints/checkpoint-2/optimizer.pt"),
    Place("write", "*/units/mini/checkpoints/checkpoint-2/trainer_state.json"),
    Place("write", "*/units/mini/checkpoints/checkpoint-2/task_balance.pt*"),
    Place("write", "*/units/plus_colour/.manifest.json*", command="run"),
    Place("read", "*/units/mini/checkpoints/checkpoint-4/optimizer.pt", start="killed"),
    Place("read", "*/units/mini/checkpoints/checkpoint-4/COMPLETE", start="killed"),
    Place("read", "*/units/mini/checkpoints/checkpoint-4/trainer_state.json", start="killed"),
    Place("write", "*/units/mini/model.unfinished/.tmp*"),
    Place("sync", "*/units/mini/model.unfinished"),
    Place("rename", "*/units/mini/model"),
    Place("open", "*/units/mini/model/model.safetensors"),
    Place("write", "*/units/mini/predictions/*", first=2),
    Place("write", "*/units/mini/.scores.jsonl*"),
    Place("sync", "*/units/mini"),
    Place("read", "*/units/mini/manifest.json", start="prepared", command="run"),
    Place("read", "*/units/mini/scores.jsonl", start="prepared", command="run"),
    Place("write", "*/.scores.csv*", start="prepared", command="run"),
    Place("write", "*/.weights.json*", start="prepared", command="run"),
    Place("read", "*/weights.json", start="prepared", command="run"),
    Place("rename", "*/seals.json", start="prepared", command="run"),
    Place("write", "*/report/*", start="prepared", command="run"),
)
_IN_SHORT = ("*/images/3.png", "*/images/5.png", "*/units/mini/model.unfinished/.tmp*")


@dataclass(frozen=True)
class Case:
    """One fault, and what came of it.

    Attributes:
        fault: when the disk was full, or the place at which it failed.
        moment: where the work was when the command ended.
        said: the error; empty where the command went on.
        wrong: what should not be, in sentences.
    """

    fault: str
    moment: str
    said: str
    wrong: tuple[str, ...]


def proof(root: Path, *, short: bool, until: float | None) -> dict[str, Any]:
    """Fill the disk at 20 points and let it fail in every place (a short proof: 2 points and 4 places).

    Raises:
        RuntimeError: there is no C compiler, nothing can be mounted, or the process that does all this failed.
    """
    library = root / "faulty_disk.so"
    build = ["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(_HERE / "faulty_disk.c"), "-ldl"]
    try:
        subprocess.run(build, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise RuntimeError(f"this proof needs a C compiler to make a disk fail: {error}") from error
    seconds = None if until is None else until - time.monotonic()
    namespace = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    work = [sys.executable, "-m", "soak.disk_faults", str(root), json.dumps([short, seconds])]
    environment = {
        **os.environ,
        "LD_PRELOAD": str(library),
        "PYTHONPATH": os.pathsep.join([str(_HERE.parent), str(_HERE.parents[1])]),
        "COTBAL_PICTURE_PAUSE": "0.01",
    }
    done = subprocess.run([*namespace, *work], env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(namespace)} or what ran in it ended with {done.returncode}")
    found: dict[str, Any] = json.loads((root / "found.json").read_text())
    return found


class _Disk:
    """A tmpfs whose size can be changed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        self._libc = ctypes.CDLL(None)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(path)], check=True)

    def empty(self) -> None:
        """Let it have room again."""
        self._resize("50%")

    def fill(self) -> None:
        """Take what room there is: nothing more can be written, and what is freed is taken the next time."""
        found = os.statvfs(self.path)
        # Size 0 would be no limit. Where files have grown meanwhile nothing changes, and the next call does it.
        self._resize(str(max(found.f_blocks - found.f_bfree, 1) * found.f_frsize))

    def _resize(self, size: str) -> None:
        # By the library, as a process for each of thousands of calls would take longer than what is waited for.
        self._libc.mount(b"tmpfs", os.fsencode(self.path), b"tmpfs", _REMOUNT, f"size={size}".encode())


@dataclass(frozen=True)
class _Trial:
    """An undisturbed run of the mixture, and what is needed to disturb others."""

    root: Path
    config: Path
    wanted: dict[str, str]
    needed: Counter[tuple[str, str]]

    @property
    def work(self) -> Path:
        """Where a child counts what it does."""
        return self.root / "work.txt"

    def begin(self, output: Path, command: str = "run", fault: str = "") -> tuple[int, Path]:
        """Begin a child that runs a command, with or without a fault of the disk."""
        self.work.unlink(missing_ok=True)
        words = ["unit", str(self.config), "mini"] if command == "unit" else ["run", str(self.config)]

        def failing() -> int:
            from cotbal.cli import main

            if fault:
                os.environ.update(COTBAL_FAULT=fault, COTBAL_FAULT_SEEN=str(self.root / "seen.txt"))
            return main([*words, "--output", str(output)])

        return start(counted(failing, self.work), self.root / "said.txt")

    def run(
        self, output: Path, command: str = "run", fault: str = ""
    ) -> tuple[Ended, Counter[tuple[str, str]]]:
        """Run to the end; how it ended, and what it did."""
        ended = finish(*self.begin(output, command, fault))
        return ended, read_counts(self.work)

    def judge(
        self, fault: str, output: Path, ended: Ended, command: str, mend: Callable[[], None] = lambda: None
    ) -> Case:
        """Judge a disturbed command, and run the same one again once the disk is mended."""
        wrong: list[str] = []
        before = look(output, UNITS) if output.is_dir() else None
        error = re.split(r"(?m)^(?=error:)", ended.said)[-1] if "error:" in ended.said else ""
        said = " ".join(error.split())
        if ended.code == 0:
            wrong += self._differing(output, command)
        else:
            plain = ended.code == 2 and not re.search("Traceback|error inside", ended.said)
            named = re.search(r"/\S+", said) is not None
            if not (plain and named and _ADVICE.search(said)):
                wrong.append(f"ended with {ended.code}: {ended.said[-900:]}")
        mend()
        again, did = self.run(output, command)
        if again.code:
            wrong.append(f"once mended, ended with {again.code}: {again.said[-900:]}")
        wrong += self._differing(output, command)
        if before is not None:
            wrong += done_again(before, did, self.needed, look(output, UNITS))
        moment = "before anything was written" if before is None else before.moment
        return Case(fault, moment, said.replace(str(self.root), "..."), tuple(wrong))

    def _differing(self, output: Path, command: str) -> list[str]:
        found = products(output)
        wanted = {
            name: digest
            for name, digest in self.wanted.items()
            if command == "run" or name.startswith("units/mini/")
        }
        found = {name: digest for name, digest in found.items() if name in wanted or command == "run"}
        names = sorted(name for name in wanted.keys() | found.keys() if found.get(name) != wanted.get(name))
        return [f"differs in {', '.join(names)}"] if names else []


def work(root: Path, short: bool, seconds: float | None) -> None:
    """What runs in the namespace; writes what it found to `found.json`."""
    until = None if seconds is None else time.monotonic() + seconds
    warm(root / "warm")
    config = write_small_run(root / "mixture", launch={"fit": "warn"})
    disk = _Disk(root / "disk")
    output = disk.path / "run"
    trial = _Trial(root, config, {}, Counter())
    ended, needed = trial.run(output)
    if ended.code:
        raise RuntimeError(f"the undisturbed run ended with {ended.code}:\n{ended.said}")
    trial = _Trial(root, config, products(output), needed)
    half = None if until is None else time.monotonic() + (until - time.monotonic()) / 2
    full = _filled(trial, disk, output, 2 if short else POINTS, half)
    places = [place for place in PLACES if place.pattern in _IN_SHORT or not short]
    failed = _failing(trial, places, until)
    found = {
        "summary": f"{len(full)} of {2 if short else POINTS} points at which the disk was full, {len(failed)} of "
        f"{len(places)} places at which it failed",
        "full": [asdict(case) for case in full],
        "failing": [asdict(case) for case in failed],
        "failures": [f"{case.fault}: {sentence}" for case in (*full, *failed) for sentence in case.wrong],
    }
    (root / "found.json").write_text(json.dumps(found))


def _filled(trial: _Trial, disk: _Disk, output: Path, points: int, until: float | None) -> list[Case]:
    """Filled when so much of the work is done, and kept full until the command ends."""
    whole = sum(trial.needed.values())
    cases = []
    # Every third one first, so that a proof that is cut short has some of every part.
    for point in sorted(range(points), key=lambda number: (number % 3, number)):
        if until is not None and time.monotonic() > until:
            break
        shutil.rmtree(output, ignore_errors=True)
        done = round(whole * point / points)
        pid, said = trial.begin(output)
        while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if sum(read_counts(trial.work).values()) >= done and output.is_dir():
                disk.fill()
            time.sleep(0.005)
        ended = finish(pid, said)
        fault = f"after {done} of {whole} steps and batches"
        print("full", fault, ended.code, flush=True)
        case = trial.judge(fault, output, ended, "run", disk.empty)
        if ended.code == 0:
            case = replace(case, wrong=(*case.wrong, "the disk was not filled"))
        cases.append(case)
    return cases


def _failing(trial: _Trial, places: list[Place], until: float | None) -> list[Case]:
    starts: dict[str, Path] = {}
    cases = []
    for place in sorted(places, key=lambda place: places.index(place) % 3):
        if until is not None and time.monotonic() > until:
            break
        output = trial.root / "failing"
        shutil.rmtree(output, ignore_errors=True)
        if place.start != "nothing":
            if place.start not in starts:
                starts[place.start] = _begun(trial, place.start)
            shutil.copytree(starts[place.start], output, symlinks=True)
        seen = trial.root / "seen.txt"
        seen.unlink(missing_ok=True)
        fault = f"{place.call}:{place.first}:{place.count}:{place.pattern}"
        ended, _ = trial.run(output, place.command, fault)
        print("failing", fault, ended.code, flush=True)
        which = f"{place.call} {place.pattern}" + (f", {place.count} times" if place.count else "")
        case = trial.judge(which, output, ended, place.command)
        if not seen.is_file():
            case = replace(case, wrong=(*case.wrong, "nothing failed there"))
        cases.append(case)
    return cases


def _begun(trial: _Trial, state: str) -> Path:
    """A folder in which a preparation has ended, or one unit was killed after two checkpoints."""
    from support.units.killed_run import plant

    template = trial.root / state

    def child() -> int:
        from cotbal.cli import main

        if state == "prepared":
            return main(["prepare", str(trial.config), "--output", str(template)])
        plant("cotbal.tune.trainer:begin_step", 6, "after")
        return main(["run", str(trial.config), "--output", str(template)])

    ended = finish(*start(child, trial.root / "said.txt"))
    if ended.code != (0 if state == "prepared" else -signal.SIGKILL):
        raise RuntimeError(f"the folder to start from was not made ({ended.code}):\n{ended.said}")
    return template


if __name__ == "__main__":
    work(Path(sys.argv[1]), *json.loads(sys.argv[2]))
