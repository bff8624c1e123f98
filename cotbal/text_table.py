"""Small tables as text, for what `print` shows of a value."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["decimal", "interval", "text_table"]


def text_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The first column on the left, the others on the right, two blanks between them.

    >>> print(text_table(["task", "weight"], [["caption", "1.25"], ["vqa", "0.75"]]))
    task     weight
    caption    1.25
    vqa        0.75
    """
    lines = [list(headings), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def decimal(value: float) -> str:
    """Three decimals; "-" for NaN.

    >>> decimal(0.12345), decimal(float("nan"))
    ('0.123', '-')
    """
    return "-" if math.isnan(value) else f"{value:.3f}"


def interval(bounds: Sequence[float]) -> str:
    """Two bounds; "-" where there are none.

    >>> interval([0.5, 1.0])
    '[0.500, 1.000]'
    """
    low, high = bounds
    return "-" if math.isnan(low) or math.isnan(high) else f"[{low:.3f}, {high:.3f}]"
