"""`cotbal run` killed at random moments, again and again until it ends: as if nothing had happened.

A run is begun, and killed (SIGKILL) or told to stop (SIGTERM) after a random time; the same command follows, until
one ends by itself, and then the next run begins. At each end of a process, what it did is held to what was done
before: no step of a trained unit, no step before the last whole checkpoint, no batch of a scored unit, and no changed
file of one.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from soak.counted import counted, read_counts
from soak.forked import Ended, finish, start, warm
from soak.small_run import products, write_small_run
from soak.standing import Standing, look

__all__ = ["UNITS", "done_again", "proof"]

UNITS = 5
# How many kills a run meets on average until it ends.
_KILLS_PER_RUN = 6
_LITTER = ("*.tmp", "model.unfinished", ".discarded-*", "checkpoints", "predictions")


def proof(root: Path, *, short: bool, until: float | None) -> dict[str, Any]:
    """Kill 160 times (a short proof: 4)."""
    warm(root / "warm")
    config = write_small_run(root / "mixture")
    began = time.monotonic()
    said, work = root / "said.txt", root / "work.txt"
    ended = finish(*start(counted(_command(config, root / "whole"), work), said))
    if ended.code:
        raise RuntimeError(f"the undisturbed run ended with {ended.code}:\n{ended.said}")
    seconds = time.monotonic() - began
    wanted, needed = products(root / "whole"), read_counts(work)
    draw = random.Random(11)
    kills: list[dict[str, Any]] = []
    failures: list[str] = []
    runs = 0
    done: Counter[tuple[str, str]] = Counter()
    goal = 4 if short else 160
    while len(kills) < goal and (until is None or time.monotonic() < until):
        output = root / f"killed-{runs}"
        before = look(output, UNITS)
        while True:
            work.unlink(missing_ok=True)
            kind = signal.SIGTERM if draw.random() < 0.25 else signal.SIGKILL
            wait = draw.expovariate(_KILLS_PER_RUN / seconds) if len(kills) < goal else None
            began = time.monotonic()
            ended, killed = _killed(counted(_command(config, output), work), said, wait, kind)
            done += read_counts(work)
            after = look(output, UNITS)
            failures += done_again(before, read_counts(work), needed, after)
            if not killed:
                break
            print(f"kill {len(kills)}: {kind.name}, {after.moment}", flush=True)
            kills.append({"moment": after.moment, "signal": kind.name, "code": ended.code})
            if ended.code not in ((-signal.SIGKILL,) if kind is signal.SIGKILL else (75, -signal.SIGTERM)):
                failures.append(
                    f"{kind.name} while {after.moment}: ended with {ended.code}: {ended.said[-500:]}"
                )
            before = after
        runs += 1
        if ended.code:
            failures.append(f"a run that was killed before ended with {ended.code}: {ended.said[-1500:]}")
        elif products(output) != wanted:
            differ = [name for name, digest in products(output).items() if wanted.get(name) != digest]
            failures.append(f"a run that was killed before differs in {differ or 'missing files'}")
        left = [str(path) for pattern in _LITTER for path in output.rglob(pattern)]
        failures += [f"left behind: {path}" for path in left]
        shutil.rmtree(output, ignore_errors=True)
    if not kills:
        failures.append("no process was killed")
    return _result(kills, failures, runs, done, needed)


def _result(
    kills: list[dict[str, Any]],
    failures: list[str],
    runs: int,
    done: Counter[tuple[str, str]],
    needed: Counter[tuple[str, str]],
) -> dict[str, Any]:
    steps = {
        "needed": runs * sum(count for (kind, _), count in needed.items() if kind == "step"),
        "taken": sum(count for (kind, _), count in done.items() if kind == "step"),
    }
    batches = {
        "needed": runs * sum(count for (kind, _), count in needed.items() if kind == "batch"),
        "taken": sum(count for (kind, _), count in done.items() if kind == "batch"),
    }
    return {
        "summary": f"{len(kills)} kills over {runs} runs, {steps['taken']} steps where {steps['needed']} are needed",
        "kills": len(kills),
        "runs": runs,
        "moments": dict(Counter(f"{kill['moment']}: {kill['signal']}" for kill in kills)),
        "steps": steps,
        "batches": batches,
        "failures": failures,
    }


def _command(config: Path, output: Path) -> Callable[[], int]:
    def command() -> int:
        from cotbal.cli import main

        return main(["run", str(config), "--output", str(output)])

    return command


def _killed(
    child: Callable[[], int], said: Path, wait: float | None, kind: signal.Signals
) -> tuple[Ended, bool]:
    """Begin a child and send it the signal after so many seconds; whether it was still there then."""
    pid, said = start(child, said)
    deadline = None if wait is None else time.monotonic() + wait
    while deadline is None or time.monotonic() < deadline:
        # Not waited for yet: `finish` does that.
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return finish(pid, said), False
        time.sleep(0.01)
    os.kill(pid, kind)
    ended = finish(pid, said)
    return ended, ended.code != 0


def done_again(
    before: Standing, did: Counter[tuple[str, str]], needed: Counter[tuple[str, str]], after: Standing
) -> list[str]:
    """What a process did although it was done before it began."""
    wrong = []
    for (kind, unit), count in did.items():
        state = before.states.get(unit, "planned")
        most = needed[kind, unit]
        if kind == "step":
            most = 0 if state != "planned" else most - before.steps.get(unit, 0)
        elif state == "scored":
            most = 0
        if count > most:
            wrong.append(f"{unit}: {count} of {kind} where at most {most} were left to do ({state})")
    changed = [path for path, stamp in before.files.items() if after.files.get(path) != stamp]
    return [*wrong, *(f"{path}: changed although its unit was finished" for path in changed)]
