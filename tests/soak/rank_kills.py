"""One of two processes (gloo) that train and score a unit together, killed at random moments until the unit is made.

This test is the launcher: where one process has died it ends the other, as torchrun does, and starts both again.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from soak.counted import counted, read_counts
from soak.forked import Ended, finish, start, warm
from soak.small_run import products, write_small_run
from soak.standing import look

__all__ = ["proof"]

UNIT = "mini"
_KILLS_PER_UNIT = 4
# torchrun waits for 30 s; the other process is in a collective that cannot end.
_PATIENCE = 10.0


def proof(root: Path, *, short: bool, until: float | None) -> dict[str, Any]:
    """Kill 40 times (a short proof: 2)."""
    warm(root / "warm")
    config = write_small_run(root / "mixture", launch={"processes": 2})
    began = time.monotonic()
    work = root / "work.txt"
    ended = _together(config, root / "whole", root, work, None)[0]
    if any(each.code for each in ended):
        raise RuntimeError("the undisturbed unit was not made:\n" + "\n".join(each.said for each in ended))
    seconds = time.monotonic() - began
    wanted, needed = products(root / "whole"), read_counts(work)["step", UNIT]
    draw = random.Random(12)
    goal = 2 if short else 40
    moments: Counter[str] = Counter()
    failures: list[str] = []
    made = taken = kills = 0
    while kills < goal and (until is None or time.monotonic() < until):
        output = root / f"killed-{made}"
        while True:
            before = look(output, 1)
            work.unlink(missing_ok=True)
            rank = draw.randrange(2)
            wait = draw.expovariate(_KILLS_PER_UNIT / seconds) if kills < goal else None
            ended, killed = _together(config, output, root, work, None if wait is None else (rank, wait))
            after = look(output, 1)
            steps = read_counts(work)["step", UNIT]
            taken += steps
            state = before.states.get(UNIT, "planned")
            most = 2 * (needed // 2 - before.steps.get(UNIT, 0)) if state == "planned" else 0
            if steps > most:
                failures.append(
                    f"{steps} steps of both processes where at most {most} were left to do ({state})"
                )
            if not killed:
                break
            kills += 1
            print(f"kill {kills}: process {rank}, {after.moment}", flush=True)
            moments[f"{after.moment}: process {rank}"] += 1
        made += 1
        if any(each.code for each in ended):
            failures.append("\n".join(f"ended with {each.code}: {each.said[-1500:]}" for each in ended))
        elif products(output) != wanted:
            differ = [name for name, digest in products(output).items() if wanted.get(name) != digest]
            failures.append(f"a unit whose processes were killed differs in {differ or 'missing files'}")
        shutil.rmtree(output, ignore_errors=True)
    if not kills:
        failures.append("no process was killed")
    return {
        "summary": f"{kills} kills over {made} units of 2 processes, {taken} steps where {made * needed} are needed",
        "kills": kills,
        "runs": made,
        "moments": dict(moments),
        "steps": {"needed": made * needed, "taken": taken},
        "failures": failures,
    }


def _together(
    config: Path, output: Path, root: Path, work: Path, kill: tuple[int, float] | None
) -> tuple[list[Ended], bool]:
    """Both processes to their end; whether one was killed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pids = []
    for rank in range(2):
        child = counted(_process(config, output, rank, port), work)
        pids.append(start(child, root / f"said-{rank}.txt")[0])
    killed = _watch(pids, kill)
    ended = [finish(pid, root / f"said-{rank}.txt") for rank, pid in enumerate(pids)]
    return ended, killed


def _process(config: Path, output: Path, rank: int, port: int) -> Callable[[], int]:
    def process() -> int:
        from cotbal.cli import main

        places = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": 2,
            "LOCAL_WORLD_SIZE": 2,
            "MASTER_PORT": port,
        }
        os.environ.update({name: str(value) for name, value in places.items()}, MASTER_ADDR="127.0.0.1")
        return main(["unit", str(config), UNIT, "--output", str(output)])

    return process


def _watch(pids: list[int], kill: tuple[int, float] | None) -> bool:
    """Wait until both have ended; kill one after its time, and the other where one has died."""
    began = time.monotonic()
    killed = False
    stopped: float | None = None
    while True:
        over = [os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None for pid in pids]
        if all(over):
            return killed
        if kill is not None and not killed and not any(over) and time.monotonic() - began > kill[1]:
            os.kill(pids[kill[0]], signal.SIGKILL)
            killed = True
        if any(over):
            left = pids[over.index(False)]
            code = os.waitid(os.P_PID, pids[over.index(True)], os.WEXITED | os.WNOWAIT).si_status  # type: ignore[union-attr]
            if code and stopped is None:
                stopped = time.monotonic()
                with suppress(ProcessLookupError):
                    os.kill(left, signal.SIGTERM)
            if stopped is not None and time.monotonic() - stopped > _PATIENCE:
                os.kill(left, signal.SIGKILL)
        time.sleep(0.02)
