"""The method once more, straight from its formulas: exact fractions and scalar loops, no code of the package.

`None` stands for undefined. Scores go in as floats and are taken as the exact numbers they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

EPS = 2.0**-52

Number = float | Fraction
Defined = Sequence[Number | None]


def contributions(mini: Sequence[float], plus: Sequence[Sequence[float]]) -> list[list[Fraction | None]]:
    """C[i][j] = (V[plus_i, j] - V[mini, j]) / (V[plus_j, j] - V[mini, j]); None on the diagonal and for x / 0."""
    count = len(mini)
    table: list[list[Fraction | None]] = [[None] * count for _ in range(count)]
    for i in range(count):
        for j in range(count):
            base = Fraction(mini[j])
            denominator = Fraction(plus[j][j]) - base
            if i != j and denominator != 0:
                table[i][j] = (Fraction(plus[i][j]) - base) / denominator
    return table


def outward(table: Sequence[Defined]) -> list[Number | None]:
    """Means of the rows of C over their defined entries."""
    return [_mean(row) for row in table]


def inward(table: Sequence[Defined]) -> list[Number | None]:
    """Means of the columns of C over their defined entries."""
    return [_mean([row[j] for row in table]) for j in range(len(table))]


def difficulty(mini: float, plus: float, higher_is_better: bool) -> Fraction:
    """D = 1 - V[mini] / V[plus], or 1 - V[plus] / V[mini] where lower is better."""
    if higher_is_better:
        return 1 - Fraction(mini) / Fraction(plus)
    return 1 - Fraction(plus) / Fraction(mini)


def term(values: Defined, temperature: float) -> list[float]:
    """K softmax(values / T) over the K defined values; 1 for the others."""
    defined = [value for value in values if value is not None]
    if not defined:
        return [1.0] * len(values)
    peak = max(defined)
    total = math.fsum(
        math.exp(float((value - peak) / Fraction(temperature))) for value in map(Fraction, defined)
    )
    return [
        1.0
        if value is None
        else len(defined)
        * math.exp(float((Fraction(value) - Fraction(peak)) / Fraction(temperature)))
        / total
        for value in values
    ]


def weights(out: Defined, into: Defined, hard: Defined, temperature: float) -> list[float]:
    """w = ((w_out + w_in) / 2 + w_dif) / 2."""
    negated = [None if value is None else -value for value in into]
    terms = term(out, temperature), term(negated, temperature), term(hard, temperature)
    return [((o + i) / 2 + d) / 2 for o, i, d in zip(*terms, strict=True)]


def improvement_and_error(
    method: Sequence[float], single: Sequence[float], higher_is_better: Sequence[bool]
) -> tuple[Fraction, Fraction]:
    """dI and dE in percent."""
    relative = [
        (1 if higher else -1) * 100 * (Fraction(m) - Fraction(s)) / Fraction(s)
        for m, s, higher in zip(method, single, higher_is_better, strict=True)
    ]
    count = len(relative)
    return sum(relative, Fraction(0)) / count, sum(
        (max(-r, Fraction(0)) for r in relative), Fraction(0)
    ) / count


def _mean(values: Defined) -> Number | None:
    defined = [value for value in values if value is not None]
    return sum(defined[1:], defined[0]) / len(defined) if defined else None
