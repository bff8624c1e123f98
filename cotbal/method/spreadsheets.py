"""Tables as spreadsheet programs save them: separators, encodings, blank rows, percent signs and decimal commas."""

from __future__ import annotations

import codecs
import csv
import io
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from cotbal.atomic import read_file

_SEPARATORS = (",", ";", "\t", "|")
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    # UTF-32 first: its little-endian mark begins with that of UTF-16.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_WORKBOOKS = {b"PK\x03\x04": "an .xlsx or .ods workbook", b"\xd0\xcf\x11\xe0": "an .xls workbook"}
_SAVE_AS = "save it as 'CSV UTF-8'"
_STATED = re.compile(r'"?sep=([^\w" \r\n])"?(?:\r\n|\n|\r|$)')
_NUMBER = re.compile(r"[-+]?(?:\d++(?:[.,]\d*+)?+|[.,]\d++)(?:[eE][-+]?\d++)?+")


@dataclass(frozen=True)
class Sheet:
    """Rows of text under a header.

    Attributes:
        columns: the header, lower-cased, blanks and hyphens as `_`.
        rows: (line in the file, column -> text without outer blanks) of every row that is not empty.
        separator: what stood between the cells.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[int, dict[str, str]], ...]
    separator: str


def read_sheet(path: str | os.PathLike[str], separator: str | None = None) -> Sheet:
    """Read a CSV file as spreadsheet programs write it.

    Read are UTF-8, and UTF-16 and UTF-32 with a byte order mark; commas, semicolons, tabs or bars between cells, the
    one that a first line `sep=;` names, else the one that makes most columns of the header; capitals and outer
    blanks in the header. Empty rows and empty columns at the end are left out.

    Args:
        separator: what stands between cells, where it is known.

    Raises:
        ValueError: naming file and line: another encoding, a workbook, a repeated column, a row of another length
            than the header, or an open quotation mark.
        OSError: the file cannot be read.
    """
    name = os.fspath(path)
    text = _decoded(name, read_file(path))
    stated = _STATED.match(text)
    skipped = 0
    if stated is not None:
        separator, text, skipped = stated[1], text[stated.end() :], 1
    chosen = separator or _separator(text)
    cells = _cells(name, text, chosen, skipped)
    _, header = next(cells, (1, []))
    while header and not header[-1]:
        header.pop()
    columns = tuple(re.sub(r"[\s-]+", "_", cell.lower()) for cell in header)
    repeated = next((column for column in columns if columns.count(column) > 1), None)
    if repeated is not None:
        raise ValueError(f"{name}: the header has the column {repeated!r} twice; keep one")
    rows = []
    for line, row in cells:
        while len(row) > len(columns) and not row[-1]:
            row.pop()
        if len(row) != len(columns):
            advice = (
                "; write numbers with decimal points, or separate cells by semicolons"
                if chosen == ","
                else ""
            )
            raise ValueError(
                f"{name}, line {line}: the row does not have {len(columns)} fields as the header has, but "
                f"{len(row)}{advice if len(row) > len(columns) else ''}"
            )
        rows.append((line, dict(zip(columns, row, strict=True))))
    return Sheet(columns, tuple(rows), chosen)


class Numbers:
    """Reads the numbers of one file: `0.5`, `0,5`, `50%` (a half), with one decimal mark throughout.

    >>> numbers = Numbers()
    >>> numbers.read("0,5", "line 2"), numbers.read("7", "line 3")
    (0.5, 7.0)
    >>> numbers.read("0.5", "line 4")
    Traceback (most recent call last):
        ...
    ValueError: line 4: '0.5' has a decimal point, line 2 a decimal comma; use one of the two throughout
    """

    def __init__(self) -> None:
        self._decimal: tuple[str, str] | None = None
        self._percent: dict[str, tuple[bool, str]] = {}

    def read(self, text: str, where: str, series: str = "") -> float:
        """The number in a cell; numbers of one `series` all have a percent sign, or none has.

        Raises:
            ValueError: beginning with `where`: not a finite number, thousands separators, or mixed notations.
        """
        digits = text.replace("\N{MINUS SIGN}", "-").replace("\N{NO-BREAK SPACE}", " ").strip()
        percent = digits.endswith("%")
        digits = digits.removesuffix("%").rstrip()
        if len(digits) > 400 or _NUMBER.fullmatch(digits) is None:
            advice = " without thousands separators" if re.fullmatch(r"[\d.,' ]+", digits) else ""
            raise ValueError(f"{where}: score is {_shown(text)}; a finite number{advice} is needed")
        for mark, kind in ((".", "point"), (",", "comma")):
            if mark not in digits:
                continue
            known, first = self._decimal = self._decimal or (kind, where)
            if known != kind:
                raise ValueError(
                    f"{where}: {_shown(text)} has a decimal {kind}, {first} a decimal {known}; use one of the two "
                    "throughout"
                )
        given, first = self._percent.setdefault(series, (percent, where))
        if given != percent:
            raise ValueError(
                f"{where}: {_shown(text)} has {'a' if percent else 'no'} percent sign, {first} has "
                f"{'one' if given else 'none'}; write all scores of a task in the same way"
            )
        value = float(digits.replace(",", ".")) / (100 if percent else 1)
        if not math.isfinite(value):
            raise ValueError(f"{where}: score is {_shown(text)}; a finite number is needed")
        return value


def _decoded(name: str, content: bytes) -> str:
    kind = next((kind for start, kind in _WORKBOOKS.items() if content.startswith(start)), None)
    if kind is not None:
        raise ValueError(f"{name}: this is {kind}, not a CSV file; open it and {_SAVE_AS}")
    encoding = next((encoding for mark, encoding in _MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{name}, line {line}: byte {error.start} is not {encoding.upper()} text; {_SAVE_AS}"
        ) from None
    if "\x00" in text:
        raise ValueError(
            f"{name}: holds null characters, as UTF-16 without a byte order mark does; {_SAVE_AS}"
        )
    return text


def _separator(text: str) -> str:
    """The separator that makes most cells of the header; a comma where none makes two."""
    lines = (line for line in io.StringIO(text, newline=None) if line.strip(' ,;|\t\n"'))
    header = next(lines, "")
    return max(_SEPARATORS, key=header.count)


def _cells(name: str, text: str, separator: str, skipped: int) -> Iterator[tuple[int, list[str]]]:
    """(last line, cells without outer blanks) of the rows that are not empty."""
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=separator, strict=True, skipinitialspace=True
    )
    try:
        for row in reader:
            stripped = [cell.strip() for cell in row]
            if any(stripped):
                yield reader.line_num + skipped, stripped
    except csv.Error as error:
        raise ValueError(f"{name}, line {reader.line_num + skipped}: not readable as CSV ({error})") from None


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
