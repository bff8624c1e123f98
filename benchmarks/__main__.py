"""``python -m benchmarks``: measure, compare, and make the pages of the docs."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks import (
    cases,
    host,
    mathematics,
    memory_limit,
    pages,
    results,
    runner,
    tuning,
    weighting,
    workloads,
)
from benchmarks.allocator import keep_freed_memory
from benchmarks.records import reading, starting

Measure = Callable[[], list[dict[str, Any]]]


def announce(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


def loss_groups(measured: list[cases.LossCase], device: torch.device, **options: Any) -> dict[str, Measure]:
    groups: dict[str, list[cases.LossCase]] = {}
    for case in measured:
        groups.setdefault(case.group, []).append(case)
    return {
        group: (lambda members=members: runner.run_cases(members, device, announce, **options))
        for group, members in groups.items()
    }


def cpu_groups(match: str = "", names: list[str] | None = None) -> dict[str, Measure]:
    device = torch.device("cpu")
    losses = [case for case in cases.cpu_cases() if match in case.name]
    few = ["ours", "stock", "torch fused, one chunk"]
    return {
        **loss_groups(losses, device, budget=6.0, minimum=3, names=names),
        **loss_groups(cases.cpu_curves(), device, budget=2.0, minimum=3, names=few, compacted=False),
        "cpu-host": lambda: host.run(device, announce),
        "cpu-weighting": lambda: weighting.run(weighting.CPU, device, announce),
        "cpu-tuning": cpu_tuning,
        "mathematics": mathematics.run,
    }


def cpu_tuning() -> list[dict[str, Any]]:
    """Whole steps; of the first workload also the largest batch within a limit of memory, as on GPUs of all."""
    entries = tuning.run(workloads.CPU, torch.device("cpu"), announce)
    name = entries[0]["name"]
    announce(f"largest batch of {name}")
    entries[0]["largest_batch"] = {
        kind: memory_limit.largest_batch(name, kind) for kind in (tuning.OURS, tuning.STOCK)
    }
    entries[0]["memory_limit"] = memory_limit.LIMIT
    return entries


def records_groups() -> dict[str, Measure]:
    """Files are made in the temporary folder, which needs 2 GB (TMPDIR says where it is)."""

    def within(
        measured: Callable[[Path, Callable[[str], None]], list[dict[str, Any]]],
    ) -> list[dict[str, Any]]:
        with tempfile.TemporaryDirectory() as folder:
            return measured(Path(folder), announce)

    return {"records-read": lambda: within(reading.run), "records-start": lambda: within(starting.run)}


def gpu_groups(match: str = "", names: list[str] | None = None) -> dict[str, Measure]:
    device = torch.device("cuda")
    measured = [case for case in (*cases.gpu_cases(), *cases.gpu_extra_cases()) if match in case.name]
    return {
        **loss_groups(measured, device, budget=6.0, minimum=20, names=names),
        "gpu-host": lambda: host.run(device, announce),
        "gpu-weighting": lambda: weighting.run(weighting.GPU, device, announce),
        "gpu-tuning": lambda: tuning.run(workloads.GPU, device, announce),
    }


def measure(groups: dict[str, Measure], only: list[str], device: torch.device) -> None:
    """Measure the groups, each into its file; end with a status of 1 where ours failed or was wrong."""
    missed: list[str] = []
    unknown = set(only) - set(groups)
    if unknown:
        sys.exit(f"--group: {', '.join(sorted(unknown))} is not one of {', '.join(groups)}")
    for group, run in groups.items():
        if only and group not in only:
            continue
        announce(f"group {group}")
        entries = run()
        path = results.write(group, entries, device)
        announce(f"wrote {path}")
        missed += runner.failures(entries)
    if missed:
        sys.exit("\n".join(missed))


def compare(old: Path, new: Path) -> None:
    changes = list(results.compare(results.read(old), results.read(new)))
    for change in changes:
        if change.beyond_noise:
            print(
                f"{change.case}: {change.contender}: {change.before:.3f} -> {change.after:.3f} x floor "
                f"({change.after / change.before - 1:+.1%}, noise {change.noise:.1%})"
            )
    beyond = sum(change.beyond_noise for change in changes)
    print(f"{len(changes)} figures in both files, {beyond} changed beyond the noise")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for device in ("cpu", "gpu"):
        command = commands.add_parser(device, help=f"measure on a {device.upper()}")
        command.add_argument("--group", action="append", default=[], help="only this group; may be repeated")
        command.add_argument(
            "--list", action="store_true", help="print the groups, one per line, and measure none"
        )
        command.add_argument("--match", default="", help="only loss cases whose name contains this")
        command.add_argument(
            "--contender", action="append", help="only this contender of the loss cases; may be repeated"
        )
    command = commands.add_parser("records", help="measure the reading of large files, and starts on them")
    command.add_argument("--group", action="append", default=[], help="only this group; may be repeated")
    commands.add_parser("pages", help="make docs/benchmarks.md and its plots from the result files")
    command = commands.add_parser("compare", help="what changed between two result files beyond the noise")
    command.add_argument("old", type=Path)
    command.add_argument("new", type=Path)
    arguments = parser.parse_args()
    if getattr(arguments, "list", False):
        print("\n".join(cpu_groups() if arguments.command == "cpu" else gpu_groups()))
    elif arguments.command == "cpu":
        keep_freed_memory()
        measure(cpu_groups(arguments.match, arguments.contender), arguments.group, torch.device("cpu"))
    elif arguments.command == "records":
        measure(records_groups(), arguments.group, torch.device("cpu"))
    elif arguments.command == "gpu":
        if not torch.cuda.is_available():
            sys.exit("no CUDA or HIP device here: `python -m benchmarks cpu` measures on the CPU")
        if torch.cuda.device_count() > 1:
            sys.exit(
                "more than one GPU is visible, and trainers would use them all: set CUDA_VISIBLE_DEVICES to one"
            )
        measure(gpu_groups(arguments.match, arguments.contender), arguments.group, torch.device("cuda"))
    elif arguments.command == "compare":
        compare(arguments.old, arguments.new)
    else:
        for path in pages.write_all():
            announce(f"wrote {path}")


if __name__ == "__main__":
    main()
