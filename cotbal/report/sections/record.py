"""Show broken records, and where the results come from."""

from __future__ import annotations

from collections import Counter

from cotbal.report.document import Block, Cell, Listing, Section, Table, Text, name_cell
from cotbal.report.inputs import ReportInput
from cotbal.report.names import count, duration

_SHOWN = 50


def data_section(report: ReportInput) -> Section | None:
    """Make the section of broken records; None if there are none."""
    problems = report.problems
    if not problems:
        return None
    by_file = Counter(str(problem.file) for problem in problems)
    blocks: list[Block] = [
        Text(
            f"{count(len(problems), 'record')} could not be used and took no part in training or evaluation."
        ),
        Table(
            "Unusable records by file",
            ("File", "Records"),
            tuple((name_cell(file), Cell(f"{number:,}")) for file, number in by_file.items()),
        ),
    ]
    shown = problems[:_SHOWN]
    rest = (
        f"The first {_SHOWN} of {len(problems):,}; all are in report.json." if len(problems) > _SHOWN else ""
    )
    blocks.append(
        Table(
            "Why they could not be used",
            ("File", "Record", "Reason"),
            tuple((name_cell(str(p.file)), Cell(str(p.index)), Cell(p.reason, kind="words")) for p in shown),
            rest,
            folded=len(shown) > 10,
        )
    )
    return Section("data", "Problems in the data", tuple(blocks))


def provenance_section(report: ReportInput) -> Section | None:
    """Make the section of versions, seeds, units and the config."""
    source = report.provenance
    blocks: list[Block] = []
    facts = [
        ("Model", source.model),
        ("Date", source.date),
        *((f"Seed of {k}", v) for k, v in source.seeds.items()),
    ]
    facts += list(source.versions.items())
    known = tuple((name_cell(name), Cell(value, kind="words")) for name, value in facts if value)
    if known:
        blocks.append(Table("Versions and seeds", ("What", "Value"), known))
    if source.units:
        total = sum(unit.total_seconds for unit in source.units)
        blocks.append(
            Table(
                "Units",
                ("Unit", "State", "Seed", "Steps", "Training samples", "Training time", "Evaluation time"),
                tuple(
                    (
                        name_cell(unit.name),
                        Cell(unit.state, kind="words"),
                        Cell(str(unit.seed)),
                        Cell(f"{unit.steps:,}"),
                        Cell(f"{unit.samples:,}"),
                        Cell(duration(unit.seconds["train"]) if "train" in unit.seconds else ""),
                        Cell(duration(unit.scoring_seconds) if "score" in unit.seconds else ""),
                    )
                    for unit in source.units
                ),
                f"{duration(total)} in all.",
                folded=len(source.units) > 6,
            )
        )
    if source.config:
        blocks.append(Listing("Config", source.config.rstrip("\n"), "yaml"))
    return Section("provenance", "Where this comes from", tuple(blocks)) if blocks else None
