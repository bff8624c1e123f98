"""Tables of scores as people and spreadsheet programs make them: each with part of the error, or read."""

from __future__ import annotations

import re
from typing import Any

_HEAD = "model,task,score\n"
_GOOD = "mini,a,0.5\nmini,b,0.4\nplus_a,a,0.8\nplus_a,b,0.5\nplus_b,a,0.6\nplus_b,b,0.9\n"
TABLE = _HEAD + _GOOD


def _with(line: str) -> str:
    return _HEAD + line + _GOOD


CSVS: dict[str, tuple[str | bytes, Any]] = {
    "plain": (TABLE, None),
    "semicolons": (TABLE.replace(",", ";"), None),
    "semicolons and decimal commas": (TABLE.replace(",", ";").replace(".", ","), None),
    "percent signs and decimal commas": (
        re.sub(r"0[.](\d)", r"\g<1>0,5 %", TABLE.replace(",", ";")),
        None,
    ),
    "line ends of old Macs": (TABLE.replace("\n", "\r"), None),
    "a mark and a named separator": (("sep=;\n" + TABLE.replace(",", ";")).encode("utf-8-sig"), None),
    "a code page of Windows": (
        TABLE.replace(",a,", ",\xe4,").replace("_a,", "_\xe4,").encode("cp1252"),
        "CSV UTF-8",
    ),
    "percent signs in some rows": (TABLE.replace("0.8", "80%"), "percent sign"),
    "thousands separators": (_with("mini,c,1.234.5\n"), "a finite number without thousands separators"),
    "tabs": (TABLE.replace(",", "\t"), None),
    "a line that names the separator": ("sep=;\n" + TABLE.replace(",", ";"), None),
    "a byte order mark": (TABLE.encode("utf-8-sig"), None),
    "UTF-16 with a mark": (TABLE.encode("utf-16"), None),
    "UTF-16 without a mark": (TABLE.encode("utf-16-le"), "null characters, as UTF-16"),
    "capitals": (TABLE.replace("model,task,score", "Model,TASK,Score"), None),
    "empty lines and columns": (TABLE.replace("\n", ",,\n") + ",,,,\n", None),
    "empty": ("", "no column 'model'"),
    "a header alone": (_HEAD, "no scores; at least one row"),
    "a column missing": ("model,task\nmini,a\n", "no column 'score'"),
    "a column twice": ("model,task,score,Score\nmini,a,1,1\n", "the header has the column 'score' twice"),
    "a column that is unknown": ("model,task,score,scores\nmini,a,1,1\n", "unknown column 'scores'"),
    "a score in words": (_with("mini,c,good\n"), "line 2"),
    "a score that is no number": (_with("mini,c,nan\n"), "line 2"),
    "a score without end": (_with("mini,c,inf\n"), "line 2"),
    "a score given twice": (TABLE + "mini,a,0.7\n", "was given before"),
    "decimal commas without quotes": (_HEAD + "mini,a,0,5\n", "write numbers with decimal points"),
    "points and commas": ("model;task;score\nmini;a;0,5\nmini;b;0.5\n", "has a decimal point"),
    "a model that is missing": (
        _HEAD + _GOOD.replace("plus_b,a,0.6\nplus_b,b,0.9\n", ""),
        "plus_b",
    ),
    "a model besides": (TABLE + "base,a,0.1\nbase,b,0.1\n", None),
    "a task name with a slash": (TABLE.replace(",a,", ",x/y,").replace("plus_a", "plus_x/y"), "x/y"),
    "a quote that never closes": (_HEAD + 'mini,"a,0.5\n' + _GOOD, "scores.csv"),
    "bytes of no text": (b"\x00\xff\xfe\x80" * 50, "scores.csv"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "scores.csv"),
    "a workbook": (b"PK\x03\x04" + bytes(60), "scores.csv"),
    "a field of a million characters": (_with(f"mini,{'c' * 1_000_000},1\n"), "scores.csv"),
}
