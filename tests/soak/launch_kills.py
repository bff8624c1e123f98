"""`cotbal prepare` with two processes per unit (gloo, torchrun), its driver, a launcher or a rank killed or stopped.

One blow falls per call of the command: a victim and a signal, in a phase of a unit, at a random moment of it. The
same command follows, until one ends by itself.
"""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

from support.units import launched
from support.units.blows import PHASES, VICTIMS, Blow, assert_no_step_twice, run_through

__all__ = ["proof"]

_MOST_SECONDS_IN_A_PHASE = 0.5
_BLOWS_PER_JOB = 6


def proof(root: Path, *, short: bool, until: float | None) -> dict[str, Any]:
    """Every victim, signal and phase five times, 120 blows (a short proof: 1)."""
    whole = launched.write_job(root / "whole", launch={"processes": 2})
    launched.finish(launched.start(whole, launched.environment()), whole)
    draw = random.Random(13)
    blows = [
        Blow(victim, kind, phase, draw.random() * _MOST_SECONDS_IN_A_PHASE)
        for victim in VICTIMS
        for kind in (signal.SIGKILL, signal.SIGTERM)
        for phase in PHASES
        for _ in range(5)
    ]
    draw.shuffle(blows)
    waiting = blows[:1] if short else blows
    moments: Counter[str] = Counter()
    failures: list[str] = []
    jobs = taken = needed = 0
    while waiting and (until is None or time.monotonic() < until):
        chosen, waiting = waiting[:_BLOWS_PER_JOB], waiting[_BLOWS_PER_JOB:]
        folder = root / f"job-{jobs}"
        config, steps = launched.write_job(folder / "m", launch={"processes": 2}), folder / "steps"
        struck: list[Blow] = []
        try:
            struck, windows = run_through(config, chosen, steps)
            launched.assert_same_result(config, whole)
            assert_no_step_twice(config, windows)
        except AssertionError as error:
            failures.append(f"{', '.join(map(str, chosen))}: {error}")
        # A blow that came too late is tried again in another job.
        waiting += [] if failures else [blow for blow in chosen if blow not in struck]
        moments.update(str(blow) for blow in struck)
        for unit, counted in launched.steps_of(steps).items():
            taken += sum(counted.values())
            needed += 2 * launched.steps_in_all(config, unit)
        print(f"job {jobs}: {', '.join(map(str, struck))}", flush=True)
        jobs += 1
        shutil.rmtree(folder, ignore_errors=True)
    if not moments:
        failures.append("no blow struck")
    return {
        "summary": f"{moments.total()} kills and stops over {jobs} jobs of 3 units and 2 processes, {taken} steps "
        f"where {needed} are needed",
        "kills": moments.total(),
        "runs": jobs,
        "moments": dict(moments),
        "steps": {"needed": needed, "taken": taken},
        "failures": failures,
    }
