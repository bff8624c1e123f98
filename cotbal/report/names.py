"""Names as readers know them, and numbers as they are written in prose and tables."""

from __future__ import annotations

import math
from pathlib import PurePath

UNDEFINED = "undefined"

_STRATEGIES = {
    "single": "single-task",
    "ew": "EW",
    "cotbal": "CoTBal",
    "tla": "TLA",
    "rlw": "RLW",
    "dwa": "DWA",
    "igb": "IGB",
    "uw": "UW",
    "famo": "FAMO",
    "coba": "CoBa",
}


def strategy_label(strategy: str) -> str:
    """The name a strategy goes by.

    >>> strategy_label("cotbal"), strategy_label("dwa"), strategy_label("mine")
    ('CoTBal', 'DWA', 'mine')
    """
    return _STRATEGIES.get(strategy, strategy)


def model_label(model: str) -> str:
    """A hub id as it is, and of a folder its name alone: the page's head is what people show to others.

    >>> model_label("llava-hf/llava-1.5-7b-hf"), model_label("/data/someone/models/base")
    ('llava-hf/llava-1.5-7b-hf', 'base')
    """
    path = PurePath(model)
    return path.name if path.is_absolute() else model


def number(value: float, digits: int = 3) -> str:
    """With a fixed number of decimals and a real minus sign; NaN as `undefined`.

    >>> number(1.0 / 3), number(-0.5, 2), number(-0.0001, 2), number(float("nan"))
    ('0.333', '−0.50', '0.00', 'undefined')
    """
    if math.isnan(value):
        return UNDEFINED
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("-", "−")


def score(value: float) -> str:
    """A score of a metric of unknown scale: four figures that matter, without an exponent where one can do without.

    >>> score(0.51234), score(12.3456), score(61.63), score(0.00012345), score(0.0)
    ('0.5123', '12.35', '61.63', '1.23e-04', '0.0000')
    """
    size = abs(value)
    if math.isnan(value):
        return UNDEFINED
    if 0 < size < 1e-3:
        return f"{value:.2e}".replace("e-", "e\0").replace("-", "−").replace("\0", "-")
    return number(value, 4 if size < 10 else 2 if size < 1000 else 1)


def percent(value: float, *, sign: bool = True) -> str:
    """A change in percent, signed.

    >>> percent(1.234), percent(-0.5), percent(0.0), percent(2.0, sign=False)
    ('+1.23', '−0.50', '0.00', '2.00')
    """
    text = number(value, 2)
    return f"+{text}" if sign and value > 0 and float(text) > 0 else text


def interval(lower: float, upper: float, digits: int = 3) -> str:
    """An interval, or nothing where there is none.

    >>> interval(0.1, 0.25, 2), interval(float("nan"), float("nan"))
    ('[0.10, 0.25]', '')
    """
    if math.isnan(lower) or math.isnan(upper):
        return ""
    return f"[{number(lower, digits)}, {number(upper, digits)}]"


def duration(seconds: float) -> str:
    """As people say it.

    >>> duration(4.2), duration(75), duration(6000), duration(100000)
    ('4.2 s', '1 min 15 s', '1 h 40 min', '27 h 47 min')
    """
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min"


def count(number_of: int, one: str, many: str = "") -> str:
    """A number with its noun.

    >>> count(1, "task"), count(20, "task"), count(2, "entry", "entries")
    ('1 task', '20 tasks', '2 entries')
    """
    return f"{number_of:,} {one if number_of == 1 else many or one + 's'}"
