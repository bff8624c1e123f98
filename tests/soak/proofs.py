"""The proofs by name, and what runs them: a folder of their own, a result file, and the page."""

from __future__ import annotations

import argparse
import importlib
import json
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

__all__ = ["FOLDER", "PROOFS", "main"]

FOLDER = Path(__file__).parent / "results"

# What each takes is its size: cases, kills or calls; the short one is part of every change's tests.
PROOFS: dict[str, str] = {
    "files": "soak.file_faults",
    "kills": "soak.kills",
    "ranks": "soak.rank_kills",
    "disks": "soak.disk_faults",
    "launches": "soak.launch_kills",
    "readers": "soak.reader_fuzz",
    "kernels": "soak.kernel_fuzz",
}


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("proofs", nargs="+", choices=[*PROOFS, "all", "page"])
    parser.add_argument("--short", action="store_true", help="a part that takes seconds")
    parser.add_argument("--results", type=Path, default=FOLDER, help="where the result files are written")
    parser.add_argument("--minutes", type=float, default=None, help="stop after so long, with what was done")
    given = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    failed = []
    for name in PROOFS if "all" in given.proofs else [proof for proof in given.proofs if proof != "page"]:
        proof: Callable[..., dict[str, Any]] = importlib.import_module(PROOFS[name]).proof
        began = time.monotonic()
        limit = None if given.minutes is None else began + 60 * given.minutes
        with tempfile.TemporaryDirectory(prefix="cotbal-soak-") as folder:
            found = proof(Path(folder), short=given.short, until=limit)
        found = {"proof": name, "short": given.short, "seconds": round(time.monotonic() - began), **found}
        given.results.mkdir(parents=True, exist_ok=True)
        path = given.results / f"{name}.json"
        path.write_text(json.dumps({**found, "machine": _machine()}, indent=1) + "\n")
        print(f"{name}: {found['summary']}; {path}", flush=True)
        if found["failures"]:
            failed.append(name)
            print("\n".join(map(str, found["failures"])), flush=True)
    if "page" in given.proofs or (given.results == FOLDER and not given.short):
        from soak.page import PAGE, page

        PAGE.write_text(page(given.results))
    return 1 if failed else 0


def _machine() -> dict[str, Any]:
    import torch

    from benchmarks.machine import describe

    found = describe(torch.device("cpu"))
    return {key: found[key] for key in ("cpu", "threads", "commit", "versions")}
