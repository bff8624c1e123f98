"""Reading JSON arrays and JSON Lines one element at a time, saying where a broken file breaks."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

CHUNK_BYTES = 1 << 20
# An element cut off by the end of the buffer fails within this many characters of it
# (a literal such as `false`, or an escape such as `\u00e9`); an earlier failure is a real one.
CUT_MARGIN = 16

_NOT_LINES = (
    "not JSON Lines, which have one object on each line; a JSON array, or objects over several lines, belong into a "
    "file whose name ends in .json: rename it"
)

_space = re.compile(r"[ \t\r\n]*")
_cut_number = re.compile(r"(\.|[eE][+-]?)?")
_decode = json.JSONDecoder().raw_decode


@dataclass(frozen=True, slots=True)
class Element:
    """One JSON value of the file: its position among the elements and the line it starts on (from 1)."""

    index: int
    line: int
    value: object


@dataclass(frozen=True, slots=True)
class Broken:
    """The element at `index` cannot be read; `reason` names the line and the byte."""

    index: int
    reason: str


def iter_json(path: Path) -> Iterator[Element | Broken]:
    """Yield the elements of a JSON array, of JSON Lines, or of objects written one after the other.

    Memory stays at a few MiB however large the file is. A broken line of JSON Lines (`.jsonl`, `.ndjson`)
    yields a `Broken` and reading goes on with the next line; a broken array yields a `Broken` and ends,
    because what follows cannot be told apart any more.

    Raises:
        OSError: the file cannot be opened.
    """
    with open(path, "rb") as file:
        if path.suffix.lower() in (".jsonl", ".ndjson"):
            yield from _lines(file)
        else:
            yield from _Reader(file).elements()


def _lines(file: BinaryIO) -> Iterator[Element | Broken]:
    index = 0
    offset = 0
    first = True
    for number, raw in enumerate(file, start=1):
        start = offset
        offset += len(raw)
        if number == 1:
            raw = raw.removeprefix(codecs.BOM_UTF8)
        try:
            text = raw.decode("utf-8").strip()
            if not text:
                continue
            if first and _is_no_line(text):
                yield Broken(index, f"line {number}: {_NOT_LINES}")
                return
            first = False
            yield Element(index, number, json.loads(text))
        except UnicodeDecodeError as error:
            yield Broken(index, f"line {number}, byte {start + error.start}: not UTF-8 ({error.reason})")
        except json.JSONDecodeError as error:
            position = start + len(text[: error.pos].encode())
            cut = "" if raw.endswith(b"\n") else " (the file ends here: truncated?)"
            yield Broken(index, f"line {number}, byte {position}: broken JSON: {error.msg}{cut}")
        except (ValueError, RecursionError) as error:
            yield Broken(index, f"line {number}: {_unreadable(error)}")
        index += 1


def _is_no_line(text: str) -> bool:
    """Whether a first line shows that the file is an array of objects, or objects over several lines."""
    if text[0] != "[":
        return text == "{"
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return True
    return isinstance(value, list) and any(isinstance(item, dict) for item in value)


def _unreadable(error: Exception) -> str:
    """JSON that is well formed and cannot be read all the same: numbers of thousands of digits, endless nesting."""
    return f"unreadable JSON: {'nested too deeply' if isinstance(error, RecursionError) else error}"


class _Reader:
    """A window over the text of a file, with the byte and the line at which it starts."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.decoder = codecs.getincrementaldecoder("utf-8")()
        self.text = ""
        self.position = 0
        self.byte = len(codecs.BOM_UTF8) if file.read(3) == codecs.BOM_UTF8 else file.seek(0)
        self.line = 1  # of the character at `counted`
        self.counted = 0
        self.ended = False
        self.bad_bytes: str | None = None

    def elements(self) -> Iterator[Element | Broken]:
        index = 0
        opening = self.peek()
        array = opening == "["
        if array:
            self.position += 1
        while True:
            character = self.peek()
            if array and character == "]":
                self.position += 1
                if self.peek():
                    yield Broken(index, f"{self.where()}: text after the end of the array")
                return
            if not character:
                if self.bad_bytes:
                    yield Broken(index, f"{self.where()}: {self.bad_bytes}")
                elif array:
                    yield Broken(index, f"{self.where()}: truncated JSON: the array is not closed")
                return
            if index and array:
                if character != ",":
                    yield Broken(
                        index, f"{self.where()}: broken JSON: expected ',' or ']', found {character!r}"
                    )
                    return
                self.position += 1
                self.peek()
            line = self.line_here()
            try:
                value = self.value()
            except json.JSONDecodeError as error:
                cut = not self.is_real(error) and not re.search(r"[\]}]", self.text[error.pos :])
                kind = "truncated" if cut or error.msg.startswith("Unterminated") else "broken"
                detail = self.bad_bytes or f"{kind} JSON: {error.msg}"
                yield Broken(index, f"{self.where(error.pos)}: {detail}")
                return
            except (ValueError, RecursionError) as error:
                yield Broken(index, f"{self.where()}: {_unreadable(error)}")
                return
            yield Element(index, line, value)
            index += 1

    def peek(self) -> str:
        """The next character that is not white space, or "" at the end."""
        while True:
            match = _space.match(self.text, self.position)
            self.position = match.end() if match else self.position
            if self.position < len(self.text):
                return self.text[self.position]
            if not self.more():
                return ""

    def value(self) -> object:
        size = CHUNK_BYTES
        while True:
            try:
                value, end = _decode(self.text, self.position)
                # A number that touches the end of the window, or stops short of it at a cut fraction or exponent
                # ("1." or "1e+"), may go on behind it.
                whole = isinstance(value, (dict, list, str)) or not _cut_number.fullmatch(self.text, end)
                if whole or not self.more(size):
                    self.position = end
                    return value
            except json.JSONDecodeError as error:
                if self.is_real(error) or not self.more(size):
                    raise
            size *= 2  # an element longer than the window: read on in growing steps

    def is_real(self, error: json.JSONDecodeError) -> bool:
        """False where more text could still repair the failure."""
        return not error.msg.startswith("Unterminated string") and error.pos < len(self.text) - CUT_MARGIN

    def more(self, size: int | None = None) -> bool:
        """Read on, dropping the text before the position; False where the file has ended and none is left."""
        if self.ended:
            return False
        self.line_here()
        self.byte += len(self.text[: self.position].encode())
        self.text = self.text[self.position :]
        self.position = self.counted = 0
        raw = self.file.read(CHUNK_BYTES if size is None else size)
        self.ended = not raw
        try:
            self.text += self.decoder.decode(raw, final=self.ended)
        except UnicodeDecodeError as error:
            self.text += error.object[: error.start].decode("utf-8", "replace")
            self.bad_bytes = f"not UTF-8 ({error.reason})"
            self.ended = True
        return not self.ended or bool(self.text)

    def line_here(self) -> int:
        """The line of the position; what was counted once is not counted again, or reading would be quadratic."""
        self.line += self.text.count("\n", self.counted, self.position)
        self.counted = self.position
        return self.line

    def where(self, position: int | None = None) -> str:
        place = self.position if position is None else position
        line = self.line_here() + self.text.count("\n", self.position, place)
        return f"line {line}, byte {self.byte + len(self.text[:place].encode())}"
