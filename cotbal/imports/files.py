"""Rows of other tools' files, each with the place it stands at."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

from cotbal.method.spreadsheets import read_sheet

Rows = list[tuple[str, dict[str, Any]]]


def read_rows(path: Path) -> Rows:
    """(file and line, values) of every row of a .jsonl, .json, .tsv, .csv or .xlsx file.

    Raises:
        ValueError: naming the file and, where there is one, the line: another kind of file, or a broken one.
        OSError: the file cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix == ".xlsx":
        rows = _workbook(path)
    elif suffix in (".tsv", ".csv"):
        sheet = read_sheet(path, separator="\t" if suffix == ".tsv" else None)
        rows = [(f"{path}, line {line}", dict(cells)) for line, cells in sheet.rows]
    elif suffix in (".jsonl", ".json"):
        rows = _json(path)
    else:
        pickled = "; a pickle can run code when it is opened" if suffix in (".pkl", ".pickle") else ""
        raise ValueError(
            f"{path}: {suffix or 'such'} files are not read, but .jsonl, .json, .tsv and .xlsx{pickled}"
        )
    if not rows:
        raise ValueError(f"{path}: no rows; at least one is needed")
    return rows


def _json(path: Path) -> Rows:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {error.start} is not UTF-8 text") from None
    if text.lstrip().startswith("["):
        listed = _parsed(str(path), text)
        rows = [(f"{path}, record {index}", value) for index, value in enumerate(listed)]
    else:
        lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
        rows = [(f"{path}, line {number}", _parsed(f"{path}, line {number}", line)) for number, line in lines]
    for where, value in rows:
        if not isinstance(value, dict):
            raise ValueError(
                f"{where}: found {type(value).__name__}; an object with a sample's fields is needed"
            )
    return rows


def _parsed(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{where}: not readable as JSON ({error})") from None
    except ValueError:
        raise ValueError(f"{where}: holds a number of too many digits") from None


def _workbook(path: Path) -> Rows:
    try:
        import openpyxl
    except ImportError:
        raise ValueError(
            f"{path}: reading workbooks needs openpyxl: pip install 'cotbal[xlsx]'; or let VLMEvalKit write "
            "PRED_FORMAT=tsv"
        ) from None
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise ValueError(f"{path}: not readable as a workbook ({error})") from None
    try:
        lines = enumerate(book.worksheets[0].iter_rows(values_only=True), start=1)
        _, header = next(lines, (1, ()))
        columns = [str(cell).strip().lower() if cell is not None else "" for cell in header]
        return [
            (
                f"{path}, row {number}",
                {column: value for column, value in zip(columns, cells, strict=False) if column},
            )
            for number, cells in lines
            if any(cell is not None for cell in cells)
        ]
    finally:
        book.close()
