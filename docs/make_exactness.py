"""Run every set-up in which the weighted loss is promised to be exact and write docs/exactness.md.

From the root, with the development environment: `python docs/make_exactness.py`, or `make docs` (some minutes on 2
cores).
"""

from __future__ import annotations

import contextlib
import io
import itertools
import platform
import sys
import tempfile
import warnings
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support.tune import lowest_versions  # noqa: E402
from support.tune.run_setups import Outcome, run, run_on_ranks  # noqa: E402
from support.tune.setups import JOBS, SETUPS  # noqa: E402

PAGE = ROOT / "docs" / "exactness.md"
CACHE = ROOT / ".pytest_cache" / "d" / "lowest-versions"  # as the tests have it
INTRODUCTION = """\
# Where the task weights are exact

The loss of one optimizer step, over all its micro-batches and ranks, is

    sum_t w[task(t)] nll_t / sum_t w[task(t)]

with the sums over the supervised tokens. Look up your way to train in the tables below: each row shows how near
it comes to the formula.

Each row's steps (tasks spread unevenly, fewer micro-batches in the last step) are compared with the same steps
computed in one process, in float64, from the stock model's full logits and the written-out formula. The figures
are the largest relative deviations, over all steps, of the loss and of any parameter's gradient. The limit is
1e-10 in float64, 1e-5 in float32, and in bf16 twice the deviation of the stock model with the formula in plain
torch, plus 2^-8.

The models are tiny, of transformers' own classes, with random weights, on CPUs. Ranks are gloo processes
started by torchrun, or by `accelerate launch` for accelerate's loop. Where sharded ranks must call the same
modules, a text-only rank gets a blank image without supervised tokens (`TaskCollator(..., blank_image=True)`).

"ZeRO-3 stand-in" is not DeepSpeed but a few hooks that empty a module's parameters outside its forward and
backward. `pytest -m deepspeed` holds DeepSpeed itself to 1e-5, on two ranks in float32, where it is installed.
"""


def outcomes() -> dict[str, Outcome]:
    """Run every set-up and return its outcome by name; those with several ranks share one job per rank count."""
    found: dict[str, Outcome] = {}
    for setup in SETUPS:
        if setup.ranks == 1:
            with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
                outcome = run(setup, Path(folder))
            if outcome is not None:
                found[setup.name] = outcome
    for job in JOBS:
        names = [setup.name for setup in SETUPS if (setup.ranks, setup.launcher) == job]
        ranks, launcher = job
        found |= {outcome.name: outcome for outcome in run_on_ranks(names, ranks, launcher=launcher)}
    return found


def page(found: dict[str, Outcome], with_lowest: dict[str, Outcome]) -> str:
    """Write the page: a table per group of set-ups, and one with the lowest supported versions."""
    versions = ", ".join(
        f"{name} {version(name)}" for name in ("torch", "transformers", "accelerate", "peft", "trl")
    )
    parts = [
        INTRODUCTION,
        f"Made by `python docs/make_exactness.py` with Python {platform.python_version()}, {versions}.\n",
    ]
    for group, setups in itertools.groupby(SETUPS, key=lambda setup: setup.group):
        parts.append(f"## {group}\n")
        parts.append("\n".join(_table(found[setup.name] for setup in setups)) + "\n")
    lowest = ", ".join(f"{name} {number}" for name, number in lowest_versions.lowest().items())
    newer = ", ".join(
        f"{name} needs transformers {number}" for name, number in lowest_versions.NEED_NEWER.items()
    )
    parts.append(f"## Lowest supported versions\n\n{lowest}; {newer} and is refused by name before.\n")
    parts.append("\n".join(_table(with_lowest.values())) + "\n")
    return "\n".join(parts)


def _table(rows: Iterable[Outcome]) -> list[str]:
    lines = ["| set-up | loss | gradient | limit |", "|-|-|-|-|"]
    for row in rows:
        verdict = "" if row.passed else " **exceeded**"
        lines.append(f"| {row.name} | {row.loss:.1e} | {row.gradient:.1e} | {row.limit:.1e}{verdict} |")
    return lines


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    found = outcomes()
    with_lowest = lowest_versions.outcomes(lowest_versions.install(CACHE))
    PAGE.write_text(page(found, with_lowest))
    failed = [outcome.name for outcome in [*found.values(), *with_lowest.values()] if not outcome.passed]
    print(f"{len(found)} set-ups, {len(failed)} beyond what is accepted {failed or ''}; wrote {PAGE}")
    sys.exit(bool(failed))
