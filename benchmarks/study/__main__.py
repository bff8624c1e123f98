"""`python -m benchmarks.study`: run the study, and make its page."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.study.design import SIZES, Size

FOLDER = Path("build/study")


def announce(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.study", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="make what is missing of the units, and write the results")
    run.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="units at once")
    work = commands.add_parser("work", help="make one process's share of the units")
    work.add_argument("--share", default="0/1", help="k/n: the k-th of n processes, counted from 0")
    gather = commands.add_parser("gather", help="write the results of the units that are there")
    for command in (run, work, gather):
        command.add_argument("--size", choices=sorted(SIZES), default="short")
        command.add_argument("--folder", type=Path, default=FOLDER, help="where units are kept")
        command.add_argument(
            "--minutes", type=float, help="begin no unit after so many; the same call goes on"
        )
    commands.add_parser("page", help="make docs/study.md and its plots from the committed results")
    arguments = parser.parse_args()
    if arguments.command == "page":
        from benchmarks.study.page import write_all

        for path in write_all():
            announce(f"wrote {path}")
        return
    size, folder = SIZES[arguments.size], (arguments.folder / arguments.size).absolute()
    until = None if arguments.minutes is None else time.time() + 60 * arguments.minutes
    if arguments.command == "work":
        k, n = map(int, arguments.share.split("/"))
        _work(folder, size, (k, n), until)
        return
    if arguments.command == "run":
        _run(folder, size, arguments.processes, arguments.minutes)
    from benchmarks.study.gather import write_results

    announce(f"wrote {write_results(folder, size)}")


def _work(folder: Path, size: Size, share: tuple[int, int], until: float | None) -> None:
    from benchmarks.study.running import OutOfTimeError, work

    try:
        work(folder, size, share, announce, until)
    except OutOfTimeError:
        announce("the time is over; the same call goes on from here")


def _run(folder: Path, size: Size, processes: int, minutes: float | None) -> None:
    from benchmarks.study.running import set_up

    folder.mkdir(parents=True, exist_ok=True)
    set_up(folder, size, announce)
    environment = os.environ | {"OMP_NUM_THREADS": str(size.threads)}
    limit = [] if minutes is None else ["--minutes", str(minutes)]
    workers = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "benchmarks.study", "work", "--size", size.name),
                *("--folder", str(folder.parent), "--share", f"{k}/{processes}", *limit),
            ],
            env=environment,
        )
        for k in range(processes)
    ]
    failed = [code for worker in workers if (code := worker.wait()) != 0]
    if failed:
        sys.exit(f"{len(failed)} of {processes} processes failed; the same call goes on from here")


if __name__ == "__main__":
    main()
