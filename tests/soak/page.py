"""docs/trust.md from the result files of the long proofs."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

__all__ = ["PAGE", "page"]

PAGE = Path(__file__).parents[2] / "docs" / "trust.md"
_COMMAND = "python -m tests.soak"
_INTRODUCTION = f"""\
# What was done to CoTBal's runs, and what came of it

Look up what happens to a run when processes are killed, files are damaged or inputs are broken. Each table is made by
one command from the root of a checkout, `{_COMMAND} NAME`, and a short part of each proof is
among the tests of every change. Inputs that are malformed in one named way each are in [inputs.md](inputs.md).
"""


def page(folder: Path) -> str:
    """The page of the results in a folder; a proof without results is named as such."""
    sections = {
        "kills": ("Killed processes", _kills),
        "ranks": ("Killed ranks", _kills),
        "launches": ("Killed drivers, launchers and ranks", _launches),
        "files": ("Damaged files", _files),
        "disks": ("Full and failing disks", _disks),
        "readers": ("Fuzzed readers", _readers),
        "kernels": ("Fuzzed losses", _kernels),
    }
    lines = [_INTRODUCTION]
    for name, (title, section) in sections.items():
        path = folder / f"{name}.json"
        lines += [f"## {title}", ""]
        if not path.is_file():
            lines += [f"No results yet: `{_COMMAND} {name}`.", ""]
            continue
        found = json.loads(path.read_text())
        lines += [f"{found['summary']} ({_where(found)}).", "", *section(found), ""]
        if found["failures"]:
            lines += [f"{len(found['failures'])} failures:", ""]
            lines += [f"- {_cell(str(failure))}" for failure in found["failures"]] + [""]
    return "\n".join(lines).rstrip() + "\n"


def _where(found: dict[str, Any]) -> str:
    machine = found["machine"]
    return f"`{_COMMAND} {found['proof']}`, {found['seconds'] / 60:.0f} minutes, commit `{machine['commit'][:12]}`"


def _launches(found: dict[str, Any]) -> list[str]:
    return _kills(found, what="Models and scores")


def _kills(found: dict[str, Any], what: str = "Models, scores, logs, tables and weights") -> list[str]:
    rows = [f"| {moment} | {count} |" for moment, count in sorted(found["moments"].items())]
    return [
        f"After the last kill the same command ran to its end. {what} were then",
        "held to those of an undisturbed run, bit by bit, and the optimizer steps of each process to those left.",
        "",
        "| where and how | kills |",
        "|-|-|",
        *rows,
    ]


def _files(found: dict[str, Any]) -> list[str]:
    """One row per file, damage and command; files of units that ended alike share one."""
    rows: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for case in found["cases"]:
        parts = case["file"].split("/")
        unit = parts[1] if parts[0] == "units" else ""
        file = "/".join(["units", "UNIT", *parts[2:]]) if unit else case["file"]
        outcome = f"{case['outcome']}; cure: {case['cure']}" if case["cure"] else case["outcome"]
        rows[case["folder"], file, case["damage"], case["command"], outcome].append(unit)
    lines = ["| folder | file | damage | command | outcome | units |", "|-|-|-|-|-|-|"]
    return lines + [
        f"| {' | '.join(map(_cell, key))} | {len(set(units) - {''}) or ''} |" for key, units in rows.items()
    ]


def _disks(found: dict[str, Any]) -> list[str]:
    """One row per fault; a command that went on had nothing to say."""
    lines = [
        "The command had to end with an error that names a file and says what to do, or with the bits of an",
        "undisturbed run. The disk was then mended, and the same command had to end with these bits without doing",
        "again what was done. The full disk stayed full until the command ended; the failing one returned EIO, from",
        "the first such call on unless another number is given.",
        "",
    ]
    for name, title in (("full", "full"), ("failing", "failing at")):
        lines += [f"| {title} | where the work was | what was said | then |", "|-|-|-|-|"]
        for case in found[name]:
            outcome = "; ".join(case["wrong"]) or "the same bits"
            cells = (
                case["fault"],
                case["moment"],
                case["said"].removeprefix("error: ") or "went on",
                outcome,
            )
            lines.append(f"| {' | '.join(map(_cell, cells))} |")
        lines.append("")
    return lines[:-1]


def _readers(found: dict[str, Any]) -> list[str]:
    lines = ["| reader | inputs | read | refused | slowest, s |", "|-|-|-|-|-|"]
    for name, count in found["readers"].items():
        numbers = [count.get(key, 0) for key in ("inputs", "read", "refused")]
        lines.append(f"| {name} | {' | '.join(f'{n:,}' for n in numbers)} | {count['slowest_seconds']} |")
    return lines


def _kernels(found: dict[str, Any]) -> list[str]:
    lines = ["| what | calls |", "|-|-|"]
    return lines + [f"| {name} | {count:,} |" for name, count in sorted(found["counts"].items())]


def _cell(text: str) -> str:
    short = " ".join(text.split())
    short = short if len(short) <= 300 else short[:297] + "..."
    return "".join(f"\\{character}" if character in "\\|<>*_`[]" else character for character in short)
