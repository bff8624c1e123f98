"""What the declared contrasts can find: the smallest difference seen with a given chance.

A contrast is the mean over M mixtures of the mean over S seeds of a difference of dI, paired by seed. With s the
standard deviation of one such difference between seeds, its t has M (S - 1) degrees of freedom and the standard error
s / sqrt(M S). K contrasts are judged together at 5%, each at 5% / K (Bonferroni).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from scipy.optimize import brentq
from scipy.stats import nct, t

__all__ = ["CONTRASTS", "Contrast", "Declared", "declared", "detectable"]

CONTRASTS = Path(__file__).with_name("contrasts.json")


@dataclass(frozen=True)
class Contrast:
    """One question that the study was made to answer: is dI of `ahead` above that of `behind`?"""

    name: str
    ahead: str
    behind: str
    question: str


@dataclass(frozen=True)
class Declared:
    """What was declared before the first full run.

    Attributes:
        contrasts: the questions; everything else on the page is description.
        level: of all of them together.
        power: chance of finding a difference of `detectable` points.
        deviation: assumed standard deviation between seeds of a paired difference of dI, in points.
        seeds: of the version that was declared.
        mixtures: that a contrast is the mean over.
        detectable: the difference that is found with that power, in points.
    """

    contrasts: tuple[Contrast, ...]
    level: float
    power: float
    deviation: float
    seeds: int
    mixtures: tuple[str, ...]
    detectable: float

    @property
    def confidence(self) -> float:
        """Of each contrast's interval."""
        return 1 - self.level / len(self.contrasts)


def declared(path: Path = CONTRASTS) -> Declared:
    """The committed declaration."""
    values = json.loads(path.read_text(encoding="utf-8"))
    contrasts = tuple(Contrast(**contrast) for contrast in values.pop("contrasts"))
    return Declared(contrasts, **{**values, "mixtures": tuple(values["mixtures"])})


def detectable(
    deviation: float,
    seeds: int,
    mixtures: int,
    *,
    level: float = 0.05,
    contrasts: int = 1,
    power: float = 0.8,
) -> float:
    """The true difference that a two-sided test of one of the contrasts finds with this power.

    >>> round(detectable(4.0, seeds=5, mixtures=3, contrasts=4), 1)
    4.0
    """
    degrees = mixtures * (seeds - 1)
    threshold = t.ppf(1 - level / contrasts / 2, degrees)

    def missing(shift: float) -> float:
        # The other tail, of a difference found the wrong way round, is too small to count.
        return float(nct.sf(threshold, degrees, shift)) - power

    return float(brentq(missing, 0.0, 20.0)) * deviation / math.sqrt(mixtures * seeds)
