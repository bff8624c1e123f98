"""The report: what was measured, weighed and tuned, in a page, in Markdown and for machines."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cotbal.report.inputs import (
        Comparison,
        Curve,
        ReportInput,
        ReportProvenance,
        StrategyScores,
        UnitRecord,
    )
    from cotbal.report.verdict import judge
    from cotbal.report.write import write_report

__all__ = [
    "Comparison",
    "Curve",
    "ReportInput",
    "ReportProvenance",
    "StrategyScores",
    "UnitRecord",
    "judge",
    "write_report",
]

_HOMES = {"judge": "verdict", "write_report": "write"}


def __getattr__(name: str) -> Any:
    # Lazy, so that gathering the values of a report does not load matplotlib.
    if name in __all__:
        return getattr(importlib.import_module(f"cotbal.report.{_HOMES.get(name, 'inputs')}"), name)
    raise AttributeError(f"module 'cotbal.report' has no attribute {name!r}")
